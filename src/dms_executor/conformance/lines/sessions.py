"""Sections 2 and 5: sessions with a further command in a running job, `exec_session`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ...errors import ExecutionNotRunning, ExecutorClosed
from ...lifecycle import ExecSession
from ...types import SpecConfig
from ..bench import Bench
from ..elsewhere import Here
from ..inside import none_left, processes, sh
from ..line import line
from ..steps import Forever, Ignore

_EXEC = {"exec", "shell"}
_CONTAINED = {"exec", "exec_kill", "shell", "container"}
_LONG = 200000


@line("2", needs=_EXEC)
async def test_a_session_is_a_conversation(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    script = 'while read word; do echo "<$word>"; done; echo done >&2; exit 7'
    async with await bench.executor.exec_session(execution_id, sh(script)) as session:
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
    async with await bench.executor.exec_session(execution_id, sh(script)) as session:
        assert await session.read() == ("stdout", b"ready\n")
        session.signal("USR1")
        assert [piece async for piece in session] == [("stdout", b"got\n")]
        assert await session.wait() == 9
        with pytest.raises(ExecutionNotRunning):
            session.signal(15)


@line("2", needs=_EXEC)
async def test_a_session_is_bounded_both_ways(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    async with await bench.executor.exec_session(execution_id, sh("cat /dev/zero")) as flood:
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
    async with await bench.executor.exec_session(execution_id, sh(f"setsid sleep {word} & echo a; wait")) as session:
        assert await session.read() == ("stdout", b"a\n")
    assert await processes(bench, execution_id, word) == 0
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
    async with await here.executor.exec_session(execution_id, sh(f"setsid sleep {word} & echo {word}; cat")) as session:
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
        assert await processes(bench, execution_id, first) > 0
        await one.kill()
        await none_left(bench, execution_id, first)
        assert await processes(bench, execution_id, second) > 0
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
    await none_left(bench, "afar", word)
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
    async with await bench.executor.exec_session(execution_id, sh(script), tty=True, size=(100, 40)) as session:
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
    async with await bench.executor.exec_session(execution_id, sh(script), tty=True) as session:
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
    script = sh(f"setsid sleep {word} & trap '' HUP; echo begun; sleep {word}")
    async with await bench.executor.exec_session(execution_id, script, tty=True) as session:
        await _until(session, b"begun")
    assert await processes(bench, execution_id, word) == 0
