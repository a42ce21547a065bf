"""The kernel that a distribution's `vmlinuz` holds, as a VMM takes it: uncompressed.

https://docs.kernel.org/arch/x86/boot.html: header and `payload_offset`; https://docs.kernel.org/arch/arm64/booting.html
"""

from __future__ import annotations

import re
import struct

from .compressed import decompress, is_compressed

__all__ = ["NotAKernel", "is_plain", "kernel_release", "uncompressed"]

LIMIT = 512 << 20  # a generic vmlinux has 60 to 90 MB

_HEADER = 0x1F1  # setup_sects; "HdrS" at 0x202
_SECTOR = 512
_ELF = b"\x7fELF"
_ARM_IMAGE = (0x38, b"ARM\x64")
_MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine: EM_X86_64, EM_AARCH64
_BANNER = re.compile(rb"Linux version ([0-9][!-~]{0,63}) ")


class NotAKernel(ValueError):
    """The file is no kernel, or one for another machine."""


def is_plain(data: bytes, machine: str) -> bool:
    """Whether a VMM takes it as it is. Raises `NotAKernel` for one of another machine."""
    if data.startswith(_ELF) and len(data) >= 20:
        (found,) = struct.unpack_from("<H", data, 18)
        if found != _MACHINES.get(machine):
            raise NotAKernel(f"for another machine than {machine} (ELF e_machine {found})")
        return True
    at, magic = _ARM_IMAGE
    if data[at : at + 4] == magic:
        if machine != "aarch64":
            raise NotAKernel(f"for aarch64, not for {machine}")
        return True
    return False


def uncompressed(data: bytes, machine: str) -> bytes:
    """The kernel in a bzImage (x86_64: its vmlinux) or a compressed Image (aarch64).

    Raises `NotAKernel`, `Corrupt`, `EngineUnavailable`.
    """
    if data[0x202:0x206] == b"HdrS":
        data = _payload(data)
    elif not is_compressed(data):
        raise NotAKernel("neither a bzImage nor a vmlinux")
    content = decompress(data, LIMIT)
    if not is_plain(content, machine):
        raise NotAKernel("compressed, but there is no kernel in it")
    return content


def kernel_release(data: bytes) -> str | None:
    """What `uname -r` says in it; `data` is a bzImage or an uncompressed kernel."""
    if data[0x202:0x206] == b"HdrS":
        (at,) = struct.unpack_from("<H", data, 0x20E)
        text = data[0x200 + at : 0x200 + at + 65] if at else b""
        return text.split(b"\0")[0].split(b" ")[0].decode("ascii", errors="replace") or None
    found = _BANNER.search(data)
    return found[1].decode("ascii") if found else None


def _payload(data: bytes) -> bytes:
    (version,) = struct.unpack_from("<H", data, 0x206)
    if version < 0x208:
        raise NotAKernel(f"a bzImage of boot protocol {version >> 8}.{version & 255:02d}, before 2.08")
    sectors = data[_HEADER] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    begin = (sectors + 1) * _SECTOR + offset
    if length == 0 or begin + length > len(data):
        raise NotAKernel("a bzImage that is cut off")
    return data[begin : begin + length]
