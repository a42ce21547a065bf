"""The powers `exec`, `attach` and `stats`: each is a conversation with `dms-pod`, executed in the pod."""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ..engine import Command, Execution, Handle
from ..errors import CopyFailed, EngineUnreachable, ExecutionNotRunning, ExecutorError, NotSupported, StartFailed
from ..types import Stats
from .client import RIGHTS, ApiError
from .conversation import ATTACH, HELPER, Conversation, told_of
from .gauge import FILES, Gauge, contents
from .helper import Helper
from .names import CONTAINER, POD, ROOM, pod_name
from .spec import checked_params

if TYPE_CHECKING:
    from .sites import Sites

__all__ = ["Attachment", "Execs", "PodCommand"]

_SIGNALS = 10.0
_FIGURES, _MOST = 30.0, 1 << 20  # seconds of silence, and bytes, of figures that are read
_T = TypeVar("_T", bound=Conversation)
_log = logging.getLogger("dms_executor.kubernetes")


class PodCommand(Conversation):
    """An `engine.Channel`."""

    is_terminal = False
    """Whether it was begun on one."""

    def close_stdin(self) -> None:
        """End of input; on a terminal what its user types for that."""
        if not self.is_terminal:
            self.end_input()
        else:
            self.type_end()


class Attachment:
    """An `engine.Attached`: what is written goes to a FIFO of the job's init, which it outlives."""

    def __init__(self, way: Conversation, x: Execution, engine: Execs, h: Handle) -> None:
        self._way = way
        self._is_terminal = x.request.tty
        self._send = partial(engine.signal, x, h)
        self._signals: set[asyncio.Task[None]] = set()
        self._has_ended = False

    async def write(self, data: bytes) -> None:
        """Raises `ExecutionNotRunning` where the job has no open input (any more)."""
        try:
            await self._way.write(data)
        except ExecutionNotRunning:
            raise ExecutionNotRunning("the job's input is closed, or was never open") from None

    def close_stdin(self) -> None:
        """The job reads the end of its input, for good; on a terminal what its user types for that. Idempotent."""
        if self._is_terminal:
            self._way.type_end()
        else:
            self._way.end_input()

    def resize(self, columns: int, rows: int) -> None:
        """Of the terminal, if there is one."""
        self._way.resize(columns, rows)

    def signal(self, signum: int) -> None:
        """By an exec of the init. Raises `ExecutionNotRunning`."""
        if self._has_ended:
            raise ExecutionNotRunning("the job has ended")
        task = asyncio.get_running_loop().create_task(self._signalled(signum), name="signal to an attached job")
        self._signals.add(task)
        task.add_done_callback(self._signals.discard)

    async def aclose(self) -> None:
        """Idempotent."""
        if self._signals:
            await asyncio.wait(self._signals, timeout=_SIGNALS)
        for task in self._signals:
            task.cancel()
        await self._way.finish()

    async def _signalled(self, signum: int) -> None:
        try:
            await self._send(signum)
        except ExecutionNotRunning:
            self._has_ended = True
        except ExecutorError as error:
            _log.warning("signal %d to an attached job: %s", signum, error)


class Execs:
    """The part of the engine that begins something beside a running job."""

    _sites: Sites
    _gauge: Gauge

    async def exec(self, x: Execution, h: Handle, command: Command) -> PodCommand:
        """Raises `StartFailed`, `ExecutionNotRunning`, `NotSupported`."""
        user = checked_params(x.request.engine_spec.params).user
        if command.user is not None and command.user != user:
            raise NotSupported(
                f"a pod's commands have the user of their container, not {command.user!r}",
                engine="kubernetes",
                what="user",
                mend="Leave user out, or give the job that user",
                execution_id=x.id,
            )
        environment = {**({"TERM": "xterm"} if command.terminal is not None else {}), **command.environment}
        told = told_of(
            [os.fsencode(word) for word in command.argv],
            environment=[f"{name}={value}" for name, value in environment.items()],
            directory=command.working_directory or ".",
            terminal=command.terminal,
        )
        found = await self._begun(x, PodCommand, told)
        found.is_terminal = command.terminal is not None
        return found

    async def attach(self, x: Execution, h: Handle) -> Attachment:
        """Raises `ExecutionNotRunning`."""
        way = await self._begun(x, Conversation, told_of([os.fsencode(ROOM)], flags=ATTACH))
        return Attachment(way, x, self, h)

    async def stats(self, x: Execution, h: Handle) -> Stats:
        """What the control group shows inside. Raises `ExecutionNotRunning`, `EngineUnreachable`."""
        try:
            code, data = await self._helped(x, [b"read", *map(os.fsencode, FILES)])
        except StartFailed as error:
            raise EngineUnreachable(error.message, mend="Ask again", execution_id=x.id) from error
        if code != 0:
            if await self._has_ended(x):
                raise ExecutionNotRunning("it has ended", execution_id=x.id)
            raise EngineUnreachable(f"its figures could not be read (code {code})", execution_id=x.id)
        return self._gauge.sample(x.token, contents(data))

    async def _helped(self, x: Execution, words: list[bytes]) -> tuple[int | None, bytes]:
        """A helper for files to its end: its code, and what it gave. For what is small."""
        way, given = await self._begun(x, Conversation, told_of(words, flags=HELPER)), bytearray()

        async def keep(data: bytes) -> None:
            given.extend(data)

        try:
            way.end_input()
            helper = Helper(way, words[0].decode(), silence=_FIGURES)
            await helper.take(keep, _MOST)
            return await helper.ended(), bytes(given)
        except CopyFailed as error:
            raise EngineUnreachable(error.message, mend=error.mend, execution_id=x.id) from error
        finally:
            await way.aclose()

    async def _begun(self, x: Execution, kind: type[_T], told: bytes) -> _T:
        """Returns once it runs. Raises `ExecutionNotRunning`, `StartFailed`, `EngineUnreachable`."""
        try:
            wire = await self._sites.of(x).client.converse(pod_name(x.token), CONTAINER, [POD])
        except ApiError as error:
            if await self._has_ended(x):
                raise ExecutionNotRunning("it has ended", execution_id=x.id) from error
            if error.lacks_rights:
                raise StartFailed(error.message, mend=RIGHTS, execution_id=x.id) from error
            raise EngineUnreachable(error.message, mend="Ask again", execution_id=x.id) from error
        begun = kind(wire, told, partial(self._has_ended, x))
        try:
            await begun.started()
        except BaseException:
            await begun.drop()
            raise
        return begun

    async def _has_ended(self, x: Execution) -> bool:
        return await self._sites.of(x).pods.ends_soon(x.token)

    async def signal(self, x: Execution, h: Handle, signum: int) -> None:
        raise NotImplementedError
