"""Whether somebody may open a file, as the kernel would judge it: for whom nobody can be asked, since we are not them.

https://man7.org/linux/man-pages/man5/acl.5.html, "ACCESS CHECK ALGORITHM"; the attribute's form is the kernel's
include/uapi/linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection

__all__ = ["access_of", "permitted"]

_ACL = "system.posix_acl_access"
_HEADER = struct.calcsize("<I")
_ENTRY = struct.Struct("<HHI")
_NAMED_USER, _OWNING_GROUP, _NAMED_GROUP, _MASK = 0x02, 0x04, 0x08, 0x10
_BITS = {4: "r", 2: "w", 1: "x"}


def access_of(fd: int, uid: int, gids: Collection[int]) -> str:
    """What of "rwx" that user, without a capability, may do with the opened file. Raises OSError. Blocks."""
    try:
        acl = os.getxattr(f"/proc/self/fd/{fd}", _ACL)
    except OSError:
        acl = b""  # it has none, or its file system has no such thing
    return permitted(os.fstat(fd), acl, uid, gids)


def permitted(status: os.stat_result, acl: bytes, uid: int, gids: Collection[int]) -> str:
    """The same of what is known; `acl` empty: it has none."""
    mode = status.st_mode
    if uid == status.st_uid:
        return _named(mode >> 6)
    entries = list(_ENTRY.iter_unpack(acl[_HEADER:]))
    mask = next((bits for tag, bits, _ in entries if tag == _MASK), 7)
    for tag, bits, who in entries:
        if tag == _NAMED_USER and who == uid:
            return _named(bits & mask)
    # With a list of its own the mode's middle bits are the mask.
    owning = next((bits for tag, bits, _ in entries if tag == _OWNING_GROUP), mode >> 3)
    groups = [owning] if status.st_gid in gids else []
    groups += [bits for tag, bits, who in entries if tag == _NAMED_GROUP and who in gids]
    if not groups:
        return _named(mode)
    # The kernel takes the one group that has all that is asked for; what no single group has is not counted.
    return max((_named(bits & mask) for bits in groups), key=len)


def _named(bits: int) -> str:
    return "".join(letter for bit, letter in _BITS.items() if bits & bit)
