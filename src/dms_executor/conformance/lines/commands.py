"""Sections 2, 5 and 12: further commands in a running job, `exec` and `exec_session`."""

from __future__ import annotations

import asyncio
import errno
import time
from typing import Any

import pytest

from ...errors import ExecutionNotFound, ExecutionNotRunning, ExecutorClosed, InvalidRequest, StartFailed
from ...lifecycle import ExecSession
from ...types import Resources, SpecConfig
from ..bench import Bench
from ..elsewhere import Here
from ..line import line
from ..steps import Exit, Forever, Ignore, Say, Shell

_EXEC = {"exec", "shell"}
_CONTAINED = {"exec", "exec_kill", "shell", "container"}
_LONG = 100000


def _sh(script: str) -> list[str]:
    return ["sh", "-c", script]


async def _processes(bench: Bench, execution_id: str, word: str) -> int:
    """How many processes of the job have `word` in their command line."""
    script = (
        f"for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f 2>/dev/null; echo; done | grep -c '[{word[0]}]{word[1:]}'"
    )
    return int((await bench.executor.exec(execution_id, _sh(script))).stdout)


async def _none_left(bench: Bench, execution_id: str, word: str) -> None:
    """Of a client that was killed: nobody is told when the shim has done it."""
    for _ in range(1000):
        if not await _processes(bench, execution_id, word):
            return
    raise AssertionError(f"{word} lives on")


@line("2", needs=_EXEC)
async def test_exec_gives_output_and_code(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    result = await bench.executor.exec(execution_id, _sh("cat; printf err >&2; exit 3"), stdin=b"\x00in\xff")
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"\x00in\xff", b"err")
    assert (result.timed_out, result.stdout_truncated, result.stderr_truncated) == (False, False, False)
    assert await bench.executor.get_status(execution_id) == "running"


@line("2", needs=_EXEC)
@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 137])
async def test_a_commands_own_codes_are_its_own(bench: Bench, code: int) -> None:
    execution_id = await bench.start(Forever())
    result = await bench.executor.exec(execution_id, _sh(f"exit {code}"))
    assert (result.exit_code, result.timed_out) == (code, False)


