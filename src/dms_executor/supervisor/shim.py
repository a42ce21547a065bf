"""`Shim`: one connection to a shim, and how to make or find one.

A caller holds a thousand of these: a raw non-blocking socket and a few futures each, no transport, no task. Every
request has a deadline; only `ended` waits for the user's job and has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal as signals
import socket
import struct
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from ..errors import EngineUnreachable, ExecutionNotRunning, StartFailed
from . import frames, spawning
from .dialling import dial
from .record import command_errno
from .spec import ShimSpec, encode, milliseconds
from .suspended import why_not_saved

__all__ = ["Shim", "Spare", "connect", "create", "sentence", "spare"]

Phase = Literal["created", "going", "running", "ending", "suspending"]

_PHASES: dict[int, Phase] = {1: "created", 2: "going", 3: "running", 4: "ending", 5: "suspending"}
_CAUSES = {"deadline": 1, "stop": 2}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ANSWER = 10.0  # seconds for an answer that the shim gives at once
_BIRTH = 30.0  # seconds for mounts on a busy host
_START = 120.0  # seconds for a runtime that starts a container
_SUSPENSION = 2000.0  # seconds; longer than native/vm_monitor.c waits for a whole memory on a slow disk
_READ = 4096


def _stamp(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


class Shim:
    """A connection to the shim of one execution. Made by `create` and `connect`; `close` leaves the job alone."""

    __slots__ = (
        "_answers",
        "_decoder",
        "_ended",
        "_errno",
        "_failure",
        "_go",
        "_hello",
        "_loop",
        "_open",
        "_refused",
        "_socket",
        "_waiters",
        "phase",
        "pid",
        "record",
        "start_time",
        "started_at",
    )

    def __init__(self, connection: socket.socket) -> None:
        self.pid = 0
        self.start_time = 0
        self.phase: Phase = "created"
        self.started_at: datetime | None = None
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._decoder = frames.Decoder()
        self._answers: deque[asyncio.Future[str | None]] = deque()
        self._hello: asyncio.Future[None] = self._loop.create_future()
        self._go: asyncio.Future[None] | None = None
        self._failure: str | None = None
        self._errno: int | None = None
        self._refused = 0
        self._waiters: set[asyncio.Future[bool]] = set()
        self._ended = False
        self.record = b""
        """The exit record, once `ended` said True; empty where the shim could not make one."""
        self._open = True
        self._loop.add_reader(connection.fileno(), self._readable)

    async def go(self, within: float = _START) -> datetime:
        """Lets the job run; returns once it does, with that time. Idempotent. `within`: seconds that it may take.

        Raises `StartFailed`.
        """
        if self.started_at is None and self._failure is None and self._open:
            if self._go is None:
                self._go = self._loop.create_future()
                self._send(frames.GO)
            await self._started(self._go, within)
        if self.started_at is not None:
            return self.started_at
        why = self._failure or "the shim ended before the job started; its folder's shim.log may tell why"
        raise StartFailed(why, errno=self._errno)

    async def _started(self, go: asyncio.Future[None], within: float) -> None:
        try:
            async with asyncio.timeout(within):
                await asyncio.shield(go)
        except TimeoutError:
            # A job that nobody counts on any more must not come to life later.
            self._send(frames.STOP, struct.pack("<IIQ", signals.SIGKILL, _CAUSES["stop"], 0))
            raise StartFailed(f"the runtime did not start the job within {within:.0f} s") from None

    async def stop(self, signum: int, grace: float, cause: Literal["deadline", "stop"] = "stop") -> None:
        """`signum` now and KILL after `grace` seconds. Returns once the shim has it in hand, or the job has ended."""
        if self._ended or not self._open:
            return
        payload = struct.pack("<IIQ", signum, _CAUSES[cause], milliseconds(grace))
        refusal = await self._ask(frames.STOP, payload)
        if refusal is not None and self._open:
            raise EngineUnreachable(f"the shim refused to stop the job: {refusal}")

    async def signal(self, signum: int) -> None:
        """Sends a signal to the job's main process. Raises `ExecutionNotRunning`."""
        refusal = "it has ended"
        if not self._ended and self._open:
            answer = await self._ask(frames.SIGNAL, struct.pack("<I", signum))
            if answer is None:
                return
            refusal = answer
        raise ExecutionNotRunning(f"signal {signum} reached nobody: {refusal}")

    async def suspend(self) -> None:
        """Saves the job to disk, whoever lives to see it; returns when that is done and the shim ends.

        To be asked on a connection that asks nothing else meanwhile: answers come in order, and this one late.

        Raises `ExecutionNotRunning`, `NotSupported` (something is open in it that would be lost),
        `ResourcesUnavailable` (the disk is full), `SnapshotFailed`, `EngineUnreachable`.
        """
        refusal, self._refused = "it has ended", errno.ESRCH
        if not self._ended and self._open:
            answer = await self._ask(frames.SUSPEND, within=_SUSPENSION)
            if answer is None:
                return
            refusal = answer
        raise why_not_saved(self._refused if self._open else errno.ESRCH, refusal)

    @property
    def is_gone(self) -> bool:
        """Whether the connection has ended without a record."""
        return not self._open and not self._ended

    async def ended(self) -> bool:
        """Waits for the end. True: the exit record is there. False: the connection ended without it."""
        if self._ended or not self._open:
            return self._ended
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)

    def close(self) -> None:
        """Ends the connection. A shim that has not got its go exits; a running job goes on. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._settle()

    async def _born(self, config: bytes, descriptors: list[int]) -> None:
        """Sends CONFIG and waits for READY."""
        try:
            sent = socket.send_fds(self._socket, [config], descriptors)
            async with asyncio.timeout(_BIRTH):
                await self._loop.sock_sendall(self._socket, memoryview(config)[sent:])
        except TimeoutError:
            raise StartFailed(f"the shim did not read its configuration within {_BIRTH:.0f} s") from None
        except (BrokenPipeError, ConnectionResetError):
            pass  # it said why: FAILED is read below
        except OSError as error:
            raise spawning.mapped(error, "cannot send the configuration to the shim") from error
        if not await self._introduced(_BIRTH):
            if self._failure is None:
                raise _Speechless("the shim ended before it was ready")
            raise StartFailed(self._failure)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_READ)
            for kind, payload in self._decoder.feed(data):
                self._take(kind, payload)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, frames.ProtocolError):
            data = b""
        if not data or self._ended:
            self.close()

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == frames.READY:
            _, self.pid, self.start_time = struct.unpack("<IIQ", payload)
            self._resolve_hello()
        elif kind == frames.STATE:
            _, phase, started, self.pid, self.start_time = struct.unpack("<IIQIQ", payload)
            self.phase = _PHASES.get(phase, "running")
            self.started_at = _stamp(started) if started else self.started_at
            self._resolve_hello()
        elif kind == frames.STARTED:
            self.phase, self.started_at = "running", _stamp(struct.unpack("<Q", payload)[0])
            self._resolve_go()
        elif kind == frames.FAILED:
            self.phase, self._failure = "ending", sentence(payload)
            self._errno = command_errno(*frames.error(payload))
            self._resolve_hello()
            self._resolve_go()
        elif kind == frames.ENDED:
            self.phase, self._ended, self.record = "ending", True, payload
        elif kind == frames.ERROR and not self._hello.done():
            self._failure = sentence(payload)
            self._resolve_hello()
        elif self._answers:
            answer = self._answers.popleft()
            if kind == frames.ERROR:
                self._refused = frames.error(payload)[0]
            if not answer.done():
                answer.set_result(sentence(payload) if kind == frames.ERROR else None)

    def _resolve_hello(self) -> None:
        if not self._hello.done():
            self._hello.set_result(None)

    def _resolve_go(self) -> None:
        if self._go is not None and not self._go.done():
            self._go.set_result(None)

    def _settle(self) -> None:
        """Nothing more will come: everybody who waits gets to know."""
        self._resolve_hello()
        self._resolve_go()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(self._ended)
        for answer in self._answers:
            if not answer.done():
                answer.set_result("it has ended")
        self._answers.clear()

    def _send(self, kind: int, payload: bytes = b"") -> None:
        # Frames are tiny: a full socket belongs to a shim that is stuck (the deadline tells), a broken one to a shim
        # that is gone (the reader tells, after the last that it said).
        with contextlib.suppress(OSError):
            self._socket.send(frames.pack(kind, payload), socket.MSG_NOSIGNAL)

    async def _ask(self, kind: int, payload: bytes = b"", *, within: float = _ANSWER) -> str | None:
        """None: OK; else why not."""
        answer: asyncio.Future[str | None] = self._loop.create_future()
        self._answers.append(answer)
        self._send(kind, payload)
        try:
            async with asyncio.timeout(within):
                return await answer
        except TimeoutError:
            raise EngineUnreachable(f"the shim (pid {self.pid}) did not answer within {within:.0f} s") from None

    async def _introduced(self, deadline: float) -> bool:
        """Waits for READY, STATE or FAILED; False if the shim ended or said nothing."""
        try:
            async with asyncio.timeout(deadline):
                await self._hello
        except TimeoutError:
            self._failure = f"the shim did not answer within {deadline:.0f} s"
        return self.pid != 0 and self._failure is None


def sentence(payload: bytes) -> str:
    """A FAILED or ERROR frame's payload, as one says it."""
    number, text = frames.error(payload)
    return f"{text}: {os.strerror(number)}" if number else text


