"""How much an image's layers hold, found out before anything of them is written.

What unpacks them bounds nothing: a few megabytes can be a terabyte of zeros, or a file system's last inode. So each
layer's tar headers are read once (https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html,
https://www.gnu.org/software/tar/manual/html_node/Standard.html), and nothing else of it is looked at.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import ImageNotFound, ImagePullFailed
from .limits import ImageLimits

__all__ = ["Measure", "archive_type", "check_announced"]

_BLOCK = 512
_PIECE = 1 << 20
_HEADER_MOST = 1 << 20  # of a pax header, as GNU tar and Go have it
_FREE = 1 << 30  # bytes up to which nobody asks how far a layer expands
_PAX = b"x"
_END = 2  # blocks of zeros
_SIZES = (b"size", b"GNU.sparse.size", b"GNU.sparse.realsize")
_COMPRESSED = {b"\x1f\x8b": "+gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_PLAIN, _GZIP = ("tar", "rootfs.diff.tar"), ("+gzip", ".gzip", ".gz")


def check_announced(sizes: list[int], limits: ImageLimits, image: str) -> None:
    """What a manifest says of its compressed layers, before they are fetched. Raises `ImagePullFailed`."""
    if sum(max(size, 0) for size in sizes) > limits.size:
        raise _too_much(image, f"its layers are more than {limits.size} bytes", "size")


def archive_type(archive: Path) -> str:
    """The media type of an archive of an image, by its first bytes. Blocks."""
    with archive.open("rb") as file:
        magic = file.read(6)
    for begin, name in _COMPRESSED.items():
        if magic.startswith(begin):
            return name
    return "tar"


class Measure:
    """Of one image: `add` each layer. `stop` from another thread ends it."""

    def __init__(self, limits: ImageLimits, image: str) -> None:
        self._limits = limits
        self._image = image
        self._entries = 0
        self._bytes = 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Whoever adds finds a `ImagePullFailed`."""
        self._stopped.set()

    def add(self, layer: Path, media_type: str) -> None:
        """Raises `ImagePullFailed` over a limit, `ImageNotFound` for what is no layer. Blocks."""
        compressed = layer.stat().st_size
        own = 0
        counted = _Headers()
        try:
            for piece in _unpacked(layer, media_type, self._image):
                if self._stopped.is_set():
                    raise ImagePullFailed(f"image {self._image!r} is wanted no more")
                own += len(piece)
                counted.feed(piece)
                self._check(own + counted.holes, counted.entries, compressed)
        except zlib.error as error:
            raise _damaged(self._image, f"a layer cannot be uncompressed ({error})") from error
        except ValueError as error:
            raise _damaged(self._image, f"a layer is no tar archive ({error})") from error
        self._bytes += own + counted.holes
        self._entries += counted.entries

    def _check(self, size: int, entries: int, compressed: int) -> None:
        limits = self._limits
        if self._entries + entries > limits.entries:
            raise _too_much(self._image, f"it has more than {limits.entries:,} entries", "entries")
        if self._bytes + size > limits.size:
            raise _too_much(self._image, f"it is more than {limits.size} bytes unpacked", "size")
        if size > _FREE and size > limits.expansion * compressed:
            raise _too_much(self._image, f"a layer is more than {limits.expansion} times its own size", "expansion")