@line("12", needs=_EXEC)
async def test_a_command_that_a_signal_ends_has_its_code(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    assert (await bench.executor.exec(execution_id, _sh("kill -9 $$"))).exit_code == 137
    assert (await bench.executor.exec(execution_id, _sh("kill -TERM $$"))).exit_code == 143


@line("12", needs=_EXEC)
async def test_of_a_commands_output_the_last_bytes_are_kept(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    script = "head -c 3000000 /dev/zero; printf end; printf few >&2"
    result = await bench.executor.exec(execution_id, _sh(script), max_output=1000)
    assert (result.stdout, result.stdout_truncated) == (bytes(997) + b"end", True)
    assert (result.stderr, result.stderr_truncated) == (b"few", False)


@line("2", needs=_EXEC)
async def test_input_that_nobody_reads_is_no_error(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    result = await bench.executor.exec(execution_id, _sh("exit 4"), stdin=bytes(1 << 20))
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
        execution_id, _sh(script), environment={"B": "exec", "C": "x=y"}, working_directory="/tmp"
    )
    assert result.stdout == b"job exec x=y none\n/tmp\n"


@line("7", needs={*_EXEC, "container"})
async def test_a_command_is_as_confined_as_the_job(bench: Bench) -> None:
    # Not the soft limit of open files: runc 1.1 at times leaves an exec the hard one instead, since Go's own raising of
    # it races with runc's setting of it (opencontainers/runc issue 4195).
    show = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status; ulimit -Hn; umask"
    execution_id = await bench.start(Shell(f"{show}; echo ready"), Forever(), until="ready")
    job = (await bench.output(execution_id)).partition(b"ready")[0]
    result = await bench.executor.exec(execution_id, _sh(show))
    assert result.stdout == job
    assert b"NoNewPrivs:\t1" in job
    assert b"Seccomp:\t2" in job


@line("7", needs={*_EXEC, "container", "users"})
async def test_a_commands_user_is_by_name_or_number(bench: Bench) -> None:
    execution_id = await bench.start(
        Shell("chmod 755 /; echo u:x:1234:1234::/home/u:/bin/sh >>/etc/passwd; echo ready"), Forever()
    )
    await bench.heard(execution_id, "ready")
    show = _sh("id -u; id -g; echo $HOME; grep CapEff /proc/self/status")
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
    result = await bench.executor.exec(execution_id, _sh("echo begun; " + script.format(word)), timeout=1.0)
    assert (result.timed_out, result.exit_code) == (True, 137)
    assert result.stdout.startswith(b"begun\n")
    assert time.monotonic() - before < 30
    assert await _processes(bench, execution_id, word) == 0
    assert await bench.executor.get_status(execution_id) == "running"


@line("5", needs=_CONTAINED)
async def test_a_cancelled_exec_kills_its_command(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    word = f"{_LONG + 2}"
    task = asyncio.create_task(bench.executor.exec(execution_id, _sh(f"touch /tmp/begun; setsid sleep {word} & wait")))
    while (await bench.executor.exec(execution_id, _sh("test -e /tmp/begun"))).exit_code != 0:
        pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _processes(bench, execution_id, word) == 0


@line("5", needs=_EXEC)
async def test_a_child_that_holds_stdout_does_not_hold_the_answer(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    result = await bench.executor.exec(execution_id, _sh(f"sleep {_LONG + 3} & echo out; exit 5"), timeout=60)
    assert (result.exit_code, result.stdout, result.timed_out) == (5, b"out\n", False)


@line("5", needs={*_EXEC, "container"})
async def test_what_a_command_left_in_the_background_lives_on(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    word = f"{_LONG + 4}"
    await bench.executor.exec(execution_id, _sh(f"setsid sleep {word} >/dev/null 2>&1 &"))
    assert await _processes(bench, execution_id, word) == 1


@line("5", needs=_CONTAINED)
async def test_killing_a_command_that_has_ended_takes_what_it_left(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    word = f"{_LONG + 10}"
    script = f"setsid sleep {word} >/dev/null 2>&1 & echo begun; exit 3"
    async with await bench.executor.exec_session(execution_id, _sh(script)) as session:
        assert [piece async for piece in session] == [("stdout", b"begun\n")]
        assert await session.wait() == 3
        assert await _processes(bench, execution_id, word) > 0
        await session.kill()
        assert await _processes(bench, execution_id, word) == 0
    assert await bench.executor.get_status(execution_id) == "running"


@line("5", needs=_EXEC)
async def test_a_command_ends_with_its_job(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    async with await bench.executor.exec_session(execution_id, _sh("echo begun; sleep 100000")) as session:
        assert await session.read() == ("stdout", b"begun\n")
        await bench.executor.cancel(execution_id, grace=0)
        assert await session.read() is None
        assert await session.wait() == 137


# -- sessions --------------------------------------------------------------------------------------------------------


@line("2", needs=_EXEC)
async def test_a_session_is_a_conversation(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    script = 'while read word; do echo "<$word>"; done; echo done >&2; exit 7'
    async with await bench.executor.exec_session(execution_id, _sh(script)) as session:
        await session.write(b"one\n")
        assert await session.read() == ("stdout", b"<one>\n")
        await session.write(b"two\n")
        assert await session.read() == ("stdout", b"<two>\n")
        session.close_stdin()
        assert [piece async for piece in session] == [("stderr", b"done\n")]
        assert await session.wait() == 7


@line("2", needs=_EXEC)
async def test_a_session_sends_signals(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    script = "trap 'echo got; exit 9' USR1; echo ready; while :; do sleep 0.1; done"
    async with await bench.executor.exec_session(execution_id, _sh(script)) as session:
        assert await session.read() == ("stdout", b"ready\n")
        session.signal("USR1")
        assert [piece async for piece in session] == [("stdout", b"got\n")]
        assert await session.wait() == 9
        with pytest.raises(ExecutionNotRunning):
            session.signal(15)


@line("2", needs=_EXEC)
async def test_a_session_is_bounded_both_ways(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    async with await bench.executor.exec_session(execution_id, _sh("cat /dev/zero")) as flood:
        assert await flood.read() is not None
        # Nobody reads the flood any more: neither the job's log nor another command waits for it.
        assert (await bench.executor.exec(execution_id, ["echo", "hi"])).stdout == b"hi\n"
        async with await bench.executor.exec_session(execution_id, ["sleep", "100000"]) as deaf:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await deaf.write(bytes(1 << 22))


@line("5", needs=_CONTAINED)
async def test_a_closed_session_kills_its_command(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    word = f"{_LONG + 5}"
    async with await bench.executor.exec_session(execution_id, _sh(f"setsid sleep {word} & echo a; wait")) as session:
        assert await session.read() == ("stdout", b"a\n")
    assert await _processes(bench, execution_id, word) == 0
    with pytest.raises(ExecutionNotRunning):
        await session.write(b"x")
    await session.aclose()


@line("5", needs=_EXEC)
async def test_a_session_of_a_closed_executor_says_so(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    session = await bench.executor.exec_session(execution_id, ["sleep", "100000"])
    reading = asyncio.create_task(session.read())
    await asyncio.sleep(0)
    await bench.close()
    with pytest.raises(ExecutorClosed):
        await reading
    with pytest.raises(ExecutorClosed):
        await session.wait()
    await bench.open()
    assert await bench.executor.get_status(execution_id) == "running"


async def _converse(here: Here, execution_id: str, word: str) -> None:
    async with await here.executor.exec_session(
        execution_id, _sh(f"setsid sleep {word} & echo {word}; cat")
    ) as session:
        assert await session.read() == ("stdout", f"{word}\n".encode())
        here.say("begun")
        await here.woken()
        await session.write(b"still here\n")
        here.say(await session.read())
        await here.woken()


@line("5", needs={*_CONTAINED, "survives_caller"})
async def test_a_killed_client_takes_its_command_along_and_no_other(bench: Bench) -> None:
    execution_id = await bench.start(Ignore("TERM"), Forever())
    first, second = f"{_LONG + 6}", f"{_LONG + 7}"
    async with (
        bench.elsewhere(_converse, execution_id, first) as one,
        bench.elsewhere(_converse, execution_id, second) as other,
    ):
        assert (await one.heard(), await other.heard()) == ("begun", "begun")
        assert await _processes(bench, execution_id, first) > 0
        await one.kill()
        await _none_left(bench, execution_id, first)
        assert await _processes(bench, execution_id, second) > 0
        await other.wake()
        assert await other.heard() == ("stdout", b"still here\n")
    assert await bench.executor.get_status(execution_id) == "running"


async def _own(here: Here, spec: SpecConfig, execution_id: str, word: str) -> None:
    await here.executor.start(here.request(spec=spec, execution_id=execution_id))
    await _converse(here, execution_id, word)


@line("5", needs={*_CONTAINED, "survives_caller"})
async def test_the_executors_death_ends_its_commands_and_leaves_the_job(bench: Bench) -> None:
    word = f"{_LONG + 8}"
    spec: Any = bench.subject.spec(Forever())
    async with bench.elsewhere(_own, spec, "afar", word) as other:
        assert await other.heard() == "begun"
        await other.kill()
    await _none_left(bench, "afar", word)
    assert await bench.executor.get_status("afar") == "running"


# -- terminals -------------------------------------------------------------------------------------------------------


async def _until(session: ExecSession, text: bytes) -> bytes:
    """What it says until `text` is in it."""
    seen = b""
    while text not in seen:
        piece = await session.read()
        assert piece is not None, f"it ended after {seen!r}"
        assert piece[0] == "stdout"
        seen += piece[1]
    return seen


@line("2", needs={*_EXEC, "container"})
async def test_a_session_on_a_terminal(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    script = (
        "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; echo err >&2; read word; stty size; exit 5"
    )
    async with await bench.executor.exec_session(execution_id, _sh(script), tty=True, size=(100, 40)) as session:
        assert (await _until(session, b"err\r\n")).splitlines() == [b"/dev/pts/0", b"40 100", b"all", b"err"]
        session.resize(120, 50)
        await session.write(b"word\n")
        assert b"50 120" in await _until(session, b"50 120")
        assert await session.wait() == 5


@line("2", needs={*_EXEC, "container"})
async def test_the_keys_of_a_terminal_reach_the_command(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    # Said by the child itself: a key that came before it is there would only be the shell's.
    script = "trap 'echo interrupted' INT; sh -c 'echo ready; exec cat'; echo and; cat; echo over"
    async with await bench.executor.exec_session(execution_id, _sh(script), tty=True) as session:
        await _until(session, b"ready")
        await session.write(b"\x03")
        await _until(session, b"and\r\n")
        session.close_stdin()
        await _until(session, b"over\r\n")
        assert await session.wait() == 0


@line("5", needs=_CONTAINED)
async def test_a_command_on_a_terminal_is_gone_with_its_session(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    word = f"{_LONG + 9}"
    script = _sh(f"setsid sleep {word} & trap '' HUP; echo begun; sleep {word}")
    async with await bench.executor.exec_session(execution_id, script, tty=True) as session:
        await _until(session, b"begun")
    assert await _processes(bench, execution_id, word) == 0
