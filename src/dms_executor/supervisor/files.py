"""Files and trees as tar streams through descriptors: the client of `dms-shim look`, `pack` and `unpack`.

docs/protocol.md, section 8. Neither data nor names pass through this process: the programs at both ends of a pipe do
all of it, in bounded memory, and end with their caller.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from ..errors import CopyFailed
from . import spawning

__all__ = ["Elsewhere", "Record", "judged", "kinds_of", "look", "pack", "told", "unpack", "words_of_unpack"]

_JOB = 3  # the number under which a helper has its job's folder in /proc
_REPORT_MAX = 65536
_DEATH = 5.0
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_MENDS = {
    errno.ENOSPC: "Free some space, or give the job a larger disk",
    errno.EDQUOT: "Free some space, or raise the quota",
    errno.EROFS: "It is read-only for the job, too: name a place that the job could write to",
    errno.EISDIR: "A folder gives way to nothing but a folder: remove it first, or name another target",
    errno.ENOTDIR: "A folder takes no file's place: remove the file first, or name another target",
    errno.EBUSY: "Something is mounted there: name another target",
    errno.EAGAIN: "It was moved while it was read: copy again",
    errno.EBADMSG: "Give a plain tar archive (gunzip it first)",
    errno.EACCES: "Give the executor's user the permission, or name another path",
    errno.EFBIG: "The file system of the target cannot hold so large a file",
}


class Record(msgspec.Struct, frozen=True):
    """One of what a helper tells: docs/protocol.md, section 8."""

    kind: str
    number: int
    text: str


class Elsewhere(Protocol):
    """Where no folder in /proc leads to: what runs a mode there."""

    def reached(self, words: Sequence[bytes]) -> AbstractAsyncContextManager[list[str]]:
        """The command that runs `words` there, with the same streams, as long as the block lasts."""
        ...


Job = int | Elsewhere
"""The opened folder in /proc of a job's init, or what else leads to its files."""


async def look(path: bytes, *, job: Job | None = None) -> str:
    """Two letters: what `path` is, and what it leads to (d folder, f file, l link, o other, - nothing).

    `job`: in whose root `path` lies. Raises `CopyFailed`.
    """
    return kinds_of(await _run("look", [path], {}, job))


def kinds_of(records: list[Record]) -> str:
    """What `look` told."""
    return next((record.text for record in records if record.kind == "look"), "--")


async def pack(path: bytes, name: bytes, sink: int, *, follow: bool = False, job: Job | None = None) -> list[str]:
    """Writes `path` and all in it as a tar stream to `sink`, its entries named `name/...`. Gives what is to be told.

    `follow`: a link in the place of `path` itself is followed. Raises `CopyFailed`.
    """
    return told(await _run("pack", [*([b"-L"] if follow else []), name, path], {1: sink}, job))


async def unpack(
    folder: bytes,
    source: int,
    *,
    only: bytes | None = None,
    keep_owner: bool = False,
    drop_special: bool = False,
    replaces: bool = False,
    job: Job | None = None,
) -> list[str]:
    """Unpacks the tar stream `source` into a folder that is there. Gives what is to be told.

    `only`: what is to come, by its name there; a stream with anything else is refused. `drop_special`: without
    set-user-id and set-group-id bits. `replaces`: a folder by what is none, and the other way.
    Raises `CopyFailed`.
    """
    words = words_of_unpack(folder, only=only, keep_owner=keep_owner, drop_special=drop_special, replaces=replaces)
    return told(await _run("unpack", words, {0: source}, job))


def words_of_unpack(
    folder: bytes,
    *,
    only: bytes | None = None,
    keep_owner: bool = False,
    drop_special: bool = False,
    replaces: bool = False,
    attempt: int | None = None,
) -> list[bytes]:
    """The words behind the mode's own. `attempt`: the number, from 1 on, of one of many to bring `only` there, of which
    each takes all that the former left away, and none is seen before it is whole.
    """
    options = [*([b"-o"] if keep_owner else []), *([b"-s"] if drop_special else []), *([b"-r"] if replaces else [])]
    options += [b"-n", only] if only is not None else []
    options += [b"-t", b"%d" % attempt] if attempt is not None else []
    return [*options, folder]


async def _run(mode: str, words: Sequence[bytes], streams: dict[int, int], job: Job | None) -> list[Record]:
    if job is not None and not isinstance(job, int):
        async with job.reached([mode.encode(), b"-j", *words]) as argv:
            return await _helped(mode, argv, streams)
    argv = [await spawning.spawned_shim(), mode, *(["-j"] if job is not None else []), *map(os.fsdecode, words)]
    return await _helped(mode, argv, {**streams, **({_JOB: job} if job is not None else {})})


async def _helped(mode: str, argv: Sequence[str], places: dict[int, int]) -> list[Record]:
    try:
        report, theirs = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise spawning.mapped(error, "cannot copy") from error
    try:
        try:
            pid = spawning.spawn(argv[0], argv, {"LC_ALL": "C"}, {**places, 2: theirs})
        finally:
            os.close(theirs)
        status = await _ended(pid)
        os.set_blocking(report, False)
        return judged(mode, os.waitstatus_to_exitcode(status), _said(report))
    finally:
        os.close(report)


async def _ended(pid: int) -> int:
    exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    spawning.on_exit(pid, exited.set_result)
    try:
        return await asyncio.shield(exited)
    except asyncio.CancelledError:
        if not exited.done():
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
            await asyncio.wait([exited], timeout=_DEATH)
        raise


def _said(report: int) -> bytes:
    """All that a helper says fits into the pipe."""
    try:
        return os.read(report, _REPORT_MAX)
    except BlockingIOError:
        return b""


def _records(said: bytes) -> list[Record]:
    texts = [field.decode("utf-8", "backslashreplace") for field in said.split(b"\0")]
    return [
        Record(kind, int(number), text)
        for kind, number, text in zip(*[iter(texts)] * 3, strict=False)
        if _NUMBER.fullmatch(number)  # a guest may have written it
    ]


def judged(mode: str, code: int | None, said: bytes) -> list[Record]:
    """What a helper told on its stderr, once it has ended. Raises `CopyFailed`."""
    records = _records(said)
    for record in records:
        if record.kind == "error":
            number = record.number
            what = "it is no good tar stream" if number == errno.EBADMSG else os.strerror(number)
            raise CopyFailed(f"{record.text}: {what}", errno=number, mend=_MENDS.get(number, ""))
    if code != 0:
        raise CopyFailed(f"{mode} ended with status {code}", mend="Copy again")
    return records


def told(records: list[Record]) -> list[str]:
    """What of it a caller is told."""
    texts = {
        "left-out": "{} devices, FIFOs and sockets were left out, the first is {}",
        "shrunk": "{} files got shorter while they were read and end in zeros, the first is {}",
    }
    return [texts[record.kind].format(record.number, record.text) for record in records if record.kind in texts]
