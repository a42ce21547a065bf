"""Sections 3 and 5: what the end of a job looks like to its caller."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ...types import ByteSize, ExecutionResult, ExecutionStatus, Resources, decode, encode
from ..bench import Bench
from ..line import line
from ..steps import Die, Exit, Flood, OutOfMemory, Raw, Say, Shell, Stdin, Variable


@line("5")
async def test_a_job_that_exits_0_is_a_success(bench: Bench) -> None:
    result = await bench.run(Say("out"), Say("err", "stderr"))
    assert (result.status, result.reason, result.exit_code) == ("success", "exited", 0), result
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert (result.killed, result.signal, result.error_msg) == (False, None, "")


@line("5")
async def test_a_job_that_exits_3_is_a_result_and_no_error(bench: Bench) -> None:
    result = await bench.run(Say("out"), Exit(3))
    assert (result.status, result.reason, result.exit_code) == ("failed", "exited", 3), result
    assert result.stdout == b"out\n"
    assert "3" in result.error_msg


@line("5")
@pytest.mark.parametrize("code", [125, 126, 127, 137, 143, 255])
async def test_the_jobs_own_code_is_never_read_as_an_engines_failure(bench: Bench, code: int) -> None:
    result = await bench.run(Exit(code))
    assert (result.status, result.reason, result.exit_code) == ("failed", "exited", code), result
    assert (result.signal, result.killed, result.usage.oom_kills) == (None, False, 0)


@line("5", needs={"exact_signal"})
@pytest.mark.parametrize(("signal", "number"), [("KILL", 9), ("SEGV", 11), ("TERM", 15)])
async def test_a_job_killed_by_a_signal_shows_it(bench: Bench, signal: str, number: int) -> None:
    result = await bench.run(Die(signal))
    assert (result.status, result.reason) == ("failed", "signaled"), result
    assert (result.exit_code, result.signal, result.killed) == (128 + number, number, False)


@line("3")
async def test_times_of_a_result_are_aware_and_in_order(bench: Bench) -> None:
    result = await bench.run()
    assert result.started_at is not None
    assert result.started_at.tzinfo is not None
    assert result.started_at <= result.finished_at
    info = await bench.executor.inspect(result.execution_id)
    assert (info.started_at, info.finished_at, info.exit_code) == (result.started_at, result.finished_at, 0)
    assert info.created_at <= result.started_at


@line("3")
async def test_a_result_is_the_same_however_often_it_is_asked_for(bench: Bench) -> None:
    first = await bench.run(Say("once"), Exit(4))
    assert await bench.executor.wait(first.execution_id) == first
    await bench.open()
    assert await bench.executor.wait(first.execution_id) == first


@line("3")
async def test_a_result_goes_through_json(bench: Bench) -> None:
    result = await bench.run(Raw(b"\xff\x00"))
    assert decode(encode(result), ExecutionResult) == result
    fields = result.to_builtins()
    assert (fields["stdout"], fields["stdout_base64"]) == ("\ufffd\0", "/wA=")
    assert msgspec.json.encode(fields)


@line("3")
async def test_output_is_exact_to_the_byte(bench: Bench) -> None:
    data = bytes(range(256)) + b"\r\nno newline at the end"
    assert (await bench.run(Raw(data))).stdout == data


@line("3")
async def test_a_result_holds_the_last_bytes_of_much_output(bench: Bench) -> None:
    await bench.open(result_output=ByteSize(1000))
    result = await bench.run(Flood(1000), Say("short", "stderr"))
    expected = b"".join(b"%099d\n" % number for number in range(990, 1000))
    assert result.stdout == expected
    assert (result.stdout_truncated, result.stderr_truncated) == (True, False)
    assert await bench.output(result.execution_id, streams=("stdout",)) == b"".join(
        b"%099d\n" % number for number in range(1000)
    )


@line("3")
async def test_stdin_reaches_the_job_whole(bench: Bench) -> None:
    data = bytes(range(256)) * 1000
    assert (await bench.run(Stdin(), stdin=data)).stdout == data


@line("3")
async def test_a_job_without_stdin_reads_its_end_at_once(bench: Bench) -> None:
    result = await bench.run(Stdin(), Say("after"))
    assert result.stdout == b"after\n"


@line("12")
async def test_environment_of_request_then_secret_wins(bench: Bench) -> None:
    fields = {"environment": {"A": "plain", "B": "plain"}, "secret_environment": {"B": "secret"}}
    result = await bench.run(Variable("A"), Variable("B"), **fields)
    assert result.stdout == b"plain\nsecret\n"


@line("3")
async def test_secrets_are_in_no_record(bench: Bench) -> None:
    result = await bench.run(secret_environment={"KEY": "hush-hush"})
    info = await bench.executor.inspect(result.execution_id)
    assert "hush-hush" not in repr(info)
    records = [path for path in bench.state.glob("*") if path.is_file()]
    records += [path for path in bench.state.glob("executions/*/*") if path.is_file()]
    holders = [path.name for path in records if b"hush-hush" in _content(path)]
    assert holders == []


def _content(path: Path) -> bytes:
    """Nothing for what is taken away meanwhile: the engine clears up after the answer."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


@line("5", needs={"oom_detection"})
async def test_out_of_memory_says_so_and_keeps_the_output(bench: Bench) -> None:
    result = await bench.run(Say("before"), OutOfMemory(), resources=Resources(memory=ByteSize("32MiB")))
    assert (result.status, result.reason, result.killed) == ("failed", "oom_killed", True), result
    assert result.usage.oom_kills >= 1
    assert "32MiB" in result.error_msg
    assert result.stdout == b"before\n"
    assert result.exit_code == 137


@line("5", needs={"oom_detection", "shell", "shared_kernel"})
async def test_a_job_that_survives_an_oom_kill_of_its_child_is_a_success(bench: Bench) -> None:
    script = Shell("dd if=/dev/zero of=/dev/null bs=512M count=1; echo code $?")
    result = await bench.run(script, resources=Resources(memory=ByteSize("32MiB")))
    assert (result.status, result.reason, result.exit_code) == ("success", "exited", 0), result
    assert result.usage.oom_kills >= 1
    assert b"code 137" in result.stdout


@line("5", needs={"shell"})
async def test_a_child_killed_by_hand_is_no_oom_kill(bench: Bench) -> None:
    result = await bench.run(Shell("sleep 1000 & kill -9 $!; wait $!; exit $?"))
    assert (result.reason, result.exit_code, result.usage.oom_kills) == ("exited", 137, 0), result


@line("3", needs={"shell", "memory"})
async def test_usage_tells_time_and_memory(bench: Bench) -> None:
    usage = (await bench.run(Shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"))).usage
    assert usage.cpu_seconds is not None
    assert usage.cpu_seconds > 0
    assert usage.peak_memory_bytes is not None
    assert usage.peak_memory_bytes > 0


@line("5")
async def test_statuses_come_in_order_and_end_once(bench: Bench) -> None:
    result = await bench.run(Exit(1))
    seen = []
    async for event in bench.executor.events(after=0):
        seen.append((event.status, event.reason))
        if event.status is ExecutionStatus.FAILED:
            break
    assert seen == [("pending", None), ("running", None), ("failed", "exited")]
    assert await bench.executor.get_status(result.execution_id) == "failed"
