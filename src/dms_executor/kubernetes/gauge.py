"""What a job in a pod uses now: its control group's files, as it sees them itself. The power `stats`.

A cluster's own metrics (metrics.k8s.io) are rates of the last quarter of a minute, where they are there at all.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC, datetime

from ..cgroups.gauge import Gauge as Percents
from ..cgroups.gauge import limit_of, network_of, number_in
from ..types import Stats

__all__ = ["FILES", "Gauge", "contents"]

_GROUP = "/sys/fs/cgroup"
_NETWORK = "/proc/self/net/dev"
_NO_FILE = 2**32 - 1
# By what they tell, version 2 first: https://docs.kernel.org/admin-guide/cgroup-v2.html; version 1 by controller.
_SOURCES: dict[str, tuple[tuple[str, str], ...]] = {
    "cpu_us": (("cpu.stat", "usage_usec"),),
    "cpu_ns": (("cpuacct/cpuacct.usage", ""), ("cpu,cpuacct/cpuacct.usage", "")),
    "memory": (("memory.current", ""), ("memory/memory.usage_in_bytes", "")),
    "cache": (("memory.stat", "file"), ("memory/memory.stat", "total_cache")),
    "limit": (("memory.max", ""), ("memory/memory.limit_in_bytes", "")),
    "pids": (("pids.current", ""), ("pids/pids.current", "")),
    "read": (("io.stat", "rbytes"), ("blkio/blkio.throttle.io_service_bytes", "Read")),
    "write": (("io.stat", "wbytes"), ("blkio/blkio.throttle.io_service_bytes", "Write")),
}
FILES = (*dict.fromkeys(f"{_GROUP}/{file}" for files in _SOURCES.values() for file, _ in files), _NETWORK)


def contents(data: bytes) -> dict[str, str]:
    """What `dms-pod` read of `FILES`: each file's length before it, all ones where there is none."""
    found: dict[str, str] = {}
    at = 0
    for path in FILES:
        if len(data) < at + 4:
            break
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if length != _NO_FILE:
            found[path] = data[at : at + length].decode("ascii", "replace")
            at += length
    return found


class Gauge(Percents):
    """Remembers the last sample of each job, without which there is no `cpu_percent`."""

    def sample(self, token: str, files: Mapping[str, str]) -> Stats:
        """Out of `contents`."""
        numbers = {key: _number(files, key) for key in _SOURCES}
        microseconds, nanoseconds = numbers["cpu_us"], numbers["cpu_ns"]
        cpu = microseconds / 1e6 if microseconds is not None else None
        cpu = nanoseconds / 1e9 if cpu is None and nanoseconds is not None else cpu
        received, sent = network_of(files.get(_NETWORK, "").splitlines()[2:])
        return Stats(
            time=datetime.now(UTC),
            cpu_seconds=cpu,
            cpu_percent=self.percent(token, cpu),
            memory_bytes=numbers["memory"],
            memory_cache_bytes=numbers["cache"],
            memory_limit_bytes=limit_of(numbers["limit"]),
            pids=numbers["pids"],
            io_read_bytes=numbers["read"],
            io_write_bytes=numbers["write"],
            network_received_bytes=received,
            network_sent_bytes=sent,
        )


def _number(files: Mapping[str, str], key: str) -> int | None:
    for file, field in _SOURCES[key]:
        path = f"{_GROUP}/{file}"
        if path in files and (number := number_in(files[path], path, field)) is not None:
            return number
    return None