class _Headers:
    """Counts what a tar stream, fed piece by piece, would make."""

    def __init__(self) -> None:
        self.entries = 0
        self.holes = 0
        """Bytes that sparse files have beyond what the stream holds: they are written as zeros."""
        self._rest = b""
        self._skip = 0
        self._announced: dict[bytes, int] = {}
        self._pax: int | None = None
        self._zeros = 0

    def feed(self, piece: bytes) -> None:
        """Raises `ValueError` for what is no header."""
        if self._zeros == _END:
            return
        data = self._rest + piece if self._rest else piece
        at, end = 0, len(data)
        while True:
            if self._skip:
                step = min(self._skip, end - at)
                at, self._skip = at + step, self._skip - step
                if self._skip:
                    break
            need = _BLOCK if self._pax is None else _padded(self._pax)
            if end - at < need:
                break
            if self._pax is None:
                self._header(data, at)
                if self._zeros == _END:
                    break
            else:
                self._announced.update(_records(data[at : at + self._pax]))
                self._pax = None
            at += need
        self._rest = data[at:]

    def _header(self, data: bytes, at: int) -> None:
        kind = data[at + 156 : at + 157]
        if kind == b"\0" and not data[at : at + _BLOCK].strip(b"\0"):
            self._zeros += 1
            return
        self._zeros = 0
        size = _number(data[at + 124 : at + 136])
        if kind == _PAX and size <= _HEADER_MOST:
            self._pax = size
            return
        if kind in b"xgLK" and kind:
            self._skip = _padded(size)
            return
        announced, self._announced = self._announced, {}
        stored = announced.get(b"size", size)
        whole = max([stored, *announced.values()])
        if kind == b"S":
            whole = max(whole, _number(data[at + 483 : at + 495]))
            self._skip_sparse_maps(data[at + 482])
        self.entries += 1
        self.holes += max(0, whole - stored)
        if kind not in b"123456" or kind == b"":
            self._skip += _padded(stored)

    def _skip_sparse_maps(self, goes_on: int) -> None:
        """More maps than fit the header stand in blocks of their own; none that is used writes them."""
        if goes_on:
            raise ValueError("a sparse file of more than four pieces")


def _unpacked(layer: Path, media_type: str, image: str) -> Iterator[bytes]:
    if media_type.endswith(_GZIP):
        yield from _gunzipped(layer)
    elif media_type.endswith(_PLAIN) or not media_type:
        with layer.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    else:
        raise ImageNotFound(
            f"image {image!r} has an archive of the type {media_type[:100]!r}, which is not known here",
            mend="Make it with gzip (skopeo copy --dest-compress-format gzip), or uncompressed",
        )


def _gunzipped(layer: Path) -> Iterator[bytes]:
    """Members may follow each other (RFC 1952, section 2.2)."""
    with layer.open("rb") as file:
        member = zlib.decompressobj(wbits=31)
        fresh = True
        data = file.read(_PIECE)
        while data:
            piece = member.decompress(data, _PIECE)
            fresh = False
            if piece:
                yield piece
            if member.eof:
                data, member, fresh = member.unused_data, zlib.decompressobj(wbits=31), True
            else:
                data = member.unconsumed_tail
            data = data or file.read(_PIECE)
        if not fresh:
            yield member.flush()


def _records(data: bytes) -> dict[bytes, int]:
    """The sizes of a pax header: records of "LENGTH KEY=VALUE\\n"."""
    found = {}
    while data.strip(b"\0"):
        text, _, _ = data.partition(b" ")
        length = _plain(text)
        if not len(text) + 1 < length <= len(data):
            raise ValueError("a pax record of no length")
        key, _, value = data[len(text) + 1 : length - 1].partition(b"=")
        if key in _SIZES:
            found[key] = _plain(value)
        data = data[length:]
    return found


def _plain(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 19:
        raise ValueError("a number that is none")
    return int(digits)


def _number(field: bytes) -> int:
    """Octal, or binary with the highest bit set."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40 or value >= 1 << 63:
            raise ValueError("a negative size")
        return value
    text = field.strip(b"\0 ")
    return int(text, 8) if text else 0


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _too_much(image: str, why: str, limit: str) -> ImagePullFailed:
    return ImagePullFailed(
        f"image {image!r} is refused: {why}",
        cause_kind="limit",
        mend=f"If you trust it, raise the engine's setting image_limits.{limit}",
    )


def _damaged(image: str, why: str) -> ImageNotFound:
    return ImageNotFound(f"image {image!r} is damaged: {why}", mend="Make or copy the image again")
