"""The go: what a pod's init waits for, and its word that the job runs."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from datetime import datetime
from typing import ClassVar

import msgspec

from ..engine import Execution, Handle
from ..errors import EngineUnavailable, EngineUnreachable, ExecutorError, StartFailed
from ..policy import Grant, reopen
from ..typed import known
from ..volumes import Volumes
from .client import AGAIN, RIGHTS, ApiError
from .handed import MOST, handed, is_handed
from .logs import Logs
from .names import CONTAINER, INIT, ROOM, pod_name
from .output import Reading, log_head, read_log
from .sent import note_go
from .view import report_of

__all__ = ["Starts"]

_GO = "18"  # SIGCONT
_WITHDRAWN = "0"
_TORN_DOWN = 137  # the job was over so soon that it took along what let it go
_STARTING = 120.0
_log = logging.getLogger("dms_executor.kubernetes")


class Starts(Logs):
    """The part of the engine that lets jobs go."""

    name: ClassVar[str]

    async def start(self, x: Execution, h: Handle) -> datetime:
        """Raises `StartFailed` with what the init said.

        Where the cluster's answer is lost, that says nothing of the job: it is the init's word that counts, which is
        read again, and a go that did not come is sent again. Where that word is not to be had for long, nobody knows
        whether the job runs: raises `EngineUnreachable`.
        """
        why: ExecutorError | None = None
        begun = time.time_ns()
        try:
            async with asyncio.timeout(_STARTING):
                for pause in itertools.chain(AGAIN, itertools.repeat(AGAIN[-1])):
                    try:
                        started = await self._let_go(x, h, is_first=why is None)
                        await asyncio.to_thread(note_go, x, begun)
                        return started
                    except (ApiError, EngineUnavailable, EngineUnreachable) as error:
                        if isinstance(error, ApiError) and error.lacks_rights:
                            raise StartFailed(error.message, mend=RIGHTS, execution_id=x.id) from error
                        why = error
                        _log.info("start: %s; asked again", error, extra={"execution_id": x.id, "engine": self.name})
                    await asyncio.sleep(pause)
        except TimeoutError as error:
            said = f"; the cluster said: {why.message}" if why is not None else ""
            message = f"it is not known whether the job has started within {_STARTING:g} s{said}"
            raise EngineUnreachable(message, mend="Look at it when its cluster answers", execution_id=x.id) from error
        raise AssertionError("unreachable")

    async def _let_go(self, x: Execution, h: Handle, *, is_first: bool) -> datetime:
        """Raises `StartFailed`; `ApiError`, `EngineUnavailable`, `EngineUnreachable` where it is not known."""
        site, code, words = self._sites.of(x), 0, ""
        if is_first:
            found = await asyncio.gather(read_log(site.client, x.token, None), self._go(x, h), return_exceptions=True)
            reading, answer = found
            if not isinstance(reading, BaseException):
                await self._keep(x, reading)
            for outcome in found:
                if isinstance(outcome, BaseException):
                    raise outcome
            if isinstance(answer, tuple):
                code, words = answer
        else:
            if not (await log_head(site.client, x.token)).tells_of_a_job:
                code, words = await self._go(x, h)
            await self._keep(x, await read_log(site.client, x.token, None))
        if code not in (0, _TORN_DOWN):
            await self._has_come(x, code, words)
        reading = self._readings[x.token]
        started = await reading.started(x.id)
        if started is not None:
            return started
        pod = await site.pods.now(x.token)
        if pod is not None and not await site.pods.ends_soon(x.token):
            raise EngineUnreachable("its log ended before it said anything", execution_id=x.id)
        if pod is not None and (known_start := report_of(pod).started_at) is not None:
            return known_start
        said = reading.lines.strange or words.strip() or f"the init was sent the go, which ended with {code}"
        raise StartFailed(f"the pod ended before its job ran: {said}", execution_id=x.id)

    async def withdraw(self, x: Execution, h: Handle) -> bool:
        """Of one whose caller has died: its init is asked, by its log, and by a word that ends it unless it has let go.

        So a go that is still on its way comes too late, or is seen.
        """
        site = self._sites.of(x)
        former = self._readings.pop(x.token, None)  # of our own start, of which nothing was known
        if former is not None:
            await former.close()
        try:
            if await self._was_let_go(x):
                return False
            await site.client.execute(pod_name(x.token), CONTAINER, [INIT, "-k", _WITHDRAWN])
        except (ApiError, EngineUnavailable) as error:
            if not await site.pods.ends_soon(x.token):
                raise EngineUnreachable(error.message, mend=error.mend, execution_id=x.id) from error
        if not await site.pods.ends_soon(x.token):
            return False
        pod = await site.pods.now(x.token)
        return pod is None or (await self._word_of(x, pod)).started_at is None

    async def _was_let_go(self, x: Execution) -> bool:
        """Whether the log says so, be it by having been begun anew: who waits says no more than that it is born."""
        head = await log_head(self._sites.of(x).client, x.token)
        return head.is_empty or head.tells_of_a_job

    async def _has_come(self, x: Execution, code: int, words: str) -> None:
        """Of a go that seems to have failed: a pod that has ended says why itself.

        Raises `StartFailed` where it did, `EngineUnreachable` where its node did not even try.
        """
        site = self._sites.of(x)
        if (await log_head(site.client, x.token)).tells_of_a_job:
            return
        pod = await site.pods.now(x.token)
        if pod is None or pod.has_ended or (code < 0 and await site.pods.ends_soon(x.token)):
            return
        if code < 0:
            raise EngineUnreachable(words.strip(), mend="It is tried again", execution_id=x.id)
        raise StartFailed(f"the job was not given its go (code {code}): {words.strip()}", execution_id=x.id)

    async def _keep(self, x: Execution, reading: Reading) -> None:
        former = self._readings.pop(x.token, None)
        self._readings[x.token] = reading
        if former is not None:
            await former.close()

    async def _go(self, x: Execution, h: Handle) -> tuple[int, str]:
        """Tells the init to go on, with what the job is handed; what came of that."""
        is_more = is_handed(x.request)
        words = ["-g", ROOM] if is_more else ["-k", _GO]
        stdin = msgspec.convert(h.state.get("volumes", {}), known(Volumes)).stdin
        given = await asyncio.to_thread(_content, stdin) if stdin is not None else None
        data = handed(x.request, given) if is_more else b""
        return await self._sites.of(x).client.execute(pod_name(x.token), CONTAINER, [INIT, *words], data)


def _content(stdin: Grant) -> bytes:
    """Of `stdin_file`, as far as it may be handed over. Blocks. Raises `PolicyDenied`, `StartFailed`."""
    with reopen(stdin, field="$.stdin_file") as granted, open(f"/proc/self/fd/{granted.fd}", "rb") as file:
        data = file.read(MOST + 1)
    if len(data) > MOST:
        raise StartFailed(f"stdin_file has more than {MOST} bytes by now", mend="Give it as an input")
    return data
