"""A loop thread: an event loop of its own with an open executor in it, and calls into it from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from .errors import ExecutorClosed
from .executor import Executor

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread of its own, with an open executor in it."""

    def __init__(self, opening: Callable[[], Any]) -> None:
        self._guard = threading.Lock()
        self._calls: set[asyncio.Task[Any]] = set()
        self._opened: Future[Executor] = Future()
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._failure: BaseException | None = None
        self.alive = True
        # A daemon: who forgets to close keeps no process alive, and the jobs run on anyway.
        self._thread = threading.Thread(target=self._run, args=(opening,), name="dms-executor", daemon=True)
        self._thread.start()
        try:
            self.executor = self._opened.result()
        except BaseException:
            self.close()  # also when Ctrl-C comes meanwhile
            raise

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` as a task of the loop and waits for it; what interrupts the wait cancels the task first."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a blocking method was called in the loop's own thread: it would wait for itself")
        call: _Call[T] = _Call(work, self._calls)
        with self._guard:
            if not self.alive:
                work.close()
                raise ExecutorClosed("the executor is closed", mend="Open it again; running jobs go on")
            self._loop.call_soon_threadsafe(call.begin)
        try:
            return call.outcome.result()
        except KeyboardInterrupt:
            self._give_up(call)
            raise

    def close(self) -> None:
        """Closes the executor and ends the thread. Idempotent."""
        with self._guard:
            if self.alive:
                self._loop.call_soon_threadsafe(self._closing.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _give_up(self, call: _Call[Any]) -> None:
        try:
            self._cancel(call)
        except KeyboardInterrupt:
            self._cancel(call)

    def _cancel(self, call: _Call[Any]) -> None:
        with self._guard:
            if self.alive:
                self._loop.call_soon_threadsafe(call.cancel)
        call.ended.wait()

    def _run(self, opening: Callable[[], Any]) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._live(opening))

    async def _live(self, opening: Callable[[], Any]) -> None:
        try:
            async with opening() as executor:
                self._opened.set_result(executor)
                await self._closing.wait()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001, raised in the thread that opens or closes
            if self._opened.done():
                self._failure = error
            else:
                self._opened.set_exception(error)
        finally:
            await self._end_calls()

    async def _end_calls(self) -> None:
        """No further call begins; those that the closed executor has not ended are cancelled."""
        with self._guard:
            self.alive = False
        await asyncio.sleep(0)  # what was handed over before that begins, so that it can be ended
        for task in self._calls:
            task.cancel()
        if self._calls:
            await asyncio.wait(self._calls)


class _Call(Generic[T]):
    """One call from another thread: a task here, an outcome there."""

    def __init__(self, work: Coroutine[Any, Any, T], calls: set[asyncio.Task[Any]]) -> None:
        self._work = work
        self._calls = calls
        self._task: asyncio.Task[T] | None = None
        self.outcome: Future[T] = Future()
        self.ended = threading.Event()

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work)
        self._calls.add(self._task)
        self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[T]) -> None:
        self._calls.discard(task)
        if task.cancelled():
            self.outcome.set_exception(ExecutorClosed("the executor was closed", mend="Running jobs go on"))
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())
        self.ended.set()
