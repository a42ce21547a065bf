"""What a job of the in-memory engine does: a script of steps, each a line of text."""

from __future__ import annotations

import base64
import re
from typing import Literal

import msgspec

from ..errors import InvalidRequest
from ..types import SpecConfig, signal_number

__all__ = ["MemorySettings", "MemorySpec", "Step", "parse"]

Verb = Literal[
    "echo", "print", "error", "bytes", "sleep", "exit", "kill", "trap", "oom", "lose", "forever", "env", "cat", "flood"
]
_VERBS: tuple[Verb, ...] = Verb.__args__  # type: ignore[attr-defined]
_FORM = re.compile(r"(\w+)(?: (.*))?", re.DOTALL)


class MemorySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Params of the in-memory engine.

    `script` is run step by step: `echo TEXT` and `print TEXT` write to stdout with and without a newline, `error TEXT`
    a line to stderr, `bytes BASE64` raw bytes to stdout, `flood N` N lines of 100 bytes; `sleep SECONDS`, `forever`;
    `env NAME` writes a variable, `cat` writes stdin; `trap SIGNAL CODE` exits with CODE at that signal (-1:
    ignores it); `exit CODE`,
    `kill SIGNAL`, `oom`, `lose` end the job. Without an end it exits 0. `prepare`: seconds that the preparation takes;
    `fail`: the preparation or the start fails.
    """

    script: list[str] = []
    prepare: float = 0.0
    fail: Literal["", "prepare", "create", "start"] = ""

    def build(self) -> SpecConfig:
        """The spec for a request."""
        return SpecConfig(type="memory", params=msgspec.to_builtins(self))


class MemorySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the in-memory engine: its capacity in cores, bytes and tasks."""

    cpu: float = 4.0
    memory: int = 2**30
    pids: int = 10_000


class Step(msgspec.Struct, frozen=True):
    """One step of a script."""

    verb: Verb
    text: str

    @property
    def data(self) -> bytes:
        """What the step writes, if it writes a constant."""
        if self.verb == "bytes":
            return base64.b64decode(self.text)
        return self.text.encode() + (b"" if self.verb == "print" else b"\n")


def parse(script: list[str]) -> list[Step]:
    """The steps of a script. Raises `InvalidRequest`."""
    return [_step(index, line) for index, line in enumerate(script)]


def _step(index: int, line: str) -> Step:
    path = f"$.engine_spec.params.script[{index}]"
    match = _FORM.fullmatch(line)
    if match is None or match[1] not in _VERBS:
        raise InvalidRequest(f"{line!r} is no step", path=path, mend=f"Steps are: {', '.join(_VERBS)}")
    step = Step(next(verb for verb in _VERBS if verb == match[1]), match[2] or "")
    try:
        _check(step)
    except ValueError as error:
        raise InvalidRequest(f"{line!r}: {error}", path=path, mend="See the documentation of MemorySpec") from error
    return step


def _check(step: Step) -> None:
    if step.verb == "sleep":
        float(step.text)
    elif step.verb in ("exit", "flood"):
        int(step.text)
    elif step.verb == "bytes":
        base64.b64decode(step.text, validate=True)
    elif step.verb == "kill":
        signal_number(step.text)
    elif step.verb == "trap":
        name, code = step.text.split(" ")
        signal_number(name)
        int(code)
