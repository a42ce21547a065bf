"""The blocking face: every method, iterators, Ctrl-C, threads, closing."""

from __future__ import annotations

import inspect
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, ExecutionStatus, LogStreamRequest
from dms_executor import Executor as AsyncExecutor
from dms_executor.errors import ExecutionNotFound, ExecutorClosed, NotSupported, StateError
from dms_executor.logs import LogEntry
from dms_executor.sync import Executor
from dms_executor.testing import MemorySpec


def _request(execution_id: str, *script: str, prepare: float = 0.0) -> ExecutionRequest:
    spec = MemorySpec(script=list(script), prepare=prepare).build()
    return ExecutionRequest(job_id="job", execution_id=execution_id, engine_spec=spec)


@pytest.fixture
def executor(state_dir: Path) -> Iterator[Executor]:
    with Executor.open(state_dir) as opened:
        yield opened


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def _interrupt_when(executor: Executor, execution_id: str, status: str) -> None:
    """Ctrl-C, once the execution has this status."""
    for event in executor.events(after=0):
        if (event.execution_id, event.status) == (execution_id, status):
            os.kill(os.getpid(), signal.SIGINT)
            return


def test_run_gives_the_result(executor: Executor) -> None:
    result = executor.run(_request("e1", "echo hi", "error oops", "exit 3"))
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"hi\n", b"oops\n")


def test_every_public_method_is_there_with_the_same_parameters() -> None:
    for name, method in inspect.getmembers(AsyncExecutor, inspect.isfunction):
        if name.startswith("_"):
            continue
        ours = inspect.signature(getattr(Executor, name)).parameters
        theirs = inspect.signature(method).parameters
        assert [p.lstrip("_") for p in ours] == [p.lstrip("_") for p in theirs], name


def test_a_life_step_by_step(executor: Executor) -> None:
    executor.start(_request("e1", "echo hi", "forever"))
    assert executor.wait_for_status("e1", "running") is ExecutionStatus.RUNNING
    executor.pause("e1")
    assert executor.get_status("e1") is ExecutionStatus.PAUSED
    executor.resume("e1")
    executor.send_signal("e1", "TERM")
    assert executor.wait("e1").signal == signal.SIGTERM
    assert [info.request.execution_id for info in executor.list()] == ["e1"]
    assert executor.inspect("e1").exit_code == 143
    executor.remove("e1")
    with pytest.raises(ExecutionNotFound):
        executor.inspect("e1")


def test_cancel_from_another_thread_ends_run(executor: Executor, threads: ThreadPoolExecutor) -> None:
    running = threads.submit(executor.run, _request("e1", "forever"))
    for event in executor.events(after=0):
        if event.status is ExecutionStatus.RUNNING:
            break
    executor.cancel("e1")
    assert running.result(10).status is ExecutionStatus.CANCELLED


def test_log_streams_are_blocking_readers(executor: Executor) -> None:
    executor.run(_request("e1", "echo one", "error two"))
    request = LogStreamRequest(execution_id="e1", follow=True)
    with executor.get_log_stream(request) as stream:
        assert b"".join(stream) == b"one\ntwo\n"
    with executor.get_log_stream(request) as stream:
        assert stream.read(3) == b"one"
        assert stream.read() == b"\ntwo\n"
        assert stream.gaps == {}
    with executor.get_log_stream(request) as stream:
        entries = [entry for entry in stream.entries() if isinstance(entry, LogEntry)]
    assert [(entry.stream, entry.data) for entry in entries] == [("stdout", b"one\n"), ("stderr", b"two\n")]


def test_ctrl_c_in_run_cancels_the_execution_and_then_raises(executor: Executor, threads: ThreadPoolExecutor) -> None:
    threads.submit(_interrupt_when, executor, "e1", "running")
    with pytest.raises(KeyboardInterrupt):
        executor.run(_request("e1", "forever"))
    assert executor.get_status("e1") is ExecutionStatus.CANCELLED


def test_ctrl_c_in_start_cancels_the_execution_and_then_raises(executor: Executor, threads: ThreadPoolExecutor) -> None:
    threads.submit(_interrupt_when, executor, "e1", "pending")
    with pytest.raises(KeyboardInterrupt):
        executor.start(_request("e1", "forever", prepare=1000.0))
    assert executor.get_status("e1") is ExecutionStatus.CANCELLED


def test_ctrl_c_in_wait_leaves_the_job(executor: Executor, threads: ThreadPoolExecutor) -> None:
    executor.start(_request("e1", "forever"))
    threads.submit(_interrupt_when, executor, "e1", "running")
    with pytest.raises(KeyboardInterrupt):
        executor.wait("e1")
    assert executor.get_status("e1") is ExecutionStatus.RUNNING


def test_many_threads_share_one_executor(executor: Executor, threads: ThreadPoolExecutor) -> None:
    requests = [_request(f"e{number}", f"exit {number}") for number in range(20)]
    assert [result.exit_code for result in threads.map(executor.run, requests)] == list(range(20))


def test_closing_ends_those_who_wait_and_is_idempotent(state_dir: Path, threads: ThreadPoolExecutor) -> None:
    executor = Executor.open(state_dir)
    executor.start(_request("e1", "forever"))
    stream = executor.get_log_stream(LogStreamRequest(execution_id="e1", follow=True))
    events = executor.events(after=0)
    assert next(events).status is ExecutionStatus.PENDING
    waiters = [threads.submit(executor.wait, "e1"), threads.submit(stream.read), threads.submit(list, events)]
    executor.close()
    executor.close()
    for waiter in waiters:
        with pytest.raises(ExecutorClosed):
            waiter.result(10)
    stream.close()
    events.close()
    with pytest.raises(ExecutorClosed):
        executor.get_status("e1")
    assert not any(thread.name == "dms-executor" for thread in threading.enumerate())


def test_what_opening_raises_comes_out_of_open(executor: Executor, state_dir: Path) -> None:
    with pytest.raises(StateError):
        Executor.open(state_dir)


def test_powers_of_a_later_release_say_so(executor: Executor) -> None:
    executor.run(_request("e1"))
    with pytest.raises(NotSupported):
        executor.snapshot("e1", "saved")


def test_a_blocking_call_in_the_loops_own_thread_is_refused(executor: Executor) -> None:
    raised: list[BaseException] = []

    def report(_progress: object) -> None:
        try:
            executor.list()
        except RuntimeError as error:
            raised.append(error)

    executor.start(_request("e1", "exit 0"), progress=report)
    assert len(raised) == 1
