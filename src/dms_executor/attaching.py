"""The job itself as a session: what is written goes to its stdin or terminal, what comes is its log."""

from __future__ import annotations

import logging

from .engine import Attached, Attaches
from .errors import ExecutionNotFinished, ExecutorError, NotSupported
from .lifecycle import Core, ExecSession, Live, cancel
from .lifecycle.stop import running
from .log_access import opened_log
from .logs.entry import Gap
from .logs.stream import LogStream
from .types import LogStreamRequest, Stream

__all__ = ["attach"]

_log = logging.getLogger(__name__)
_KILL = 9


async def attach(core: Core, execution_id: str, *, from_start: bool) -> ExecSession:
    """A session with a running job itself. Raises `ExecutionNotRunning`, `NotSupported`."""
    live = await running(core, execution_id)
    if live.handle is None or not isinstance(live.engine, Attaches):
        raise NotSupported(
            f"engine {live.engine.name} has no attach",
            engine=live.engine.name,
            what="attach",
            mend="`get_log_stream` gives a job's output on every engine",
            execution_id=execution_id,
        )
    request = LogStreamRequest(execution_id=execution_id, follow=True, tail=not from_start)
    # The place in the log is taken before anything can be written: no answer of the job's is missed.
    stream = await opened_log(core, request, mid_line=True)
    try:
        held = await core.unless_closed(live.engine.attach(live.x, live.handle))
    except BaseException as error:
        await stream.aclose()
        if isinstance(error, ExecutorError):
            error.execution_id = error.execution_id or execution_id
        raise
    return ExecSession(core, execution_id, _Channel(core, live, stream, held), None)


class _Channel:
    """An `engine.Channel` of the job itself."""

    def __init__(self, core: Core, live: Live, stream: LogStream, held: Attached) -> None:
        self._core = core
        self._live = live
        self._stream = stream
        self._entries = stream.entries()
        self._held = held
        self.write = held.write
        self.close_stdin = held.close_stdin
        self.resize = held.resize
        self.signal = held.signal

    async def read(self) -> tuple[Stream, bytes] | None:
        async for entry in self._entries:
            if not isinstance(entry, Gap):
                return entry.stream, entry.data
            _log.warning("%d bytes of %s are missing in the log", entry.bytes, entry.stream, extra=self._extra())
        return None

    async def wait(self) -> int | None:
        await self._core.unless_closed(self._live.finished.wait())
        if self._live.result is None:
            raise self._live.failure or ExecutionNotFinished("nobody follows it any more", execution_id=self._live.x.id)
        return self._live.result.exit_code

    async def kill(self) -> None:
        await cancel(self._core, self._live.x.id, _KILL, 0)

    async def aclose(self) -> None:
        await self._held.aclose()
        await self._stream.aclose()

    def _extra(self) -> dict[str, str]:
        return {"execution_id": self._live.x.id, "engine": self._live.engine.name}
