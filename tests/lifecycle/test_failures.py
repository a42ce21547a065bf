"""Why an execution never ran: everybody who asks gets the error that its start raised, in every process and later."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dms_executor import Executor, LogStreamRequest
from dms_executor.cli.codes import of_error, of_job
from dms_executor.engine import Exit
from dms_executor.errors import (
    EngineUnavailable,
    ExecutorError,
    ImageNotFound,
    ImagePullFailed,
    PolicyDenied,
    ResourcesUnavailable,
    StartFailed,
)
from dms_executor.failures import error_of, failure_of
from dms_executor.types import Failure

from .stand_in import StandIn, request

_ERRORS = [
    ImageNotFound("no image", mend="Name another"),
    ImagePullFailed("refused", cause_kind="auth", mend="Log in"),
    StartFailed("no-such", errno=errno.ENOENT, mend="Check cmd"),
    StartFailed("the runtime died"),
    ResourcesUnavailable("no descriptors"),
    PolicyDenied("swapped"),
    EngineUnavailable("gone"),
]


def _same(found: ExecutorError, error: ExecutorError) -> None:
    assert type(found) is type(error)
    assert (found.message, found.mend, found.execution_id) == (error.message, error.mend, "one")
    for name in ("errno", "cause_kind"):
        assert getattr(found, name, None) == getattr(error, name, None)


async def _follow(executor: Executor) -> ExecutorError:
    with pytest.raises(ExecutorError) as caught:
        async with await executor.get_log_stream(LogStreamRequest(execution_id="one", follow=True)) as stream:
            await stream.read()
    return caught.value


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
async def test_a_follower_gets_what_the_start_raised_also_in_a_later_process(
    state_dir: Path, stand_in: type[StandIn], error: ExecutorError
) -> None:
    stand_in.failing["start"] = error
    async with Executor.open(state_dir) as executor:
        with pytest.raises(type(error)):
            await executor.start(request("one"))
        _same(await _follow(executor), error)
    async with Executor.open(state_dir) as later:
        result = await later.wait("one")
        assert result.failure == failure_of(error)
        assert result.error_msg == error.message
        _same(await _follow(later), error)


async def test_a_result_of_a_job_that_ran_has_none(state_dir: Path) -> None:
    async with Executor.open(state_dir) as executor:
        assert (await executor.run(request("one", "exit 3"))).failure is None


def test_a_kind_that_is_not_known_is_a_failed_start() -> None:
    for kind in ("FromTheFuture", "annotations", "os"):
        error = error_of(Failure(kind=kind, message="m", errno=2), "e")
        assert type(error) is StartFailed
        assert (error.message, error.errno, error.execution_id) == ("m", 2, "e")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StartFailed("x", errno=errno.ENOENT), 127),
        (StartFailed("x", errno=errno.ENOTDIR), 127),
        (StartFailed("x", errno=errno.EACCES), 126),
        (StartFailed("x", errno=errno.ENOEXEC), 126),
        (StartFailed("cannot mount lower: No such file or directory"), 125),
        (StartFailed("the runtime: Permission denied"), 125),
        (ImageNotFound("oci:/x: No such file or directory"), 125),
    ],
)
def test_the_command_line_goes_by_the_number_and_never_by_the_text(error: ExecutorError, code: int) -> None:
    assert of_error(error) == code


async def test_a_command_that_could_not_be_executed_after_the_start_is_told_by_its_number(
    state_dir: Path, stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = stand_in.watch

    async def failed(self: StandIn, x: object, h: object) -> Exit:
        end = await watch(self, x, h)  # type: ignore[arg-type]
        return Exit(finished_at=end.finished_at, started_at=end.started_at, error="/x", errno=errno.EACCES)

    monkeypatch.setattr(stand_in, "watch", failed)
    async with Executor.open(state_dir) as executor:
        result = await executor.run(request("one", "exit 0"))
    assert (result.reason, result.exit_code) == ("start_failed", None)
    assert result.failure == Failure(kind="StartFailed", message="/x", errno=errno.EACCES)
    assert of_job(result) == 126
