"""Files of a job in a guest: a helper beside the job, asked for through the socket at which its VM takes commands.

It is `look`, `pack` and `unpack` of docs/protocol.md, section 8, run by the guest's agent with the job's view of files.
What comes out of a guest is a stranger's: whoever unpacks it does so beneath its target.
"""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from ..errors import ExecutionNotRunning
from ..images.users import User, resolve_account
from ..supervisor import binary, tether
from ..threads import finished
from .guest import encode_helper

__all__ = ["GuestFiles", "user_inside"]

_ACCOUNTS = (b"/etc/passwd", b"/etc/group")
_NO_FILE = 0xFFFFFFFF
_MOST = 1 << 20  # bytes of one
_READ = 30.0  # seconds for two small files, on a busy host


class GuestFiles:
    """A `supervisor.files.Elsewhere`: the guest of the execution in `folder`."""

    def __init__(self, folder: Path, state_dir: Path) -> None:
        self._folder = folder
        self._state_dir = state_dir

    @asynccontextmanager
    async def reached(self, words: Sequence[bytes]) -> AsyncIterator[list[str]]:
        """The command that runs a mode there, as long as the block lasts. Raises `OSError`."""
        argv, opened = await finished(_let_go, self._command, words)
        try:
            yield argv
        finally:
            _let_go((argv, opened))

    def _command(self, words: Sequence[bytes]) -> tuple[list[str], list[int]]:
        program = binary.vm_exec_path(self._state_dir)
        told = os.memfd_create("helper", os.MFD_CLOEXEC)
        try:
            os.write(told, encode_helper(words))
            folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except BaseException:
            os.close(told)
            raise
        place = f"/proc/{os.getpid()}/fd"
        return [os.fspath(program), "-f", f"{place}/{told}", f"{place}/{folder}"], [told, folder]


def _let_go(made: tuple[list[str], list[int]]) -> None:
    for fd in made[1]:
        os.close(fd)


async def user_inside(files: GuestFiles, text: str) -> User:
    """A user by the accounts that the job has now. Raises `ExecutionNotRunning`, `StartFailed` (no such user)."""
    async with files.reached([b"read", *_ACCOUNTS]) as argv:
        done = await tether.run(argv, environment={}, deadline=_READ)
    if done.code != 0:
        raise ExecutionNotRunning("the job has ended")
    passwd, group = _parts(done.stdout, len(_ACCOUNTS))
    return resolve_account(passwd, group, text)


def _parts(data: bytes, count: int) -> list[bytes | None]:
    """Each file behind its length. A guest wrote that: what is not whole is not there."""
    parts: list[bytes | None] = []
    while len(parts) < count:
        length = struct.unpack_from("<I", data)[0] if len(data) >= 4 else _NO_FILE
        parts.append(data[4 : 4 + min(length, _MOST)] if length != _NO_FILE else None)
        data = data[4 + (length if length != _NO_FILE else 0) :]
    return parts
