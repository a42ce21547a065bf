"""Copies into a running job and out of it: two ends of one pipe, the host's and the engine's."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import posixpath
from collections.abc import Awaitable, Callable

from ..copying import Found, Source, as_path, found, placed, source_of
from ..engine import Copies
from ..errors import CopyFailed, InvalidRequest, NotSupported
from ..supervisor import files, spawning
from .core import Core
from .live import Live
from .stop import running

__all__ = ["copy_in", "copy_out"]

_log = logging.getLogger(__name__)
_End = Callable[[int], Awaitable[list[str]]]


async def copy_in(
    core: Core, execution_id: str, source: bytes | int, target: bytes, *, follow: bool, keep_owner: bool
) -> None:
    """From the host, or from a tar stream that is opened as descriptor `source`, into the job."""
    live = await running(core, execution_id)
    power, x, h = _copies(live, "copy_in"), live.x, live.handle
    if h is None:
        return
    wanted = _in_job(as_path(target, "$.target"))
    if isinstance(source, int):
        if (await power.look(x, h, wanted)).leads_to != "folder":
            raise InvalidRequest("a tar stream goes into a folder", path="$.target", mend="Name one that is there")
        _tell(live, await core.unless_closed(power.archive_in(x, h, wanted, source, keep_owner=keep_owner)))
        return
    what = await source_of(as_path(source, "$.source"), _on_host, follow=follow)
    what = _named_here(what)
    place = await placed(what, wanted, lambda path: power.look(x, h, path))

    async def out(sink: int) -> list[str]:
        return await files.pack(what.path, place.name, sink, follow=follow)

    async def into(stream: int) -> list[str]:
        return await power.archive_in(x, h, place.folder, stream, keep_owner=keep_owner)

    _tell(live, await core.unless_closed(_through(out, into)))


async def copy_out(
    core: Core, execution_id: str, source: bytes, target: bytes | int, *, follow: bool, keep_owner: bool
) -> None:
    """From the job to the host, or as a tar stream into the descriptor `target`."""
    live = await running(core, execution_id)
    power, x, h = _copies(live, "copy_out"), live.x, live.handle
    if h is None:
        return
    wanted = _in_job(as_path(source, "$.source"))
    what = await source_of(wanted, lambda path: power.look(x, h, path), follow=follow)
    if isinstance(target, int):
        name = b"." if what.contents else what.name
        _tell(live, await core.unless_closed(power.archive_out(x, h, what.path, name, target, follow=follow)))
        return
    place = await placed(what, as_path(target, "$.target"), _on_host)

    async def out(sink: int) -> list[str]:
        return await power.archive_out(x, h, what.path, place.name, sink, follow=follow)

    async def into(stream: int) -> list[str]:
        # What comes out of a job may be a stranger's stream: nothing of it goes beside the target.
        only = None if place.name == b"." else place.name
        return await files.unpack(place.folder, stream, only=only, keep_owner=keep_owner, drop_special=not keep_owner)

    _tell(live, await core.unless_closed(_through(out, into)))


async def _through(out: _End, into: _End) -> list[str]:
    """Both ends at once; where one fails the other ends by that, and the true cause is raised."""
    try:
        stream, sink = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise spawning.mapped(error, "cannot copy") from error
    ends = [asyncio.ensure_future(_closing(out, sink)), asyncio.ensure_future(_closing(into, stream))]
    try:
        told = await asyncio.gather(*ends, return_exceptions=True)
    finally:
        for end in ends:
            end.cancel()
        await asyncio.wait(ends)
    failures = [answer for answer in told if isinstance(answer, BaseException)]
    if failures:
        raise next((failure for failure in failures if not _is_consequence(failure)), failures[0])
    return [text for answer in told if not isinstance(answer, BaseException) for text in answer]


async def _closing(end: _End, fd: int) -> list[str]:
    try:
        return await end(fd)
    finally:
        os.close(fd)


def _is_consequence(failure: BaseException) -> bool:
    """The other end went away first."""
    return isinstance(failure, CopyFailed) and failure.errno in (errno.EPIPE, errno.EBADMSG)


async def _on_host(path: bytes) -> Found:
    return found(await files.look(path))


def _named_here(what: Source) -> Source:
    """`..` and the like have a name of their own."""
    if what.name not in (b"", b".", b".."):
        return what
    name = posixpath.basename(os.path.realpath(what.path))
    return Source(path=what.path, name=name or b"root", is_folder=what.is_folder, contents=what.contents or not name)


def _in_job(path: bytes) -> bytes:
    """As Docker has it, a relative path begins at the root."""
    return path if path.startswith(b"/") else b"/" + path


def _tell(live: Live, told: list[str]) -> None:
    for text in told:
        _log.warning("copy: %s", text, extra={"execution_id": live.x.id, "engine": live.engine.name})


def _copies(live: Live, method: str) -> Copies:
    if isinstance(live.engine, Copies):
        return live.engine
    raise NotSupported(
        f"engine {live.engine.name} cannot copy", engine=live.engine.name, what=method, execution_id=live.x.id
    )
