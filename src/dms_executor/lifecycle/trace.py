"""Each call to an engine, with its duration, in the package's own log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .live import Live

__all__ = ["traced"]

_log = logging.getLogger(__name__)


@contextmanager
def traced(live: Live, call: str) -> Iterator[None]:
    """Logs at DEBUG how long a call took, however it ended."""
    began = time.perf_counter()
    try:
        yield
    finally:
        took = (time.perf_counter() - began) * 1e3
        _log.debug("%s took %.2f ms", call, took, extra={"execution_id": live.x.id, "engine": live.engine.name})
