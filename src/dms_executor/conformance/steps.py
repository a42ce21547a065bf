"""What a job of the suite does, said without an engine's own words: a sequence of steps, then exit 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..types import Stream

__all__ = [
    "Die",
    "Exit",
    "Failure",
    "Flood",
    "Forever",
    "Ignore",
    "OutOfMemory",
    "Raw",
    "Say",
    "Shell",
    "Stdin",
    "Step",
    "Trap",
    "Variable",
]

Failure = Literal["image", "command"]
"""How a start fails: the image or the command is missing."""


@dataclass(frozen=True)
class Say:
    """Writes a line of text."""

    text: str
    stream: Stream = "stdout"


@dataclass(frozen=True)
class Raw:
    """Writes bytes to stdout, exactly these."""

    data: bytes


@dataclass(frozen=True)
class Flood:
    """Writes `lines` lines of 100 bytes to stdout: the number, right-aligned with zeros, and a newline."""

    lines: int


@dataclass(frozen=True)
class Stdin:
    """Copies stdin to stdout, to its end."""


@dataclass(frozen=True)
class Variable:
    """Writes an environment variable and a newline."""

    name: str


@dataclass(frozen=True)
class Trap:
    """From here on the signal (TERM, USR1) makes the job exit with `code`."""

    signal: str
    code: int


@dataclass(frozen=True)
class Ignore:
    """From here on the signal does nothing."""

    signal: str


@dataclass(frozen=True)
class Forever:
    """Never ends by itself, uses no CPU, and obeys signals."""


@dataclass(frozen=True)
class Exit:
    """Ends with a code."""

    code: int


@dataclass(frozen=True)
class Die:
    """Ends by a signal that the job sends to itself."""

    signal: str


@dataclass(frozen=True)
class OutOfMemory:
    """The main process uses more memory than the limit, until the kernel kills it."""


@dataclass(frozen=True)
class Shell:
    """Lines of POSIX shell, for subjects with the trait `shell`."""

    script: str


Step = Say | Raw | Flood | Stdin | Variable | Trap | Ignore | Forever | Exit | Die | OutOfMemory | Shell
