"""What a job is brought before it, and what is fetched after it: tar streams through execs beside its container.

Both ends are our programs (docs/protocol.md, sections 8 and 11): the pod's unpacks beneath its place, the host's
beneath the folder that was granted. What comes out of a pod is a stranger's: it is bounded here, too, and none of its
bytes are looked at in this process.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import math
import os
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar

from ..engine import Execution, Report
from ..errors import CopyFailed, EngineUnavailable, EngineUnreachable, ExecutionNotRunning, ExecutorError, StartFailed
from ..policy import Granted, reopen
from ..supervisor import files
from ..types import Progress
from .client import RIGHTS, ApiError
from .conversation import HELPER, Conversation, told_of
from .helper import Helper
from .names import INIT, POD, pod_name
from .places import FILES, INPUTS, TREE, Place, place_folder
from .pods import Refused

if TYPE_CHECKING:
    from .sites import Sites
    from .spec import KubernetesSettings

__all__ = ["Transfers"]

_PIECE = 1 << 16
_CLOSING, _CLOSINGS = 15.0, 4  # seconds in which a node tells that a container has ended; times that it is asked to
_BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between two tries where the cluster does not answer; the outputs stand there meanwhile."""
_log = logging.getLogger("dms_executor.kubernetes")
_T = TypeVar("_T")
_SLACK = 64 << 20  # bytes for what a tar has beside its files' data, on top of a sixteenth of it


class Transfers:
    """The part of the engine that moves files."""

    _sites: Sites
    _settings: KubernetesSettings

    async def _bring_in(self, x: Execution, report: Report, places: list[Place]) -> None:
        """All that the job finds, then the job's container may come. Raises `StartFailed`, `PolicyDenied`.

        A connection that breaks, and a cluster that does not answer, are tried again for as long as the preparation
        may last, with all of the input that was not whole. The container that takes it ends by itself some time.
        """

        def tell(error: ExecutorError) -> None:
            _log.info("inputs: %s; tried again", error, extra={"execution_id": x.id, "engine": "kubernetes"})
            report(Progress(what=error.message, done=0, unit="inputs", waits=True))

        try:
            for place in places:
                if place.fills:
                    await _persistent(partial(self._fill, x, place), tell)
            await _persistent(partial(self._close_inputs, x), tell)
        except (ApiError, CopyFailed, ExecutionNotRunning) as error:
            raise StartFailed(
                f"the inputs were not brought into the pod: {error.message}", mend=error.mend, execution_id=x.id
            ) from error

    async def _close_inputs(self, x: Execution, attempt: int) -> None:
        """Their container's end lets the job's come. What is executed to end it goes along with it, perhaps unheard.

        Raises `StartFailed`, `ApiError` without the right to, `EngineUnreachable` where it is to be tried again.
        """
        site, is_heard = self._sites.of(x), True
        try:
            _, said = await site.client.execute(pod_name(x.token), INPUTS, [INIT, "-k", "15"])
        except (ApiError, EngineUnreachable) as error:
            _refused(error)
            said, is_heard = error.message, False
        try:
            async with asyncio.timeout(_CLOSING), aclosing(site.pods.changes(x.token)) as changes:
                async for pod in changes:
                    code = pod.end_of(INPUTS) if pod is not None else None
                    if code == 0:
                        return
                    if pod is None or code is not None or pod.has_ended:
                        raise StartFailed(f"the pod ended before its inputs were there: {said}", execution_id=x.id)
        except TimeoutError:
            if is_heard and attempt >= _CLOSINGS:
                raise StartFailed(f"the pod kept waiting for inputs: {said}", execution_id=x.id) from None
            raise EngineUnreachable(f"the pod waits for inputs: {said}", mend="It is told again") from None

    async def _keeps_files(self, x: Execution) -> bool:
        """Of one whose job did not end by itself: whether its outputs stand there all the same."""
        pod = await self._sites.of(x).pods.now(x.token)
        return pod is not None and not pod.is_disturbed and not pod.lacks(FILES)

    async def _bring_out(self, x: Execution, places: list[Place], ended_at: datetime) -> list[str]:
        """What there is to tell. Idempotent. Raises `CopyFailed`, `EngineUnreachable`, `PolicyDenied`.

        The pod keeps them for a time after `ended_at`: as long a cluster that does not answer is asked again.
        """
        until = (ended_at - datetime.now(UTC)).total_seconds() + self._settings.keep_outputs

        def tell(error: ExecutorError) -> None:
            _log.warning("outputs: %s; asked again", error, extra={"execution_id": x.id, "engine": "kubernetes"})

        told: list[str] = []
        for place in places:
            if place.returns:
                told += await _persistent(partial(self._fetch, x, place), tell, until)
        return told

    async def _fill(self, x: Execution, place: Place, attempt: int) -> None:
        words = files.words_of_unpack(os.fsencode(place_folder(place)), only=TREE.encode(), attempt=attempt)
        with await _opened(place) as granted:
            source, sink = os.pipe2(os.O_CLOEXEC)
            packing = asyncio.create_task(_closing(sink, files.pack(_path(granted), TREE.encode(), sink, follow=True)))
            helper = None
            try:
                helper = await self._helper(x, INPUTS, [b"unpack", *words])
                while data := await asyncio.to_thread(os.read, source, _PIECE):
                    try:
                        await helper.write(data)
                    except ExecutionNotRunning:
                        break  # it says itself why it has ended
                helper.end_input()
                try:
                    await _told(helper, "unpack")
                except CopyFailed:
                    if packing.done():
                        await packing  # what it ended of comes first: the other end only misses the rest
                    raise
                await packing
            finally:
                packing.cancel()
                await asyncio.wait([packing])
                os.close(source)
                if helper is not None:
                    await helper.drop()

    async def _fetch(self, x: Execution, place: Place, _attempt: int) -> list[str]:
        folder = place_folder(place) + (f"/{TREE}" if place.fills else "")
        with await _opened(place) as granted:
            source, sink = os.pipe2(os.O_CLOEXEC)
            taking = asyncio.create_task(
                _closing(source, files.unpack(_path(granted), source, drop_special=True, replaces=True))
            )
            helper = None
            try:
                helper = await self._helper(x, FILES, [b"pack", b".", os.fsencode(folder)])
                told = await _told(helper, "pack", sink, _most(int(self._settings.volume_size)))
                os.close(sink)
                sink = -1
                return [*told, *await taking]
            except BrokenPipeError:
                return await taking  # raises what it ended of
            finally:
                # Before its reader could take a part for the whole: it is ended, not told the end.
                taking.cancel()
                await asyncio.wait([taking])
                if sink >= 0:
                    os.close(sink)
                if helper is not None:
                    await helper.drop()

    async def _helper(self, x: Execution, container: str, words: list[bytes]) -> Conversation:
        """Raises `CopyFailed` where there is no such container any more, else `EngineUnreachable`."""
        helper = None
        try:
            wire = await self._sites.of(x).client.converse(pod_name(x.token), container, [POD])
            helper = Conversation(wire, told_of(words, flags=HELPER), _never)
            await helper.started()
        except BaseException as error:
            if helper is not None:
                await helper.drop()
            if isinstance(error, (ApiError, StartFailed)):
                await self._judge(x, container, error)
            raise
        return helper

    async def _judge(self, x: Execution, container: str, error: ExecutorError) -> NoReturn:
        """A kubelet that begins anew refuses as well, and so does whatever stands before an API server."""
        if container == INPUTS:  # outputs stand there until the right comes back
            _refused(error)
        pod = await self._sites.of(x).pods.now(x.token)
        if pod is not None and not pod.lacks(container):
            raise EngineUnreachable(error.message, mend="It is tried again", execution_id=x.id) from error
        why = error.message
        if pod is not None and pod.status.reason:
            why = f"{pod.status.reason}: {pod.status.message}"
        raise CopyFailed(
            f"the container that keeps the files is gone ({why})",
            errno=errno.ENODATA,
            mend="Collect sooner, or raise keep_outputs in the engine's settings" if container == FILES else "",
        ) from error


