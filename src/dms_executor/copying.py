"""Where a copy goes, by the rules of `docker cp`: https://docs.docker.com/reference/cli/docker/container/cp/

A folder is copied as the target where that is not there yet, and into it where it is a folder; a source that ends in
`/.` means what is in it. A target's own name is never followed through a link: a file takes the link's place.
"""

from __future__ import annotations

import posixpath
from collections.abc import Awaitable, Callable

import msgspec

from .errors import InvalidRequest

__all__ = ["Found", "Placed", "Source", "as_path", "found", "placed", "source_of"]

_KINDS = {"d": "folder", "f": "file", "l": "link", "o": "other", "-": None}


class Found(msgspec.Struct, frozen=True):
    """What a path is and what it leads to: folder, file, link, other, None for nothing."""

    kind: str | None
    leads_to: str | None


class Source(msgspec.Struct, frozen=True):
    """What is copied. `contents`: what is in the folder, and not the folder itself."""

    path: bytes
    name: bytes
    is_folder: bool
    contents: bool


class Placed(msgspec.Struct, frozen=True):
    """`folder` is there; what comes into it is called `name`, `.` for the contents of a folder."""

    folder: bytes
    name: bytes


Look = Callable[[bytes], Awaitable[Found]]


def found(letters: str) -> Found:
    """From the two letters of `supervisor.files.look`."""
    return Found(_KINDS.get(letters[:1]), _KINDS.get(letters[1:2]))


def as_path(text: bytes, field: str) -> bytes:
    """Raises `InvalidRequest` where it cannot be a path."""
    if not text or b"\0" in text:
        raise InvalidRequest("a path is not empty and holds no NUL", path=field, mend="Name a file or a folder")
    return text


async def source_of(path: bytes, look: Look, *, follow: bool) -> Source:
    """Raises `InvalidRequest` where there is nothing to copy."""
    seen = await look(path)
    kind = seen.leads_to if follow or path.endswith((b"/", b"/.")) else seen.kind
    if kind is None:
        raise InvalidRequest(f"there is no {_shown(path)}", path="$.source", mend="Name what is there")
    if kind == "other":
        raise InvalidRequest(
            f"{_shown(path)} is a device, a FIFO or a socket", path="$.source", mend="Copy a file, a folder or a link"
        )
    is_folder = kind == "folder"
    whole = posixpath.normpath(path)
    contents = is_folder and (path.endswith(b"/.") or path == b"." or whole in (b"/", b"//"))
    return Source(path=path, name=posixpath.basename(whole), is_folder=is_folder, contents=contents)


async def placed(source: Source, target: bytes, look: Look) -> Placed:
    """Raises `InvalidRequest` where the rules have no place for it."""
    seen = await look(target)
    if seen.leads_to == "folder":
        return Placed(target, b"." if source.contents else source.name)
    plain = target.rstrip(b"/") or b"/"
    if seen.leads_to is not None and source.is_folder:
        raise InvalidRequest(
            f"{_shown(target)} is no folder, and a folder is to be copied there",
            path="$.target",
            mend="Name a folder, or a name that is not taken",
        )
    if target.endswith((b"/", b"/.")) and not source.is_folder:
        raise InvalidRequest(f"there is no folder {_shown(target)}", path="$.target", mend="Make it first")
    folder, name = posixpath.split(plain)
    if name in (b"", b".", b".."):
        raise InvalidRequest(f"there is no {_shown(target)}", path="$.target", mend="Name a folder that is there")
    folder = folder or b"."
    if (await look(folder)).leads_to != "folder":
        raise InvalidRequest(f"there is no folder {_shown(folder)}", path="$.target", mend="Make it first")
    return Placed(folder, name)


def _shown(path: bytes) -> str:
    return repr(path.decode("utf-8", "backslashreplace"))
