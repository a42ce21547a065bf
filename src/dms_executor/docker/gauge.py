"""What a running container uses now, out of the daemon's figures: the power `stats`.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerStats
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from ..types import Stats

__all__ = ["Gauge"]

_NO_LIMIT = 2**62


class Gauge:
    """Remembers the last sample of each job, without which there is no `cpu_percent`."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def forget(self, token: str) -> None:
        """The job is gone."""
        self._last.pop(token, None)

    def read(self, token: str, raw: dict[str, Any]) -> Stats:
        """One sample as ours."""
        memory = raw.get("memory_stats") or {}
        detail = memory.get("stats") or {}
        cpu = (raw.get("cpu_stats") or {}).get("cpu_usage", {}).get("total_usage")
        seconds = None if cpu is None else cpu / 1e9
        networks = list((raw.get("networks") or {}).values())
        limit = memory.get("limit")
        return Stats(
            time=datetime.now(UTC),
            cpu_seconds=seconds,
            cpu_percent=self._percent(token, seconds),
            memory_bytes=memory.get("usage"),
            memory_cache_bytes=detail.get("total_cache", detail.get("file")),
            memory_limit_bytes=limit if limit is not None and limit < _NO_LIMIT else None,
            pids=(raw.get("pids_stats") or {}).get("current"),
            io_read_bytes=_io(raw, "read"),
            io_write_bytes=_io(raw, "write"),
            network_received_bytes=sum(one["rx_bytes"] for one in networks) if networks else None,
            network_sent_bytes=sum(one["tx_bytes"] for one in networks) if networks else None,
        )

    def _percent(self, token: str, seconds: float | None) -> float | None:
        if seconds is None:
            return None
        now = time.monotonic()
        before = self._last.get(token)
        self._last[token] = (now, seconds)
        if before is None or now <= before[0]:
            return None
        return max(0.0, (seconds - before[1]) / (now - before[0]) * 100)


def _io(raw: dict[str, Any], verb: str) -> int:
    entries = (raw.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    return sum(entry["value"] for entry in entries if entry["op"].casefold() == verb)