class Spare:
    """A shim that was spawned ahead of its execution and waits for its configuration: half of a birth's time.

    It ends with the connection. `take` it once, for one `create`.
    """

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._socket: socket.socket | None = connection
        self.pid = pid

    def take(self) -> socket.socket | None:
        """Its connection, non-blocking; None where it was taken, or its process has ended."""
        connection, self._socket = self._socket, None
        if connection is None:
            return None
        try:
            connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return connection
        except OSError:
            pass
        connection.close()  # a spare has nothing to say: it is gone
        return None

    def close(self) -> None:
        """Ends it. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def spare(userns: Sequence[str] = ()) -> Spare:
    """Spawns a shim ahead of its execution. `userns`: as `ShimSpec.userns`. Raises as `create` does."""
    path = await spawning.spawned_shim()
    connection, pid = _spawn(path, None, userns)
    spawning.forget(pid)
    return Spare(connection, pid)


async def create(folder: Path, spec: ShimSpec, ahead: Spare | None = None) -> Shim:
    """Starts a shim for the execution in `folder`; returns when all but the go is done.

    `ahead`: a spare to use, if it lives; then `spec.folder` is needed. Cancelled or failed, it leaves no process
    behind. Raises `StartFailed`, `ResourcesUnavailable`, `InvalidRequest`, `EngineUnavailable`.
    """
    config, descriptors = encode(spec)
    ours = ahead.take() if ahead is not None and spec.folder is not None else None
    if ours is not None:
        with contextlib.suppress(_Speechless):  # it was killed at this moment; the job has done nothing for that
            return await _begun(ours, config, descriptors)
    ours, pid = _spawn(await spawning.spawned_shim(), folder)
    try:
        return await _begun(ours, config, descriptors)
    finally:
        spawning.forget(pid)


class _Speechless(StartFailed):
    """A shim that ended without a word of why."""


async def _begun(connection: socket.socket, config: bytes, descriptors: list[int]) -> Shim:
    shim = Shim(connection)
    try:
        await shim._born(config, descriptors)
    except BaseException:
        shim.close()
        raise
    return shim


def _spawn(path: str, folder: Path | None, userns: Sequence[str] = ()) -> tuple[socket.socket, int]:
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise spawning.mapped(error, "cannot start a shim") from error
    with theirs:
        try:
            pid = spawning.spawn(path, [path, "run", *userns], {}, {0: theirs.fileno()}, folder)
        except BaseException:
            ours.close()
            raise
    ours.setblocking(False)
    return ours, pid


async def connect(folder: Path) -> Shim | None:
    """The shim of the execution in `folder`; None if nobody listens there (then the exit record tells, or it is lost).

    Raises `EngineUnreachable` if a shim is there and does not answer.
    """
    loop = asyncio.get_running_loop()
    dialling = loop.run_in_executor(None, dial, folder)
    try:
        connection = await asyncio.shield(dialling)
    except asyncio.CancelledError:
        dialling.add_done_callback(_hang_up)
        raise
    if connection is None:
        return None
    shim = Shim(connection)
    try:
        shim._send(frames.HELLO, struct.pack("<I", frames.VERSION))
        if await shim._introduced(_ANSWER):
            return shim
        if shim._failure is not None:
            raise EngineUnreachable(shim._failure)
    except BaseException:
        shim.close()
        raise
    return None


def _hang_up(dialling: asyncio.Future[socket.socket | None]) -> None:
    if not dialling.cancelled() and dialling.exception() is None:
        connection = dialling.result()
        if connection is not None:
            connection.close()
