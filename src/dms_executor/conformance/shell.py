"""`ShellSubject`: an engine whose jobs are commands in an image that has a POSIX shell, as busybox gives it."""

from __future__ import annotations

import os
import select
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..policy import Policy
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
from .subject import Subject

__all__ = ["ShellSubject", "script_of"]

_ENDING = 2.0


@dataclass(frozen=True)
class ShellSubject(Subject):
    """An engine with the params `image` and `cmd`. `image` has sh, sleep, cat, printf, awk, dd and setsid, setpriv
    where the kernel's `/proc/self/status` does not tell `NoNewPrivs`, and nc and ip where the engine declares `ports`.

    `engine_settings` are the engine's own; `traits` may be narrowed, or widened by `slow_preparation` where
    `slow_image` is an image whose preparation takes an hour, and by `device` where `devices` is one that the host has:
    its name and its path inside. `network` is one whose ports can be published.
    """

    image: str
    engine: str = "oci"  # type: ignore[misc]
    engine_settings: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    slow_image: str = ""
    devices: tuple[str, str] = ("", "")
    network: str = "user"
    traits: frozenset[str] = frozenset(  # type: ignore[misc]
        {
            *("shell", "container", "users", "shared_kernel", "volumes", "survives_caller", "supervisor"),
            *("named_users", "cut_off", "own_figures"),
            *("no_image", "no_command"),
        }
    )

    @property
    def title(self) -> str:
        """`name`, else the engine's."""
        return self.name or self.engine

    def __str__(self) -> str:
        return self.title

    def settings(self) -> Settings:
        """With the engine's own."""
        return Settings(engines={self.engine: self.engine_settings})

    def policy(self, folder: Path) -> Policy:
        """The image may be read, too."""
        images = [image.partition(":") for image in (self.image, self.slow_image)]
        roots = [path for transport, _, path in images if transport in ("rootfs", "oci")]
        devices = self.devices[:1] if "device" in self.traits else ()
        networks = tuple(dict.fromkeys(("none", "user", self.network)))
        return Policy(
            read_roots=(folder, *roots),
            write_roots=(folder,),
            networks=networks,
            devices=devices,
            missing_defaults="record",
        )

    def spec(self, *steps: Step) -> SpecConfig:
        """`sh -c` with the steps as a script."""
        return self.command("sh", "-c", script_of(*steps))

    def command(self, *argv: str, **params: Any) -> SpecConfig:
        """A command as it is, with further params."""
        return SpecConfig(type=self.engine, params={"image": self.image, "cmd": list(argv), **params})

    def failing(self, how: Failure) -> SpecConfig:
        """No such folder, or no such command."""
        if how == "image":
            return SpecConfig(type=self.engine, params={"image": f"{self.image}-missing", "cmd": ["true"]})
        return self.command("/no/such/command")

    def slow(self) -> SpecConfig:
        """A job in `slow_image`."""
        return SpecConfig(type=self.engine, params={"image": self.slow_image, "cmd": ["true"]})

    def device(self) -> tuple[str, str]:
        """As it was given."""
        return self.devices

    def supervisor(self, info: ExecutionInfo) -> int:
        """The shim, as the engine names it in `inspect`."""
        return int(info.engine_ids["shim"])

    def leftovers(self, tokens: list[str]) -> list[str]:
        """Processes that name a token in command line, cgroup or mounts, and cgroups that bear one."""
        if not tokens:
            return []
        found: list[str] = []
        mounts: dict[object, bytes] = {}
        for process in Path("/proc").glob("[0-9]*"):
            text = _content(process / "cmdline") + _content(process / "cgroup") + _mounts(process, mounts)
            bears = [token for token in tokens if token.encode() in text]
            if bears and not _ends(int(process.name)):
                found.append(f"process {process.name} of {bears[0]}")
        # os.walk passes over a cgroup that goes meanwhile.
        for folder, names, _ in os.walk("/sys/fs/cgroup"):
            found += [f"cgroup {folder}/{name}" for name in names if any(token in name for token in tokens)]
        return found


def script_of(*steps: Step) -> str:
    """The steps as a POSIX shell script."""
    return "\n".join([*map(_line, steps), "exit 0"])


def _line(step: Step) -> str:
    match step:
        case Say(text, stream):
            return f"printf '%s\\n' {shlex.quote(text)}{'' if stream == 'stdout' else ' >&2'}"
        case Raw(data):
            return f"printf '{''.join(f'{chr(92)}{byte:03o}' for byte in data)}'"
        case Flood(lines):
            return f"awk 'BEGIN {{ for (i = 0; i < {lines}; i++) printf \"%099d\\n\", i }}'"
        case Stdin():
            return "cat"
        case Variable(name):
            return f'printf "%s\\n" "${name}"'
        case Trap(signal, code):
            return f"trap 'exit {code}' {signal}"
        case Ignore(signal):
            return f"trap '' {signal}"
        case Forever():
            return "while :; do sleep 100000 & wait $!; done"
        case Exit(code):
            return f"exit {code}"
        case Die(signal):
            return f"kill -{signal} $$"
        case OutOfMemory():
            return "exec dd if=/dev/zero of=/dev/null bs=512M count=1"
        case Shell(script):
            return script


def _ends(pid: int) -> bool:
    """Whether a process that was told to end does so: a runtime may outlive its container by a moment."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ended, _, _ = select.select([pidfd], [], [], _ENDING)
        return bool(ended)
    finally:
        os.close(pidfd)


def _mounts(process: Path, seen: dict[object, bytes]) -> bytes:
    """What it sees of mounts. Those that see the same are asked once: a host may have hundreds, and as many mounts."""
    try:
        root = (process / "root").stat()
        view = ((process / "ns/mnt").stat().st_ino, root.st_dev, root.st_ino)
    except OSError:  # it has ended meanwhile, or is somebody else's
        return _content(process / "mountinfo")
    if view not in seen:
        seen[view] = _content(process / "mountinfo")
    return seen[view]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended meanwhile
        return b""
