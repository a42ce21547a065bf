"""What a running job uses now, read from its cgroup: the power `stats`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from ..types import Stats
from .hierarchies import Cgroups

__all__ = ["Gauge", "limit_of", "network_of", "number_in"]

_NOT_COUNTED = ("lo", "tap0")  # the latter leads to a microVM: its bytes are those of the other interface


class Gauge:
    """Remembers the last sample of each job, without which there is no `cpu_percent`."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def forget(self, token: str) -> None:
        self._last.pop(token, None)

    def read(
        self, cgroups: Cgroups, group: str, token: str, *, own_kernel: bool = False, network: str = "none"
    ) -> Stats:
        """`own_kernel`: the tasks that the host counts are not the job's. `network`: of the request. Blocks."""
        numbers = {source.key: _number(source.path, source.field) for source in cgroups.usage(group)}
        cpu = _seconds(numbers)
        received, sent = _network(cgroups.processes(group)) if network == "user" else (None, None)
        return Stats(
            time=datetime.now(UTC),
            cpu_seconds=cpu,
            cpu_percent=self.percent(token, cpu),
            memory_bytes=_first(cgroups, group, "memory.usage_in_bytes", "memory.current"),
            memory_cache_bytes=_first(cgroups, group, "memory.stat", field=("total_cache", "file")),
            memory_limit_bytes=limit_of(_first(cgroups, group, "memory.limit_in_bytes", "memory.max")),
            pids=None if own_kernel else _first(cgroups, group, "pids.current"),
            io_read_bytes=numbers.get("io_read"),
            io_write_bytes=numbers.get("io_write"),
            network_received_bytes=received,
            network_sent_bytes=sent,
        )

    def percent(self, token: str, cpu: float | None) -> float | None:
        """Since its last sample: of one processor."""
        if cpu is None:
            return None
        now = time.monotonic()
        before = self._last.get(token)
        self._last[token] = (now, cpu)
        if before is None or now <= before[0]:
            return None
        return max(0.0, (cpu - before[1]) / (now - before[0]) * 100)


def _seconds(numbers: dict[str, int | None]) -> float | None:
    nanoseconds, microseconds = numbers.get("cpu_ns"), numbers.get("cpu_us")
    if nanoseconds is not None:
        return nanoseconds / 1e9
    return microseconds / 1e6 if microseconds is not None else None


def _network(pids: set[int]) -> tuple[int | None, int | None]:
    """Of the interface that the network program has, as a process of the job sees it: proc(5), `/proc/pid/net/dev`."""
    for pid in sorted(pids):
        try:
            lines = Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines()[2:]
        except OSError:
            continue  # it has ended
        if (counted := network_of(lines)) != (
            None,
            None,
        ):  # runsc's helper beside the sandbox is in a namespace without any
            return counted
    return None, None


def network_of(lines: list[str]) -> tuple[int | None, int | None]:
    """Received and sent, of all interfaces but loopback: `/proc/pid/net/dev` without its head."""
    named = [(name.strip(), fields.split()) for name, _, fields in (line.partition(":") for line in lines)]
    counted = [fields for name, fields in named if name not in _NOT_COUNTED]
    if not counted:
        return None, None
    return sum(int(fields[0]) for fields in counted), sum(int(fields[8]) for fields in counted)


def limit_of(value: int | None) -> int | None:
    """None where there is none."""
    return value if value is not None and value < 2**62 else None  # version 1 writes nearly 2^63 for none


def _first(cgroups: Cgroups, group: str, *files: str, field: tuple[str, ...] = ("",)) -> int | None:
    for folder in cgroups.folders(group):
        for file in files:
            for name in field:
                number = _number(f"{folder}/{file}", name)
                if number is not None:
                    return number
    return None


def _number(path: str, field: str) -> int | None:
    """Of a file, None where there is none."""
    try:
        return number_in(Path(path).read_text(encoding="ascii"), path, field)
    except (OSError, UnicodeDecodeError):
        return None


def number_in(text: str, path: str, field: str) -> int | None:
    """The first number of a file of that name, or the sum of those that follow the word `field`."""
    words = text.replace("=", " ").split()
    if path.endswith("/io.stat") and field not in words:
        return 0  # it has a line for each device that was used
    if not field:
        return int(words[0]) if words and words[0].isdecimal() else None
    found = [int(value) for word, value in pairwise(words) if word == field and value.isdecimal()]
    return sum(found) if found else None
