"""`run`: the one function that runs a runtime's or a helper's command.

The command runs under `dms-shim tether` (docs/protocol.md, section 6): when the pipe that we hold ends, be it by a
deadline, a cancellation or our own death, its process group is killed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from ..errors import InvalidRequest, StartFailed
from . import spawning

__all__ = ["Completed", "run"]

_STDOUT_MAX = 16 * 1024 * 1024
_STDERR_TAIL = 64 * 1024
_DEATH = 5.0  # seconds for a killed group to be gone
_READ = 65536


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended. `code` is 128 + n for a signal. `stdout` is its first 16 MiB, `stderr` its last 64 KiB."""

    code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False

    @property
    def complaint(self) -> str:
        """The last lines of stderr, for an error message."""
        return self.stderr[-2000:].decode(errors="replace").strip()


class _Pipe:
    """Reads one of the command's pipes as it comes, keeping a bounded part."""

    def __init__(self, fd: int, keep: Callable[[bytearray], bool]) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._keep = keep
        self.kept = bytearray()
        self.cut = False
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.kept += data
        self.cut |= self._keep(self.kept)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if not self.ended.done():
            self.ended.set_result(None)


def _head(kept: bytearray) -> bool:
    cut = len(kept) > _STDOUT_MAX
    del kept[_STDOUT_MAX:]
    return cut


def _tail(kept: bytearray) -> bool:
    cut = len(kept) > 2 * _STDERR_TAIL
    if cut:
        del kept[:-_STDERR_TAIL]
    return cut


async def run(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    deadline: float,
    stdin: int | bytes | None = None,
) -> Completed:
    """Runs `argv` (absolute) with `environment` and the C locale, for `deadline` seconds at most.

    `stdin` is a descriptor, bytes (at most what fits in memory twice) or nothing. Neither deadline nor cancellation
    leaves a process of its group behind. Raises `StartFailed` at the deadline, `ResourcesUnavailable`,
    `EngineUnavailable`; a command that fails is no error here: look at `code`.
    """
    if not argv or not Path(argv[0]).is_absolute():
        raise InvalidRequest(f"not an absolute command: {list(argv)!r}")
    path = await spawning.spawned_shim()
    chosen = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **environment, "LC_ALL": "C"}
    descriptors = _Descriptors()
    try:
        if isinstance(stdin, bytes):
            stdin = await asyncio.to_thread(descriptors.memory, stdin)
        pid, out, err, tether = descriptors.spawn(path, argv, chosen, stdin)
    finally:
        descriptors.close()
    return await _completed(pid, _Pipe(out, _head), _Pipe(err, _tail), tether, argv[0], deadline)


class _Descriptors:
    """Opens what the command gets; what is still open here is closed, whatever fails."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self._open.update(ends)
        return ends

    def spawn(
        self, path: str, argv: Sequence[str], environment: dict[str, str], stdin: int | None
    ) -> tuple[int, int, int, int]:
        """pid, and our ends of stdout, stderr and tether."""
        try:
            out, out_there = self._pipe()
            err, err_there = self._pipe()
            tether_there, tether = self._pipe()
            places = {1: out_there, 2: err_there, 3: tether_there}
            if stdin is not None:
                places[0] = stdin
        except OSError as error:
            raise spawning.mapped(error, f"cannot start {argv[0]}") from error
        pid = spawning.spawn(path, [path, "tether", *argv], environment, places)
        self._open -= {out, err, tether}
        return pid, out, err, tether

    def memory(self, data: bytes) -> int:
        """A file that holds `data`, at its beginning. Blocking."""
        fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
        self._open.add(fd)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def close(self) -> None:
        for fd in self._open:
            os.close(fd)
        self._open.clear()


async def _completed(pid: int, out: _Pipe, err: _Pipe, tether: int, name: str, deadline: float) -> Completed:
    exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    spawning.on_exit(pid, exited.set_result)
    try:
        async with asyncio.timeout(deadline):
            await asyncio.shield(exited)
            await out.ended
            await err.ended
    except TimeoutError:
        raise StartFailed(
            f"{name} did not end within {deadline:g} s: {bytes(err.kept[-500:]).decode(errors='replace')}"
        ) from None
    finally:
        os.close(tether)
        await _gone(exited)
        out.close()
        err.close()
    status = os.waitstatus_to_exitcode(exited.result())
    code = status if status >= 0 else 128 - status
    return Completed(code=code, stdout=bytes(out.kept), stderr=bytes(err.kept), truncated=out.cut)


async def _gone(exited: asyncio.Future[int]) -> None:
    """Waits for the tether's end, also while we are cancelled; not for ever, since a process may hang in the kernel."""
    if not exited.done():
        await asyncio.wait([exited], timeout=_DEATH)
