"""A further command in a running container, whose streams are pipes of ours and no stream of the daemon's.

The daemon starts our init in the container, detached; that calls us by a Unix socket which is bound there, is told the
pipes, and reports as the init of any session does (docs/protocol.md, section 3). So the streams are exact and bounded,
each of them closes by itself, and the end of the connection, however it comes, is the end of the command with all that
came of it; by the daemon's own streams it would live on (moby issue 9098).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Awaitable, Callable
from pathlib import Path

from ..errors import EngineUnreachable, ExecutionNotRunning, ExecutorError, StartFailed
from ..supervisor import frames
from ..supervisor.ancillary import CREDENTIALS, is_master, sent_along
from ..supervisor.pipes import Pipes
from ..supervisor.record import command_errno
from ..supervisor.shim import sentence
from ..supervisor.spawning import mapped
from ..threads import finished
from ..types import Stream

__all__ = ["Called", "Started", "open_called"]

_CALL = 60.0  # seconds for a daemon and its runtime to enter a container, on a busy host
_CLOSE = 10.0
_DRAIN = 0.3  # seconds that a child may keep a stream open once the command has ended
_READ = 4096


class Started:
    """What the daemon says of a command: `pid` on this host, 0 where it never ran, `code` once it has ended."""

    def __init__(self, pid: int, code: int | None) -> None:
        self.pid = pid
        self.code = code


class _Place:
    """Where the init calls, and the pipes: `kept` are ours (stdin, stdout, stderr), `given` the command's."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.kept: list[int] = []
        self.given: list[int] = []
        try:
            self._listen()
            for reads in (False, True, True):
                end, other = os.pipe2(os.O_CLOEXEC)
                mine, its = (end, other) if reads else (other, end)
                self.kept.append(mine)
                self.given.append(its)
                os.set_blocking(mine, False)
                os.fchmod(its, 0o666)  # for whatever user the command has, as /dev/stdout
        except BaseException:
            self.close()
            raise

    def _listen(self) -> None:
        folder = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path = f"/proc/self/fd/{folder}/{self.name}"  # the whole one may be longer than unix(7) allows
            self.listening.bind(path)
            Path(path).chmod(0o666)
        finally:
            os.close(folder)
        self.listening.listen(1)
        self.listening.setblocking(False)

    def no_more_calls(self) -> None:
        """Idempotent. Blocks."""
        self.listening.close()
        with contextlib.suppress(OSError):
            (self.folder / self.name).unlink()

    def close(self) -> None:
        """What has not been taken out of `kept` and `given`. Blocks."""
        self.no_more_calls()
        for fd in (*self.kept, *self.given):
            os.close(fd)
        self.kept, self.given = [], []


