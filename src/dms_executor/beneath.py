"""`openat2`: a path resolved beneath an opened folder, by the kernel and not as text.

A check of a path's text lets a symlink, a `..` or a swap between check and use through. `openat2(2)` resolves and
checks in one step: https://man7.org/linux/man-pages/man2/openat2.2.html
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

__all__ = ["NO_SYMLINKS", "inside_root", "open_beneath", "open_in_root", "open_regular"]

_SYS_OPENAT2 = 437  # the same number on every architecture
_NO_MAGICLINKS = 0x02
_NO_SYMLINKS = 0x04
_BENEATH = 0x08
_IN_ROOT = 0x10
NO_SYMLINKS = _NO_SYMLINKS

# With a `..` and a rename elsewhere at the same time the kernel cannot tell and says EAGAIN: ask again.
_TRIES = 64

_call: Any = None


def open_beneath(folder: int, path: bytes, flags: int = os.O_PATH, *, mode: int = 0, resolve: int = 0) -> int:
    """Opens `path` beneath the opened `folder`. OSError: EXDEV leaves it, ELOOP a magic link, ENOSYS an old kernel."""
    return _openat2(folder, path, flags, mode, _BENEATH | _NO_MAGICLINKS | resolve)


def open_in_root(folder: int, path: bytes, flags: int = os.O_PATH, *, resolve: int = 0) -> int:
    """Opens `path` as a process would whose root is `folder`: absolute symlinks and `..` stay inside."""
    return _openat2(folder, path, flags, 0, _IN_ROOT | _NO_MAGICLINKS | resolve)


def open_regular(folder: int, path: bytes, *, in_root: bool = False) -> int:
    """Opens a regular file for reading. OSError: EINVAL, it is something else.

    Looked at before it is opened: a FIFO would hold us, and opening a device may already do something (a watchdog
    starts, a tape rewinds). `in_root`: as `open_in_root`, else as `open_beneath`.
    """
    found = open_in_root(folder, path) if in_root else open_beneath(folder, path)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)


def inside_root(folder: int, path: str, limit: int = 1 << 20) -> bytes | None:
    """The first `limit` bytes of a regular file in the root `folder`; None where there is none."""
    try:
        with open(open_regular(folder, os.fsencode(path), in_root=True), "rb") as file:
            return file.read(limit)
    except OSError:
        return None


def _openat2(folder: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    call, how = _syscall(flags | os.O_CLOEXEC, mode, resolve)
    import ctypes

    for _ in range(_TRIES):
        fd = int(call(_SYS_OPENAT2, folder, path, ctypes.byref(how), ctypes.sizeof(how)))
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), os.fsdecode(path))


def _syscall(flags: int, mode: int, resolve: int) -> tuple[Any, Any]:
    global _call
    import ctypes  # 3 ms to import: not at start-up

    if _call is None:
        function = ctypes.CDLL(None, use_errno=True).syscall
        function.restype = ctypes.c_long
        function.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
        _call = function
    how = (ctypes.c_uint64 * 3)(flags, mode, resolve)
    return _call, how
