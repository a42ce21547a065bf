"""The rate of this machine's time stamp counter, which an emulated guest sees unscaled.

A guest measures it by a timer, which fails on a busy host: then its processor spins for ever. So it is told.
https://www.kernel.org/doc/html/latest/admin-guide/kernel-parameters.html (tsc_early_khz)
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import time
from collections.abc import Callable
from functools import cache

__all__ = ["tsc_khz"]

_READ = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"  # rdtsc; shl rdx, 32; or rax, rdx; ret
_SAMPLE = 0.05
_TRIES = 20


@cache
def tsc_khz() -> int | None:
    """None where there is no such counter. Blocks for a twentieth of a second at the first call."""
    if platform.machine() != "x86_64":
        return None
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_READ)
    held = ctypes.c_char.from_buffer(code)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(held))
    first, began = _together(read)
    time.sleep(_SAMPLE)
    last, ended = _together(read)
    del held
    code.close()
    return int((last - first) * 1_000_000 // (ended - began))


def _together(read: Callable[[], int]) -> tuple[int, int]:
    """The counter and the nanosecond at which it was read: of some tries the one that nothing came between."""
    best = (1 << 62, 0, 0)
    for _ in range(_TRIES):
        before, ticks, after = time.monotonic_ns(), read(), time.monotonic_ns()
        best = min(best, (after - before, ticks, (before + after) // 2))
    return best[1:]
