"""What a trial of a monitor has shown: that a guest runs is seen once by a process, of the same program and KVM.

That none does may pass: whoever opens an executor later tries again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["tried"]

_KVM = "/dev/kvm"
_MOST = 64
_ran: set[tuple[object, ...]] = set()


def tried(program: str, trial: Callable[[], str], *more: str) -> str:
    """What `trial` says of `program`, with `more` that it is about: why no guest runs; empty: one ran. Blocks."""
    key = (_identity(program), _identity(_KVM), *more)
    if key in _ran:
        return ""
    said = trial()
    if not said:
        if len(_ran) >= _MOST:
            _ran.clear()
        _ran.add(key)
    return said


def _identity(path: str) -> tuple[object, ...]:
    """A node of a device is another one once its driver was loaded again."""
    try:
        status = Path(path).stat()
    except OSError as error:
        return (path, error.errno)
    return (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