class Called:
    """An `engine.Channel`. Made by `open_called`."""

    def __init__(
        self, connection: socket.socket, kept: list[int], look: Callable[[], Awaitable[Started]], terminal: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        stdin, stdout, stderr = kept
        outputs: dict[int, Stream] = {stdout: "stdout", stderr: "stderr"}
        self._pipes = Pipes(stdin, outputs, drain=_DRAIN)
        self._look = look
        self._wants_terminal = terminal
        self._decoder = frames.Decoder()
        self._begun: asyncio.Future[None] = self._loop.create_future()
        self._exit: asyncio.Future[int | None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._asking: asyncio.Task[None] | None = None
        self._failure: tuple[str, int | None] | None = None
        self._killing = False
        self._ran = False
        self._loop.add_reader(connection, self._readable)

    async def started(self) -> None:
        """Waits until the command runs. Raises `StartFailed`, `ExecutionNotRunning`."""
        try:
            async with asyncio.timeout(_CALL):
                await self._begun
        except TimeoutError:
            raise StartFailed(f"the command was not started within {_CALL:.0f} s") from None
        if self._failure is not None:
            raise StartFailed(self._failure[0], errno=self._failure[1])
        if not self._ran and not self._exit.done():
            raise ExecutionNotRunning("the job has ended, or the command has killed its init")

    async def read(self) -> tuple[Stream, bytes] | None:
        """The next piece of output; None at the end."""
        return await self._pipes.read()

    async def write(self, data: bytes) -> None:
        """Raises `ExecutionNotRunning` where nobody reads its input any more."""
        await self._pipes.write(data)

    def close_stdin(self) -> None:
        """End of input."""
        self._pipes.close_stdin()

    def resize(self, columns: int, rows: int) -> None:
        """Of the terminal, if there is one."""
        if self._pipes.terminal is not None:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._pipes.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def signal(self, signum: int) -> None:
        """Raises `ExecutionNotRunning`."""
        try:
            if self._exit.done() or self._gone.done():
                raise ExecutionNotRunning("the command has ended")
            self._connection.send(frames.pack(frames.INIT_SIGNAL, struct.pack("<I", signum)), socket.MSG_NOSIGNAL)
        except OSError as error:
            raise ExecutionNotRunning("the command has ended") from error

    async def wait(self) -> int | None:
        """The exit code."""
        return await asyncio.shield(self._exit)

    async def kill(self) -> None:
        """Returns once nothing of it is left. Raises `EngineUnreachable`."""
        self._killing = True
        if self._gone.done():
            return
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)  # the init kills what came of it, and ends
        try:
            async with asyncio.timeout(_CLOSE):
                await asyncio.shield(self._gone)
        except TimeoutError:
            raise EngineUnreachable(f"the command did not end within {_CLOSE:.0f} s; is its job paused?") from None

    async def aclose(self) -> None:
        """Kills what has not ended, and returns once nothing of that is left."""
        try:
            if not self._exit.done():
                await self.kill()
            elif not self._gone.done():
                self._leave()
        finally:
            self._hang_up()
            if self._asking is not None:
                self._asking.cancel()
                await asyncio.wait([self._asking])
            self._ended(None)
            self._pipes.close()

    def _leave(self) -> None:
        """What the command left in the background lives on; without this word its init would kill it."""
        with contextlib.suppress(OSError):
            self._connection.send(frames.pack(frames.INIT_LEAVE), socket.MSG_NOSIGNAL)

    def _readable(self) -> None:
        try:
            data, control, _, _ = self._connection.recvmsg(_READ, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, control = b"", []
        _, master = sent_along(control)
        try:
            for kind, payload in self._decoder.feed(data):
                master = self._said(kind, payload, master)
        except frames.ProtocolError:
            data = b""
        if master is not None:
            os.close(master)
        if not data:
            self._hang_up()

    def _said(self, kind: int, payload: bytes, master: int | None) -> int | None:
        """Serves a frame of the init; gives back the descriptor if it was not taken."""
        if kind == frames.INIT_TERMINAL and self._wants_terminal and master is not None and is_master(master):
            self._pipes.become_terminal(master)
            return None
        if kind == frames.INIT_STARTED:
            self._ran = True
            _settle(self._begun)
        elif kind == frames.INIT_FAILED:
            self._failure = (sentence(payload), command_errno(*frames.error(payload)))
            _settle(self._begun)
        elif kind == frames.INIT_EXITED:
            status = struct.unpack("<I", payload)[0]
            self._ended(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
        return master

    def _hang_up(self) -> None:
        if self._connection.fileno() < 0:
            return
        self._loop.remove_reader(self._connection)
        self._connection.close()
        _settle(self._gone)
        if self._ran and not self._exit.done():
            self._asking = self._loop.create_task(self._ask(), name="ask how a command ended")
        _settle(self._begun)

    async def _ask(self) -> None:
        """The init was killed, or its job was: the daemon knows the rest."""
        code = None
        try:
            async with asyncio.timeout(_CLOSE):
                while (code := (await self._look()).code) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except (ExecutorError, TimeoutError):
            code = None
        self._ended(code if code is not None or not self._killing else 137)

    def _ended(self, code: int | None) -> None:
        if self._exit.done():
            return
        self._exit.set_result(code)
        _settle(self._begun)
        self._pipes.ended()


async def open_called(
    folder: Path,
    begin: Callable[[str], Awaitable[Callable[[], Awaitable[Started]]]],
    *,
    terminal: bool,
) -> Called:
    """`begin` has the daemon start the init, which calls by the name that it is given in `folder`; it returns what asks
    the daemon how that is. Raises `StartFailed`, `ExecutionNotRunning`, and what `begin` raises.
    """
    place = await finished(_Place.close, _placed, folder)
    try:
        calling = asyncio.ensure_future(asyncio.get_running_loop().sock_accept(place.listening))
        try:
            look = await begin(place.name)
            connection = await _caller(calling, look)
        except BaseException:
            await _dropped(calling)
            raise
        kept, place.kept = place.kept, []
        called = Called(connection, kept, look, terminal)
        try:
            await asyncio.to_thread(place.no_more_calls)
            socket.send_fds(connection, [frames.pack(frames.INIT_GO)], place.given)
            await asyncio.to_thread(place.close)
            await called.started()
        except BaseException as error:
            with contextlib.suppress(ExecutorError):
                await called.aclose()
            if isinstance(error, OSError):
                raise ExecutionNotRunning("the command has ended") from error
            raise
        return called
    finally:
        await asyncio.to_thread(place.close)


async def _caller(
    calling: asyncio.Future[tuple[socket.socket, str]], look: Callable[[], Awaitable[Started]]
) -> socket.socket:
    """Whoever called must be the process that the daemon started: the job's other processes see the socket, too."""
    try:
        async with asyncio.timeout(_CALL):
            while not (await asyncio.wait([calling], timeout=0.5))[0]:
                found = await look()
                if found.code is not None:
                    raise StartFailed(f"the daemon started the command's init, which ended with {found.code}")
    except TimeoutError:
        raise StartFailed(
            f"the command's init did not call within {_CALL:.0f} s: is the daemon on this host?"
        ) from None
    connection, _ = calling.result()
    pid = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))[0]
    found = await look()
    if found.code is not None or found.pid != pid:
        raise StartFailed("another process of the job answered in place of the command")
    return connection


async def _dropped(calling: asyncio.Future[tuple[socket.socket, str]]) -> None:
    calling.cancel()
    await asyncio.wait([calling])
    if not calling.cancelled() and calling.exception() is None:
        calling.result()[0].close()


def _placed(folder: Path) -> _Place:
    try:
        return _Place(folder, os.urandom(8).hex())
    except FileNotFoundError:
        raise ExecutionNotRunning("nothing is left of its container") from None
    except OSError as error:
        raise mapped(error, "the command cannot be given its streams") from error


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
