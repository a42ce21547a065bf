"""`Bench`: one line's own state folder and executor, and short words for what every line does."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ExecutionAlreadyFinished, ExecutionNotFound
from ..executor import Executor
from ..policy import Policy
from ..types import ExecutionInfo, ExecutionRequest, ExecutionResult, LogStreamRequest, Settings, SpecConfig
from .steps import Step
from .subject import Subject

__all__ = ["Bench"]


class Bench:
    """What a line works with. `folder` is its own, `state` the state folder in it, `executor` is open."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject = subject
        self.folder = folder
        self.state = folder / "state"
        self._stack: AsyncExitStack | None = None
        self._executor: Executor | None = None
        self._count = 0

    @property
    def executor(self) -> Executor:
        """The open executor."""
        if self._executor is None:
            raise RuntimeError("the bench's executor is closed")
        return self._executor

    async def open(self, policy: Policy | None = None, **settings: Any) -> Executor:
        """Opens the executor; `settings` are fields of `Settings` to change. One that is open is closed first."""
        await self.close()
        self.subject.register()
        stack = AsyncExitStack()
        chosen: Settings = msgspec.structs.replace(self.subject.settings(), **settings)
        opening = Executor.open(self.state, policy=policy or self.subject.policy(self.folder), settings=chosen)
        self._executor = await stack.enter_async_context(opening)
        self._stack = stack
        return self._executor

    async def close(self) -> None:
        """Closes the executor, as the end of an `async with` does."""
        stack, self._stack, self._executor = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    # -- jobs ----------------------------------------------------------------------------------------------------

    def request(self, *steps: Step, spec: SpecConfig | None = None, **fields: Any) -> ExecutionRequest:
        """A request of these steps, under an id of its own unless one is given."""
        self._count += 1
        fields = {"job_id": "job", "execution_id": f"e-{os.getpid()}-{self._count}", **fields}
        return ExecutionRequest(engine_spec=spec or self.subject.spec(*steps), **fields)

    async def run(self, *steps: Step, **fields: Any) -> ExecutionResult:
        """The result of a job of these steps."""
        return await self.executor.run(self.request(*steps, **fields))

    async def start(self, *steps: Step, until: str = "", **fields: Any) -> str:
        """Starts a job, waits until its output holds `until`, and gives its id."""
        request = self.request(*steps, **fields)
        await self.executor.start(request)
        if until:
            await self.heard(request.execution_id, until)
        return request.execution_id

    async def heard(self, execution_id: str, text: str) -> None:
        """Follows the log until `text` is in it."""
        seen = b""
        async with await self.follow(execution_id) as stream:
            async for chunk in stream:
                seen += chunk
                if text.encode() in seen:
                    return
        raise AssertionError(f"{execution_id} ended without {text!r} in its output: {seen[-500:]!r}")

    async def follow(self, execution_id: str, **fields: Any) -> Any:
        """A stream of an execution's log that goes on to its end."""
        return await self.executor.get_log_stream(
            LogStreamRequest(execution_id=execution_id, **{"follow": True, **fields})
        )

    async def output(self, execution_id: str, **fields: Any) -> bytes:
        """What the log holds now, or with `follow` to the end."""
        async with await self.follow(execution_id, **{"follow": False, **fields}) as stream:
            data: bytes = await stream.read()
            return data

    async def ids(self) -> list[str]:
        """The ids of all executions, in order."""
        return [info.request.execution_id for info in await self.executor.list()]

    async def info(self, execution_id: str) -> ExecutionInfo | None:
        """What is known of an id; None: nothing."""
        try:
            return await self.executor.inspect(execution_id)
        except ExecutionNotFound:
            return None

    # -- a second process ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def elsewhere(
        self, work: Callable[..., Awaitable[Any]], *arguments: Any, fault: str = ""
    ) -> AsyncIterator[Any]:
        """Runs `work(bench, *arguments)` in a process of its own on the same state folder; see `Other`."""
        from .elsewhere import Other

        other = await Other.spawn(self.subject, self.folder, work, arguments, fault)
        try:
            yield other
        finally:
            await other.kill()

    # -- the end of a line ---------------------------------------------------------------------------------------

    async def clear(self) -> None:
        """Ends and removes all executions. Raises AssertionError where something of them is left."""
        if self._executor is None:
            await self.open()
        tokens = await asyncio.to_thread(self._tokens)
        for execution_id in await self.ids():
            await self._remove(execution_id)
        await self.close()
        left = await asyncio.to_thread(self.subject.leftovers, tokens)
        left += [f"folder {token}" for token in await asyncio.to_thread(self._tokens)]
        if left:
            raise AssertionError(f"left behind after every execution was removed: {', '.join(left)}")

    async def _remove(self, execution_id: str) -> None:
        with contextlib.suppress(ExecutionAlreadyFinished):
            await self.executor.cancel(execution_id, grace=0)
        await self.executor.remove(execution_id)

    def _tokens(self) -> list[str]:
        folder = self.state / "executions"
        return os.listdir(folder) if folder.is_dir() else []
