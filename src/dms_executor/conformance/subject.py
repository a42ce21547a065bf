"""`Subject`: all that the suite must be told of an engine. An author of an engine gives one."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from ..engine import Engine
from ..policy import Policy
from ..registry import register
from ..testing import MemorySpec
from ..types import ExecutionInfo, Settings, SpecConfig
from .steps import (
    Die,
    Exit,
    Failure,
    Flood,
    Forever,
    Ignore,
    OutOfMemory,
    Raw,
    Say,
    Shell,
    Stdin,
    Step,
    Trap,
    Variable,
)

__all__ = ["TRAITS", "MemorySubject", "Subject"]

TRAITS = {
    "shell": "jobs are processes that run POSIX shell (`Shell` steps)",
    "container": "jobs have a root, users and a process tree of their own",
    "users": "a further command may have another user than the job",
    "named_users": "the user of a job may be a name that its image knows",
    "cut_off": "a job without a network sees no interface but its own loopback",
    "shared_kernel": "a job's processes are the host kernel's: one that is out of memory takes the others not along",
    "own_figures": "what `stats` counts is the job's, not that of a machine around it",
    "volumes": "inputs, outputs, results_dir and stdin_file",
    "survives_caller": "jobs run on when their caller is killed, and every process can reach them",
    "supervisor": "`supervisor(info)` gives the process of the engine's whose death loses the job",
    "no_image": "`failing('image')` gives a spec whose image is missing",
    "no_command": "`failing('command')` gives a spec whose command is missing",
    "device": "`device()` gives a character device that the policy allows and anybody may write to",
    "slow_preparation": "`slow()` gives a spec whose preparation takes an hour",
}
"""What a line may need beyond the capabilities that the engine's probe declares."""


class Subject(ABC):
    """An engine under test. It must pickle: some lines open a second process on the same state folder.

    `engine` is the engine's name, `title` stands in the ids of the tests, `traits` are words of `TRAITS`.
    `engine_class` is registered before use where no entry point is installed.
    """

    engine: ClassVar[str]
    traits: ClassVar[frozenset[str]] = frozenset()
    engine_class: ClassVar[type[Engine] | None] = None

    @property
    def title(self) -> str:
        """The name of this subject in tests and tables."""
        return self.engine

    def __str__(self) -> str:
        return self.title

    def register(self) -> None:
        """Makes the engine known to this process."""
        if self.engine_class is not None:
            register(self.engine_class)

    def settings(self) -> Settings:
        """The executor's settings, `Settings.engines` among them."""
        return Settings()

    def policy(self, folder: Path) -> Policy:
        """The policy of the lines; requests name host paths beneath `folder`."""
        return Policy(read_roots=(folder,), write_roots=(folder,), missing_defaults="record")

    @abstractmethod
    def spec(self, *steps: Step) -> SpecConfig:
        """The engine's spec of a job that does these steps, then exits 0."""

    def failing(self, how: Failure) -> SpecConfig:
        """A spec whose start fails; for the traits `no_image` and `no_command`."""
        raise NotImplementedError(how)

    def slow(self) -> SpecConfig:
        """A spec whose preparation takes an hour; for the trait `slow_preparation`."""
        raise NotImplementedError

    def device(self) -> tuple[str, str]:
        """A device's name and its path inside; for the trait `device`."""
        raise NotImplementedError

    def supervisor(self, info: ExecutionInfo) -> int:
        """The pid of what holds a running job; for the trait `supervisor`."""
        raise NotImplementedError

    def leftovers(self, tokens: list[str]) -> list[str]:
        """What is still there outside the state folder of executions that are gone: processes, mounts, cgroups."""
        return []


class MemorySubject(Subject):
    """The in-memory engine of `dms_executor.testing`."""

    engine = "memory"
    traits = frozenset({"no_image", "no_command", "slow_preparation"})

    def spec(self, *steps: Step) -> SpecConfig:
        """A script of `MemorySpec`."""
        return SpecConfig(type=self.engine, params=MemorySpec(script=[_line(step) for step in steps]).build().params)

    def failing(self, how: Failure) -> SpecConfig:
        """The preparation fails, or the start."""
        spec = MemorySpec(fail="prepare" if how == "image" else "start")
        return SpecConfig(type=self.engine, params=spec.build().params)

    def slow(self) -> SpecConfig:
        """A preparation of an hour."""
        return SpecConfig(type=self.engine, params=MemorySpec(prepare=3600.0).build().params)


def _line(step: Step) -> str:
    match step:
        case Say(text, stream):
            return f"{'echo' if stream == 'stdout' else 'error'} {text}"
        case Raw(data):
            return f"bytes {base64.b64encode(data).decode()}"
        case Flood(lines):
            return f"flood {lines}"
        case Stdin():
            return "cat"
        case Variable(name):
            return f"env {name}"
        case Trap(signal, code):
            return f"trap {signal} {code}"
        case Ignore(signal):
            return f"trap {signal} -1"
        case Forever():
            return "forever"
        case Exit(code):
            return f"exit {code}"
        case Die(signal):
            return f"kill {signal}"
        case OutOfMemory():
            return "oom"
        case Shell():
            raise NotImplementedError("this engine has no shell")
