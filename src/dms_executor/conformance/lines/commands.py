"""Sections 2, 5 and 12: further commands in a running job, `exec` and `exec_session`."""

from __future__ import annotations

import asyncio
import errno
import time
from typing import Any

import pytest

from ...errors import ExecutionNotFound, ExecutionNotRunning, InvalidRequest, StartFailed
from ...types import Resources
from ..bench import Bench
from ..inside import processes, sh
from ..line import line
from ..steps import Exit, Forever, Say, Shell

_EXEC = {"exec", "shell"}
_CONTAINED = {"exec", "exec_kill", "shell", "container"}
_LONG = 100000


@line("2", needs=_EXEC)
async def test_exec_gives_output_and_code(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    result = await bench.executor.exec(execution_id, sh("cat; printf err >&2; exit 3"), stdin=b"\x00in\xff")
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"\x00in\xff", b"err")
    assert (result.timed_out, result.stdout_truncated, result.stderr_truncated) == (False, False, False)
    assert await bench.executor.get_status(execution_id) == "running"


@line("2", needs=_EXEC)
@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 137])
async def test_a_commands_own_codes_are_its_own(bench: Bench, code: int) -> None:
    execution_id = await bench.start(Forever())
    result = await bench.executor.exec(execution_id, sh(f"exit {code}"))
    assert (result.exit_code, result.timed_out) == (code, False)


