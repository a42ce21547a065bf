"""What `dms-pod` does in a pod for one asker: frames through an exec (docs/protocol.md, section 11).

What it is told goes through the streams, never into the address of the call: an API server writes that down. Bounded
both ways: what the pod may send is granted it, and what it can take is granted us. The end of the connection, however
it comes, is the end of what was begun with all that came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

from ..errors import EngineUnreachable, ExecutionNotRunning, StartFailed
from ..supervisor import frames
from ..supervisor.record import command_errno
from ..supervisor.reported import code_of, settle
from ..supervisor.shim import sentence
from ..types import Stream
from .wire import Wire

__all__ = ["ATTACH", "HELPER", "Conversation", "told_of"]

HELPER, ATTACH = 4, 8
_VERSION, _ARGV, _ENV, _DIRECTORY, _FLAGS, _TERMINAL = 1, 2, 3, 4, 8, 9
_WINDOW, _COST = 131072, 1024  # as native/frame.h has them
_STREAMS: dict[int, Stream] = {frames.GUEST_STDOUT: "stdout", frames.GUEST_STDERR: "stderr"}
_START = 60.0
_CLOSE = 10.0
_LEAVE = 2.0
_END_OF_INPUT = b"\x04"  # Ctrl-D
_KILLED = 128 + signal.SIGKILL
_log = logging.getLogger("dms_executor.kubernetes")


def told_of(
    argv: Sequence[bytes],
    *,
    environment: Iterable[str] = (),
    directory: str = ".",
    flags: int = 0,
    terminal: tuple[int, int] | None = None,
) -> bytes:
    """What `dms-pod` is told of a command. `environment`: `NAME=VALUE`."""
    entries = [(_VERSION, struct.pack("<I", frames.VERSION)), *((_ARGV, word) for word in argv)]
    entries += [(_ENV, os.fsencode(text)) for text in environment]
    entries += [(_DIRECTORY, os.fsencode(directory)), (_FLAGS, struct.pack("<I", flags))]
    if terminal is not None:
        entries.append((_TERMINAL, b"%dx%d" % terminal))
    return b"".join(struct.pack("<HHI", tag, 0, len(value)) + value for tag, value in entries)


class Conversation:
    """`aclose` it. `has_ended`: whether the whole job has, asked where nothing was heard of the end."""

    def __init__(self, wire: Wire, told: bytes, has_ended: Callable[[], Awaitable[bool]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._has_ended = has_ended
        self.silence: float | None = None
        """Seconds that nothing may come while it has all of its input, or takes no more; None: for ever."""
        self._waiters: set[asyncio.Future[None]] = set()
        self._to_send: deque[bytes] = deque()
        self._pieces: deque[tuple[Stream, bytes]] = deque()
        self._held = 0
        self._room = 0
        self._writing = asyncio.Lock()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._exit: asyncio.Future[int | None] = self._loop.create_future()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._runs = False
        self._failure = ""
        self._errno: int | None = None
        self._killing = False
        self._streams_ended = self._input_ended = False
        for at in range(0, len(told), frames.GUEST_DATA_MAX):
            self._put(frames.GUEST_CONFIG, told[at : at + frames.GUEST_DATA_MAX])
        self._put(frames.GUEST_GO)
        self._put(frames.GUEST_ROOM, struct.pack("<I", _WINDOW))
        self._tasks = [
            self._loop.create_task(self._send(), name="to a pod"),
            self._loop.create_task(self._listen(), name="from a pod"),
        ]

    # -- its beginning and its end -------------------------------------------------------------------------------

    async def started(self) -> None:
        """Waits until it runs. Raises `StartFailed`, `ExecutionNotRunning`."""
        try:
            async with asyncio.timeout(_START):
                await asyncio.shield(self._started)
        except TimeoutError:
            raise StartFailed(f"the command was not started within {_START:.0f} s") from None
        if self._failure:
            raise StartFailed(self._failure, errno=self._errno)
        if not self._runs and not self._exit.done():
            raise ExecutionNotRunning("the job has ended")
        if not self._runs:
            said = self._wire.said.decode("utf-8", "replace").strip()
            if await self._has_ended():
                raise ExecutionNotRunning("the job has ended")
            raise StartFailed(f"nothing was started: {said or 'the connection ended'}")

    async def wait(self) -> int | None:
        """The exit code. Raises `EngineUnreachable` after too long a silence."""
        try:
            async with asyncio.timeout(self.silence):
                return await asyncio.shield(self._exit)
        except TimeoutError:
            raise self._too_silent() from None

    async def kill(self) -> None:
        """Returns once nothing of it is left. Raises `EngineUnreachable`."""
        self._killing = True
        if self._over.done():
            return
        self._put(frames.GUEST_CLOSE)
        try:
            async with asyncio.timeout(_CLOSE):
                await asyncio.shield(self._over)
        except TimeoutError:
            raise EngineUnreachable(f"the command did not end within {_CLOSE:.0f} s") from None

    async def aclose(self) -> None:
        """Kills what has not ended; what an ended one left in the background lives on. Idempotent."""
        try:
            if not self._exit.done():
                await self.kill()
            elif not self._over.done():
                self._put(frames.INIT_LEAVE)
                await asyncio.wait([self._over], timeout=_LEAVE)
        finally:
            await self.drop()

    async def finish(self) -> None:
        """Leaves it as it is, with all that was written, as far as that is taken soon. Idempotent."""
        if not self._over.done():
            self._put(frames.GUEST_CLOSE)
            try:
                async with asyncio.timeout(_CLOSE):
                    while self._to_send and not self._over.done():  # what is on its way is written there, whoever goes
                        await self._changed()
            except TimeoutError:
                _log.warning("the connection to a pod takes nothing any more: %d frames are lost", len(self._to_send))
            await asyncio.wait([self._over], timeout=_LEAVE)
        await self.drop()

    async def drop(self) -> None:
        """Ends the connection, at once. Idempotent."""
        self._is_over(None)
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._wire.close()

    # -- its streams ---------------------------------------------------------------------------------------------

    async def read(self) -> tuple[Stream, bytes] | None:
        """What came next of its output; None at the end. Harmless to cancel.

        Raises `EngineUnreachable` after too long a silence.
        """
        while not self._pieces:
            if self._streams_ended or self._over.done():
                return None
            await self._heard(self.silence if self._input_ended else None)
        stream, data = self._pieces.popleft()
        self._held -= len(data) + _COST
        self._put(frames.GUEST_ROOM, struct.pack("<I", len(data) + _COST))
        return stream, data

    async def write(self, data: bytes) -> None:
        """All of it to its input. Raises `ExecutionNotRunning` where nobody reads that any more, and as `read`."""
        async with self._writing:
            left = memoryview(data)
            while left:
                if self._input_ended or self._over.done():
                    raise ExecutionNotRunning("its input is closed, or nobody reads it any more")
                if not self._room:
                    await self._heard(self.silence)
                    continue
                part = left[: min(self._room, frames.GUEST_DATA_MAX)]
                self._room -= len(part)
                self._put(frames.GUEST_STDIN, bytes(part))
                left = left[len(part) :]

    def end_input(self) -> None:
        """It reads the end of its input. Idempotent."""
        if not self._input_ended:
            self._input_ended = True
            self._put(frames.GUEST_STDIN)
            self._wake()

    def type_end(self) -> None:
        """What the user of a terminal types for the end of input."""
        if self._room and not self._input_ended:
            self._room -= 1
            self._put(frames.GUEST_STDIN, _END_OF_INPUT)

    def resize(self, columns: int, rows: int) -> None:
        """Of its terminal, if there is one."""
        self._put(frames.GUEST_RESIZE, struct.pack("<II", columns, rows))

    def signal(self, signum: int) -> None:
        """Raises `ExecutionNotRunning`."""
        if self._exit.done():
            raise ExecutionNotRunning("the command has ended")
        self._put(frames.INIT_SIGNAL, struct.pack("<I", signum))

    # -- what comes and goes -------------------------------------------------------------------------------------

    def _put(self, kind: int, payload: bytes = b"") -> None:
        self._to_send.append(frames.pack(kind, payload))
        self._wake()

    async def _send(self) -> None:
        try:
            while True:
                while self._to_send:
                    await self._wire.send(self._to_send[0])
                    self._to_send.popleft()
                    if not self._to_send:
                        self._wake()
                await self._changed()
        except EngineUnreachable:
            return  # whoever listens finds the same

    async def _listen(self) -> None:
        decoder = frames.Decoder(frames.GUEST_FRAMES)
        try:
            while not self._over.done() and (data := await self._wire.receive()) is not None:
                for kind, payload in decoder.feed(data):
                    self._take(kind, payload)
        except frames.ProtocolError as error:
            self._fail(f"the pod said what it must not: {error}")
        finally:
            self._is_over(await self._code() if not self._exit.done() else None)

    def _take(self, kind: int, payload: bytes) -> None:
        if kind in _STREAMS:
            self._held += len(payload) + _COST
            if self._held > _WINDOW:
                raise frames.ProtocolError("more output than it was granted")
            self._pieces.append((_STREAMS[kind], payload))
        elif kind == frames.INIT_STARTED:
            self._runs = True
            settle(self._started)
        elif kind == frames.INIT_FAILED:
            self._errno = command_errno(*frames.error(payload))
            self._fail(sentence(payload))
        elif kind == frames.INIT_EXITED:
            self._end(code_of(struct.unpack("<I", payload)[0]))
        elif kind == frames.GUEST_ROOM:
            self._room += struct.unpack("<I", payload)[0]
        elif kind == frames.GUEST_INPUT_END:
            self._input_ended = True
        elif kind == frames.GUEST_STREAMS_END:
            self._streams_ended = True
        elif kind == frames.GUEST_END:
            self._is_over(None)
        self._wake()

    async def _code(self) -> int | None:
        """Of a command of whose end nothing was heard: it went with its pod, or nobody knows."""
        if self._killing or self._wire.code == _KILLED:
            return _KILLED
        with contextlib.suppress(EngineUnreachable):
            return _KILLED if await self._has_ended() else None
        return None

    def _fail(self, why: str) -> None:
        self._failure = self._failure or why
        self._end(None)

    def _end(self, code: int | None) -> None:
        if not self._exit.done():
            self._exit.set_result(code)
        settle(self._started)

    def _is_over(self, code: int | None) -> None:
        """Idempotent."""
        self._end(code if code is not None or not self._killing else _KILLED)
        settle(self._over)
        self._wake()

    async def _heard(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed()
        except TimeoutError:
            raise self._too_silent() from None

    def _too_silent(self) -> EngineUnreachable:
        return EngineUnreachable(
            f"nothing was heard for {self.silence or 0:g} s", mend="Look whether something stops it"
        )

    async def _changed(self) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            settle(waiter)
