"""Times as people write and read them: `10m`, `2h30m`, `3 minutes`."""

from __future__ import annotations

import re
from datetime import datetime

import click

__all__ = ["ago", "seconds", "since"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FORM = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = ((86400 * 7, "week"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def since(text: str) -> float | str:
    """Seconds back (`90`, `10m`, `2h30m`) or an ISO time, in local time where it names no zone."""
    try:
        return float(text)
    except ValueError:
        pass
    if _FORM.fullmatch(text):
        return _seconds(text)
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no time: use 90, 10m, 2h or 2026-01-31T12:00:00Z") from error


def seconds(text: str) -> float:
    """Seconds, plain or with units: 90, 1.5, 10m, 2h30m. The type of an option."""
    try:
        return _seconds(text) if _FORM.fullmatch(text) else float(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no duration: use 90, 1.5, 10m or 2h30m") from error


def _seconds(text: str) -> float:
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def ago(seconds: float) -> str:
    """`3 minutes`: how long something takes or took, in its biggest unit of which there are two, as docker has it."""
    for size, name in _UNITS:
        count = int(seconds // size)
        if count >= (2 if size > 1 else 1):
            return f"{count} {name}" + ("s" if count != 1 else "")
    return "less than a second"