@line("12", needs=_EXEC)
async def test_a_command_that_a_signal_ends_has_its_code(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    assert (await bench.executor.exec(execution_id, sh("kill -9 $$"))).exit_code == 137
    assert (await bench.executor.exec(execution_id, sh("kill -TERM $$"))).exit_code == 143


@line("12", needs=_EXEC)
async def test_of_a_commands_output_the_last_bytes_are_kept(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    script = "head -c 3000000 /dev/zero; printf end; printf few >&2"
    result = await bench.executor.exec(execution_id, sh(script), max_output=1000)
    assert (result.stdout, result.stdout_truncated) == (bytes(997) + b"end", True)
    assert (result.stderr, result.stderr_truncated) == (b"few", False)


@line("2", needs=_EXEC)
async def test_input_that_nobody_reads_is_no_error(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    result = await bench.executor.exec(execution_id, sh("exit 4"), stdin=bytes(1 << 20))
    assert result.exit_code == 4


@line("4", needs=_EXEC)
async def test_a_command_that_cannot_be_executed_is_raised(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    with pytest.raises(StartFailed, match="No such file") as caught:
        await bench.executor.exec(execution_id, ["/no/such/command"])
    assert caught.value.execution_id == execution_id
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(StartFailed, match="denied") as caught:
        await bench.executor.exec(execution_id, ["/etc"])
    assert caught.value.errno == errno.EACCES
    assert await bench.executor.get_status(execution_id) == "running"


@line("2", needs=_EXEC)
async def test_what_is_no_command_is_refused(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    for argv in ([], [""], ["a\0b"]):
        with pytest.raises(InvalidRequest, match="argv"):
            await bench.executor.exec(execution_id, argv)
    with pytest.raises(InvalidRequest, match="timeout"):
        await bench.executor.exec(execution_id, ["true"], timeout=-1)
    with pytest.raises(InvalidRequest, match="size"):
        await bench.executor.exec_session(execution_id, ["true"], tty=True, size=(0, 24))


@line("5", needs=_EXEC)
async def test_exec_in_one_that_does_not_run_is_refused(bench: Bench) -> None:
    result = await bench.run(Exit(0))
    with pytest.raises(ExecutionNotRunning) as caught:
        await bench.executor.exec(result.execution_id, ["true"])
    assert caught.value.status == "success"
    with pytest.raises(ExecutionNotFound):
        await bench.executor.exec("nobody", ["true"])


@line("5", needs={*_EXEC, "pause"})
async def test_exec_in_a_paused_one_is_refused(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    await bench.executor.pause(execution_id)
    with pytest.raises(ExecutionNotRunning) as caught:
        await bench.executor.exec(execution_id, ["true"])
    assert caught.value.status == "paused"
    await bench.executor.resume(execution_id)
    assert (await bench.executor.exec(execution_id, ["true"])).exit_code == 0


@line("2", needs=_EXEC)
async def test_a_command_has_the_jobs_environment_and_its_own(bench: Bench) -> None:
    secret = {"SECRET": "hidden"}
    execution_id = await bench.start(Forever(), environment={"A": "job", "B": "job"}, secret_environment=secret)
    script = 'echo "$A $B $C ${SECRET-none}"; pwd'
    result = await bench.executor.exec(
        execution_id, sh(script), environment={"B": "exec", "C": "x=y"}, working_directory="/tmp"
    )
    assert result.stdout == b"job exec x=y none\n/tmp\n"


@line("7", needs={*_EXEC, "container"})
async def test_a_command_is_as_confined_as_the_job(bench: Bench) -> None:
    # Not the soft limit of open files: runc 1.1 at times leaves an exec the hard one instead, since Go's own raising of
    # it races with runc's setting of it (opencontainers/runc issue 4195).
    show = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status; ulimit -Hn; umask"
    execution_id = await bench.start(Shell(f"{show}; echo ready"), Forever(), until="ready")
    job = (await bench.output(execution_id)).partition(b"ready")[0]
    result = await bench.executor.exec(execution_id, sh(show))
    assert result.stdout == job
    assert b"NoNewPrivs:\t1" in job
    assert b"Seccomp:\t2" in job


@line("7", needs={*_EXEC, "container", "users"})
async def test_a_commands_user_is_by_name_or_number(bench: Bench) -> None:
    execution_id = await bench.start(
        Shell("chmod 755 /; echo u:x:1234:1234::/home/u:/bin/sh >>/etc/passwd; echo ready"), Forever()
    )
    await bench.heard(execution_id, "ready")
    show = sh("id -u; id -g; echo $HOME; grep CapEff /proc/self/status")
    result = await bench.executor.exec(execution_id, show, user="u")
    assert result.stdout == b"1234\n1234\n/home/u\nCapEff:\t0000000000000000\n"
    result = await bench.executor.exec(execution_id, show, user="65:66")
    assert result.stdout.split()[:2] == [b"65", b"66"]
    with pytest.raises(StartFailed, match="nosuch"):
        await bench.executor.exec(execution_id, show, user="nosuch")


@line("5", needs=_CONTAINED)
@pytest.mark.parametrize(
    "script",
    [
        "sleep {0}",
        "setsid sleep {0} & sleep {0}",
        "(sleep {0} & ) ; sleep {0}",
        "(setsid sh -c 'sleep {0} & sleep {0}' & ); trap '' TERM HUP INT; sleep {0}",
    ],
    ids=["plain", "setsid", "double fork", "stubborn"],
)
async def test_a_command_past_its_timeout_is_gone_with_all_its_children(bench: Bench, script: str) -> None:
    await _gone_with_all(bench, script)


@line("5", needs=_CONTAINED | {"pids"})
async def test_a_fork_bomb_past_its_timeout_is_gone(bench: Bench) -> None:
    await _gone_with_all(
        bench, "f() {{ sleep {0} & f & f; }}; f 2>/dev/null & exec sleep {0}", resources=Resources(pids=200)
    )


async def _gone_with_all(bench: Bench, script: str, **fields: Any) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), until="ready", **fields)
    word = f"{_LONG + 1}"
    before = time.monotonic()
    result = await bench.executor.exec(execution_id, sh("echo begun; " + script.format(word)), timeout=1.0)
    assert (result.timed_out, result.exit_code) == (True, 137)
    assert result.stdout.startswith(b"begun\n")
    assert time.monotonic() - before < 30
    assert await processes(bench, execution_id, word) == 0
    assert await bench.executor.get_status(execution_id) == "running"


@line("5", needs=_CONTAINED)
async def test_a_cancelled_exec_kills_its_command(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    word = f"{_LONG + 2}"
    task = asyncio.create_task(bench.executor.exec(execution_id, sh(f"touch /tmp/begun; setsid sleep {word} & wait")))
    while (await bench.executor.exec(execution_id, sh("test -e /tmp/begun"))).exit_code != 0:
        pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await processes(bench, execution_id, word) == 0


@line("5", needs=_EXEC)
async def test_a_child_that_holds_stdout_does_not_hold_the_answer(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    result = await bench.executor.exec(execution_id, sh(f"sleep {_LONG + 3} & echo out; exit 5"), timeout=60)
    assert (result.exit_code, result.stdout, result.timed_out) == (5, b"out\n", False)


@line("5", needs={*_EXEC, "container"})
async def test_what_a_command_left_in_the_background_lives_on(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    word = f"{_LONG + 4}"
    await bench.executor.exec(execution_id, sh(f"setsid sleep {word} >/dev/null 2>&1 &"))
    assert await processes(bench, execution_id, word) == 1


@line("5", needs=_CONTAINED)
async def test_killing_a_command_that_has_ended_takes_what_it_left(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    word = f"{_LONG + 10}"
    script = f"setsid sleep {word} >/dev/null 2>&1 & echo begun; exit 3"
    async with await bench.executor.exec_session(execution_id, sh(script)) as session:
        assert [piece async for piece in session] == [("stdout", b"begun\n")]
        assert await session.wait() == 3
        assert await processes(bench, execution_id, word) > 0
        await session.kill()
        assert await processes(bench, execution_id, word) == 0
    assert await bench.executor.get_status(execution_id) == "running"


@line("5", needs=_EXEC)
async def test_a_command_ends_with_its_job(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    async with await bench.executor.exec_session(execution_id, sh("echo begun; sleep 100000")) as session:
        assert await session.read() == ("stdout", b"begun\n")
        await bench.executor.cancel(execution_id, grace=0)
        assert await session.read() is None
        assert await session.wait() == 137
