"""A further command in a running container, whose streams are pipes of ours and no stream of the daemon's.

The daemon starts our init in the container, detached; that calls us by a Unix socket which is bound there, is told the
pipes, and reports as the init of any session does (docs/protocol.md, section 3). So the streams are exact and bounded,
each of them closes by itself, and the end of the connection, however it comes, is the end of the command with all that
came of it; by the daemon's own streams it would live on (moby issue 9098).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from ..errors import EngineUnreachable, ExecutionNotRunning, ExecutorError, StartFailed
from ..supervisor import frames
from ..supervisor.ancillary import CREDENTIALS
from ..supervisor.reported import Reported, settle
from ..supervisor.spawning import mapped
from ..threads import finished

__all__ = ["Called", "Started", "open_called"]

_CALL = 60.0  # seconds for a daemon and its runtime to enter a container, on a busy host
_CLOSE = 10.0


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


class Called(Reported):
    """An `engine.Channel`. Made by `open_called`."""

    def __init__(
        self, connection: socket.socket, kept: list[int], look: Callable[[], Awaitable[Started]], terminal: bool
    ) -> None:
        stdin, stdout, stderr = kept
        super().__init__(connection, stdin, stdout, stderr, terminal=terminal)
        self._look = look
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._asking: asyncio.Task[None] | None = None
        self._loop.add_reader(connection, self._report_readable)

    async def started(self) -> None:
        """Waits until the command runs. Raises `StartFailed`, `ExecutionNotRunning`."""
        try:
            async with asyncio.timeout(_CALL):
                await self._started
        except TimeoutError:
            raise StartFailed(f"the command was not started within {_CALL:.0f} s") from None
        if self._failure:
            raise StartFailed(self._failure, errno=self._errno)
        if not self._reported and not self._exit.done():
            raise ExecutionNotRunning("the job has ended, or the command has killed its init")

    async def kill(self) -> None:
        """Returns once nothing of it is left. Raises `EngineUnreachable`."""
        self._killing = True
        if self._gone.done():
            return
        with contextlib.suppress(OSError):
            self._report.shutdown(socket.SHUT_WR)  # the init kills what came of it, and ends
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
                # What the command left in the background lives on; without this word its init would kill it.
                self._tell(frames.INIT_LEAVE)
        finally:
            self._hang_up_report()
            settle(self._gone)
            if self._asking is not None:
                self._asking.cancel()
                await asyncio.wait([self._asking])
            self._ended(None)
            self._pipes.close()

    def _report_ended(self) -> None:
        settle(self._gone)
        if self._reported and not self._exit.done():
            self._asking = self._loop.create_task(self._ask(), name="ask how a command ended")
        settle(self._started)

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
