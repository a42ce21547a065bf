"""A pytest plug-in for a machine that is some times slower: what tests wait for is multiplied by DMS_EXECUTOR_SLOW.

Only what tests and the conformance suite wait for; the deadlines of the package itself are what is tested.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

_FACTOR = float(os.environ.get("DMS_EXECUTOR_SLOW", "1"))
_TESTS = ("tests.", "dms_executor.conformance")


def pytest_configure() -> None:
    asyncio.timeout = _stretched(asyncio.timeout, 0)
    asyncio.wait_for = _stretched(asyncio.wait_for, 1)


def _stretched(function: Callable[..., Any], position: int) -> Callable[..., Any]:
    def stretched(*arguments: Any, **named: Any) -> Any:
        if sys._getframe(1).f_globals.get("__name__", "").startswith(_TESTS):
            words = list(arguments)
            if len(words) > position and words[position] is not None:
                words[position] *= _FACTOR
            elif named.get("timeout") is not None:
                named["timeout"] *= _FACTOR
            return function(*words, **named)
        return function(*arguments, **named)

    return stretched
