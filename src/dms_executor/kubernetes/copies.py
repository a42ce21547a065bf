"""The power `copy`: a helper of `dms-pod` packs or unpacks in the pod, as the user of its container."""

from __future__ import annotations

import asyncio
import errno
import os

from ..copying import Found, found
from ..engine import Execution, Handle
from ..errors import CopyFailed, EngineUnreachable, ExecutionNotRunning, StartFailed
from ..supervisor import files
from .conversation import HELPER, Conversation, told_of
from .descriptors import Descriptor
from .execs import Execs
from .helper import Helper

__all__ = ["Copies"]


class Copies(Execs):
    """What the engine has of `engine.Copies`."""

    async def look(self, x: Execution, h: Handle, path: bytes) -> Found:
        """What a path in the job is."""
        async with _Copy(self, x, [b"look", path]) as copy:
            copy.way.end_input()
            await copy.take(None)
            return found(files.kinds_of(await copy.ended()))

    async def archive_out(
        self, x: Execution, h: Handle, path: bytes, name: bytes, sink: int, *, follow: bool
    ) -> list[str]:
        """Raises `CopyFailed`, `ExecutionNotRunning`."""
        words = [b"pack", *([b"-L"] if follow else []), name, path]
        async with _Copy(self, x, words) as copy, Descriptor(sink, os.O_WRONLY) as file:
            copy.way.end_input()
            await copy.take(file)
            return files.told(await copy.ended())

    async def archive_in(self, x: Execution, h: Handle, folder: bytes, source: int, *, keep_owner: bool) -> list[str]:
        """Raises `CopyFailed`, `ExecutionNotRunning`."""
        words = [b"unpack", *files.words_of_unpack(folder, keep_owner=keep_owner)]
        async with _Copy(self, x, words) as copy, Descriptor(source, os.O_RDONLY) as file:
            giving = asyncio.ensure_future(copy.give(file))
            taking = asyncio.ensure_future(copy.take(None))
            try:
                await asyncio.wait([giving, taking], return_when=asyncio.FIRST_EXCEPTION)
                for task in (giving, taking):
                    if task.done():
                        await task
                return files.told(await copy.ended())
            finally:
                for task in (giving, taking):
                    task.cancel()
                await asyncio.wait([giving, taking])


class _Copy:
    """A helper as long as the block lasts; what it ends of is a copy's."""

    way: Conversation

    def __init__(self, engine: Copies, x: Execution, words: list[bytes]) -> None:
        self._engine = engine
        self._x = x
        self._words = words

    async def __aenter__(self) -> _Copy:
        try:
            self.way = await self._engine._begun(self._x, Conversation, told_of(self._words, flags=HELPER))
        except StartFailed as error:
            raise CopyFailed(error.message, errno=error.errno or 0, execution_id=self._x.id) from error
        self._helper = Helper(self.way, self._words[0].decode())
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.way.aclose()
        except EngineUnreachable:  # it reads the end of the connection, and ends by that
            return

    async def take(self, sink: Descriptor | None) -> None:
        """All that it gives, to its end."""
        try:
            await self._helper.take(sink.write if sink is not None else None)
        except EngineUnreachable as error:
            raise self._silent(error) from error
        except OSError as error:
            raise self._failed("the archive cannot be written", error) from error

    async def give(self, source: Descriptor) -> None:
        """All of `source`, as far as it reads it."""
        try:
            while data := await source.read():
                await self.way.write(data)
        except ExecutionNotRunning:
            return  # it says itself why
        except EngineUnreachable as error:
            raise self._silent(error) from error
        except OSError as error:
            raise self._failed("the archive cannot be read", error) from error
        self.way.end_input()

    async def ended(self) -> list[files.Record]:
        """What it told. Raises `CopyFailed`, `ExecutionNotRunning`."""
        try:
            return self._helper.judged(await self._helper.ended())
        except EngineUnreachable as error:
            raise self._silent(error) from error
        except CopyFailed as error:
            error.execution_id = self._x.id
            if not self._helper.said and await self._engine._has_ended(self._x):
                raise ExecutionNotRunning("it has ended", execution_id=self._x.id) from error
            raise

    def _failed(self, what: str, error: OSError) -> CopyFailed:
        return CopyFailed(f"{what}: {error.strerror}", errno=error.errno or 0, execution_id=self._x.id)

    def _silent(self, error: EngineUnreachable) -> CopyFailed:
        return CopyFailed(error.message, errno=errno.ETIMEDOUT, mend=error.mend, execution_id=self._x.id)
