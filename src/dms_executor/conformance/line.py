"""`line`: makes a coroutine function a line of the suite, a plain test that needs no plug-in for asyncio."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from .bench import Bench

__all__ = ["LINE_DEADLINE", "SLOW", "line"]

LINE_DEADLINE = 60.0
"""Seconds after which a line has failed."""

SLOW = float(os.environ.get("DMS_EXECUTOR_SLOW", "1"))
"""How many times slower this machine is than one of one's own: what must not come too soon is told in it."""

_DEBUG = os.environ.get("PYTHONASYNCIODEBUG", "1") != ""  # off where somebody says so: an emulated machine

Line = Callable[..., Awaitable[None]]


def line(
    section: str, *, needs: Iterable[str] = (), lacks: Iterable[str] = ()
) -> Callable[[Line], Callable[..., None]]:
    """A line of that section of the specification, for subjects that have all of `needs` and none of `lacks`."""

    def decorated(work: Line) -> Callable[..., None]:
        def test(bench: Bench, **arguments: Any) -> None:
            with asyncio.Runner(debug=_DEBUG) as runner:
                runner.run(_whole(work, bench, arguments))

        for name in ("__name__", "__qualname__", "__doc__", "__module__"):
            setattr(test, name, getattr(work, name))
        vars(test)["__signature__"] = inspect.signature(work)
        vars(test)["pytestmark"] = list(getattr(work, "pytestmark", []))
        marked: Callable[..., None] = pytest.mark.conformance(needs=set(needs), lacks=set(lacks), section=section)(test)
        return marked

    return decorated


async def _whole(work: Line, bench: Bench, arguments: dict[str, Any]) -> None:
    async with asyncio.timeout(LINE_DEADLINE):
        await bench.open()
        try:
            await work(bench, **arguments)
        except BaseException:
            await _quietly(bench)
            raise
        await bench.clear()


async def _quietly(bench: Bench) -> None:
    """Ends the jobs of a line that has failed; its own failure is what counts."""
    try:
        async with asyncio.timeout(LINE_DEADLINE / 4):
            await bench.clear()
    except Exception as error:  # noqa: BLE001 -- the line's own failure is raised
        print(f"and at the end: {error!r}")
