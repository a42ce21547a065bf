"""What kernels and their modules are compressed with. All functions block.

LZ4 and Zstandard are not in this Python's library: the shared libraries are used that apt itself depends on.
"""

from __future__ import annotations

import bz2
import ctypes
import lzma
import struct
import zlib
from functools import cache

from ..errors import EngineUnavailable

__all__ = ["Corrupt", "decompress", "is_compressed"]

# The kernel's own choice of compressors, by how their output begins. LZO is missing: no distribution ships it.
_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"
_LZMA, _LZ4, _ZSTD = b"\x5d\0\0", b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd"
_MAGIC = (_GZIP, _BZIP2, _XZ, _LZMA, _LZ4, _ZSTD)

# https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md, "Legacy frame"
_LZ4_BLOCK = 8 << 20


class Corrupt(ValueError):
    """The data is damaged, larger than allowed, or of no known format."""


def is_compressed(data: bytes) -> bool:
    """Whether it begins as one of the known formats."""
    return data.startswith(_MAGIC)


def decompress(data: bytes, limit: int) -> bytes:
    """The content, at most `limit` bytes of it; what follows the end of the compressed data is ignored.

    Raises `Corrupt`, `EngineUnavailable` (a shared library is missing).
    """
    if data.startswith(_LZ4):
        return _lz4(data, limit)
    if data.startswith(_ZSTD):
        return _zstd(data, limit)
    try:
        return _by_library(data, limit)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise Corrupt(f"damaged: {error}") from error


def _by_library(data: bytes, limit: int) -> bytes:
    if data.startswith(_GZIP):
        inflate = zlib.decompressobj(31)
        content = inflate.decompress(data, limit)
        ended = inflate.eof
    elif data.startswith(_BZIP2):
        bzip = bz2.BZ2Decompressor()
        content = bzip.decompress(data, limit)
        ended = bzip.eof
    elif data.startswith((_XZ, _LZMA)):
        xz = lzma.LZMADecompressor()
        content = xz.decompress(data, limit)
        ended = xz.eof
    else:
        raise Corrupt(f"compressed by nothing that is known here (it begins with {data[:6].hex()})")
    if not ended:
        raise Corrupt(f"cut off, or larger than {limit} bytes")
    return content


@cache
def _library(name: str, package: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise EngineUnavailable(
            f"the shared library {name} is missing, and a kernel here is compressed with it",
            mend=f"apt-get install {package}",
        ) from error


def _lz4(data: bytes, limit: int) -> bytes:
    """The legacy frame, which is what the kernel's build makes: blocks, each with its length before it."""
    library = _library("liblz4.so.1", "liblz4-1")
    room = ctypes.create_string_buffer(_LZ4_BLOCK)
    content = bytearray()
    at = len(_LZ4)
    while at + 4 < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        block = data[at + 4 : at + 4 + length]
        at += 4 + length
        got = library.LZ4_decompress_safe(block, room, len(block), _LZ4_BLOCK) if len(block) == length else -1
        if got < 0 or len(content) + got > limit:
            raise Corrupt(f"damaged, or larger than {limit} bytes")
        content += memoryview(room)[:got]
        if got < _LZ4_BLOCK:
            return bytes(content)  # what follows is the size that the kernel's build appends
    return bytes(content)


def _zstd(data: bytes, limit: int) -> bytes:
    library = _library("libzstd.so.1", "libzstd1")
    for name in ("ZSTD_findFrameCompressedSize", "ZSTD_decompress"):
        getattr(library, name).restype = ctypes.c_size_t
    library.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong
    frame = library.ZSTD_findFrameCompressedSize(data, ctypes.c_size_t(len(data)))
    if library.ZSTD_isError(ctypes.c_size_t(frame)):
        raise Corrupt("damaged")
    # A frame whose size is not said, or a damaged one: the two last values of the type.
    said: int = library.ZSTD_getFrameContentSize(data, ctypes.c_size_t(len(data)))
    size = limit if said >= 2**64 - 2 else said
    if size > limit:
        raise Corrupt(f"larger than {limit} bytes")
    room = ctypes.create_string_buffer(max(size, 1))
    got = library.ZSTD_decompress(room, ctypes.c_size_t(size), data, ctypes.c_size_t(frame))
    if library.ZSTD_isError(ctypes.c_size_t(got)):
        raise Corrupt(f"damaged, or larger than {limit} bytes")
    return bytes(memoryview(room)[:got])