def _refused(error: ExecutorError) -> None:
    """Raises what the cluster does not let us do: trying again mends nothing of that."""
    if isinstance(error, ApiError) and error.lacks_rights:
        error.mend = RIGHTS
        raise error


async def _persistent(
    work: Callable[[int], Awaitable[_T]], tell: Callable[[ExecutorError], None], seconds: float = math.inf
) -> _T:
    """Until the cluster answers, or that time is over; a few times in any case. `work` gets the number of its try."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    for count, pause in enumerate(itertools.chain(_BACKOFF, itertools.repeat(_BACKOFF[-1]))):
        try:
            return await work(count + 1)
        except Refused:
            raise
        except (EngineUnreachable, EngineUnavailable) as error:
            if count >= len(_BACKOFF) and loop.time() + pause > until:
                raise
            tell(error)
            await asyncio.sleep(pause)
    raise AssertionError("unreachable")


async def _told(way: Conversation, mode: str, sink: int | None = None, most: int | None = None) -> list[str]:
    """Its output to `sink`, to its end, and what it told. Raises `CopyFailed`, `EngineUnreachable`."""
    helper = Helper(way, mode)

    async def write(data: bytes) -> None:
        if sink is not None:
            await asyncio.to_thread(_write_all, sink, data)

    await helper.take(write, most)
    code = await helper.ended()
    if code is None:
        raise EngineUnreachable("the connection ended before the files were through", mend="It is tried again")
    return files.told(helper.judged(code))


async def _opened(place: Place) -> Granted:
    grant = place.mount.grant
    assert grant is not None
    return await asyncio.to_thread(reopen, grant, field=f"{place.mount.field}.source")


async def _closing(fd: int, work: Awaitable[list[str]]) -> list[str]:
    try:
        return await work
    finally:
        os.close(fd)


def _most(size: int) -> int:
    """Bytes of a tar of files of that many: what it has beside their data comes on top."""
    return size + size // 16 + _SLACK


async def _never() -> bool:
    return False


def _path(granted: Granted) -> bytes:
    return b"/proc/%d/fd/%d" % (os.getpid(), granted.fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
