"""Sections 2 and 12: `attach`, a stdin that stays open, and jobs on a terminal."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ...errors import ExecutionNotFound, ExecutionNotRunning, ExecutorClosed, InvalidRequest, NotSupported
from ...lifecycle import ExecSession
from ...types import SpecConfig
from ..bench import Bench
from ..elsewhere import Here
from ..line import line
from ..steps import Exit, Flood, Forever, Say, Shell, Stdin

_ATTACH = {"attach", "shell"}
_TTY = {"attach", "tty", "shell", "container"}
_CONVERSATION = 'echo ready; while read word; do echo "<$word>"; done; echo over'


async def _until(session: ExecSession, text: bytes) -> bytes:
    """What it says until `text` is in it."""
    seen = b""
    while text not in seen:
        piece = await session.read()
        assert piece is not None, f"it ended after {seen!r}"
        seen += piece[1]
    return seen


@line("2", needs=_ATTACH)
async def test_what_is_written_reaches_the_job_and_its_end_ends_it(bench: Bench) -> None:
    execution_id = await bench.start(Stdin(), stdin_open=True)
    async with await bench.executor.attach(execution_id) as session:
        await session.write(b"one\x00\xff\n")
        assert await session.read() == ("stdout", b"one\x00\xff\n")
        session.close_stdin()
        assert await session.read() is None
        assert await session.wait() == 0
    result = await bench.executor.wait(execution_id)
    assert (result.exit_code, result.stdout) == (0, b"one\x00\xff\n")


@line("2", needs=_ATTACH)
async def test_the_requests_own_stdin_comes_first(bench: Bench) -> None:
    fed = bytes(range(256)) * 2000
    execution_id = await bench.start(Shell("sleep 0.2; cat"), stdin=fed, stdin_open=True)
    async with await bench.executor.attach(execution_id) as session:
        await session.write(b"then this")
        session.close_stdin()
        assert await session.wait() == 0
    assert await bench.output(execution_id) == fed + b"then this"


@line("2", needs={*_ATTACH, "volumes"})
async def test_a_stdin_file_comes_first_as_well(bench: Bench) -> None:
    file = bench.folder / "fed"
    await asyncio.to_thread(file.write_bytes, b"file;" * 50_000)
    execution_id = await bench.start(Stdin(), stdin_file=str(file), stdin_open=True)
    async with await bench.executor.attach(execution_id) as session:
        await session.write(b"end")
        session.close_stdin()
        assert await session.wait() == 0
    assert await bench.output(execution_id) == b"file;" * 50_000 + b"end"


@line("2", needs=_ATTACH)
async def test_an_open_stdin_is_open_before_anybody_attaches(bench: Bench) -> None:
    execution_id = await bench.start(Shell(_CONVERSATION), stdin_open=True, until="ready")
    assert await bench.executor.get_status(execution_id) == "running"
    assert await bench.output(execution_id) == b"ready\n"


@line("2", needs=_ATTACH)
async def test_two_may_be_attached_and_the_input_outlives_each(bench: Bench) -> None:
    execution_id = await bench.start(Shell(_CONVERSATION), stdin_open=True, until="ready")
    async with await bench.executor.attach(execution_id) as one:
        async with await bench.executor.attach(execution_id) as other:
            await other.write(b"other\n")
            assert b"<other>\n" in await _until(one, b"<other>")
            assert b"<other>\n" in await _until(other, b"<other>")
        await one.write(b"one\n")
        assert b"<one>\n" in await _until(one, b"<one>")
    async with await bench.executor.attach(execution_id) as again:
        await again.write(b"again\n")
        assert await _until(again, b"<again>\n") == b"<again>\n"
        again.close_stdin()
        assert await again.wait() == 0
    assert (await bench.output(execution_id)).endswith(b"over\n")


@line("2", needs=_ATTACH)
async def test_what_was_written_counts_though_its_writer_left(bench: Bench) -> None:
    execution_id = await bench.start(Shell(_CONVERSATION), stdin_open=True, until="ready")
    for number in range(20):
        async with await bench.executor.attach(execution_id) as session:
            await session.write(f"{number}\n".encode())
    async with await bench.executor.attach(execution_id) as session:
        session.close_stdin()
        assert await session.wait() == 0
    assert {*(await bench.output(execution_id)).split()} == {b"ready", b"over", *(b"<%d>" % n for n in range(20))}


@line("2", needs=_ATTACH)
async def test_output_begins_now_or_at_the_start(bench: Bench) -> None:
    script = "printf 'no end'; read word; printf ' of line'; read word; echo; echo bye >&2"
    execution_id = await bench.start(Shell(script), stdin_open=True, until="no end")
    async with await bench.executor.attach(execution_id) as late:
        await late.write(b"x\n")
        assert await _until(late, b"line") == b" of line", "it begins at the very place"
        async with await bench.executor.attach(execution_id, from_start=True) as whole:
            await late.write(b"y\n")
            pieces = [piece async for piece in whole]
        assert b"".join(data for stream, data in pieces if stream == "stdout") == b"no end of line\n"
        assert [data for stream, data in pieces if stream == "stderr"] == [b"bye\n"]


@line("2", needs=_ATTACH)
async def test_input_that_is_closed_is_closed_for_all(bench: Bench) -> None:
    execution_id = await bench.start(Shell("cat; echo over; sleep 100000"), stdin_open=True)
    async with await bench.executor.attach(execution_id) as one, await bench.executor.attach(execution_id) as other:
        one.close_stdin()
        await _until(other, b"over")
        for session in (one, other):
            with pytest.raises(ExecutionNotRunning, match="input"):
                await session.write(b"x")
        one.close_stdin()
    async with await bench.executor.attach(execution_id) as late:
        with pytest.raises(ExecutionNotRunning, match="input"):
            await late.write(b"x")
        late.close_stdin()
    assert await bench.executor.get_status(execution_id) == "running"


@line("2", needs=_ATTACH)
async def test_a_job_that_closes_its_input_goes_on(bench: Bench) -> None:
    script = "exec </dev/null; trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"
    execution_id = await bench.start(Shell(script), stdin_open=True, until="ready")
    async with await bench.executor.attach(execution_id) as session:
        with pytest.raises(ExecutionNotRunning, match="input"):
            async with asyncio.timeout(60):
                while True:
                    await session.write(b"word")
                    await asyncio.sleep(0.01)
        session.signal("TERM")
        assert await session.wait() == 7


@line("2", needs=_ATTACH)
async def test_without_an_open_stdin_there_is_output_alone(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Shell("cat; sleep 100000"), until="ready")
    async with await bench.executor.attach(execution_id, from_start=True) as session:
        assert await session.read() == ("stdout", b"ready\n")
        with pytest.raises(ExecutionNotRunning, match="never open"):
            await session.write(b"x")
        session.close_stdin()
        session.resize(100, 40)
        session.signal("KILL")
        assert await session.read() is None
        assert await session.wait() == 137


@line("2", needs=_ATTACH)
async def test_an_attached_job_is_bounded_both_ways(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Shell("sleep 100000"), stdin_open=True, until="ready")
    async with await bench.executor.attach(execution_id) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await session.write(bytes(1 << 22))
        async with await bench.executor.attach(execution_id) as other:
            other.signal("KILL")
            assert await other.wait() == 137


@line("2", needs=_ATTACH)
async def test_a_large_input_arrives_whole(bench: Bench) -> None:
    data = b"".join(b"%063d\n" % number for number in range(1 << 16))
    execution_id = await bench.start(Stdin(), stdin_open=True)
    async with await bench.executor.attach(execution_id) as session:
        await session.write(data)
        session.close_stdin()
        assert await session.wait() == 0
    assert await bench.output(execution_id) == data


@line("2", needs=_ATTACH)
async def test_killing_an_attached_job_cancels_it(bench: Bench) -> None:
    execution_id = await bench.start(Stdin(), stdin_open=True)
    async with await bench.executor.attach(execution_id) as session:
        await session.kill()
        assert await session.wait() == 137
    assert await bench.executor.get_status(execution_id) == "cancelled"


@line("5", needs=_ATTACH)
async def test_attach_to_one_that_does_not_run_is_refused(bench: Bench) -> None:
    result = await bench.run(Exit(0), stdin_open=True)
    with pytest.raises(ExecutionNotRunning) as caught:
        await bench.executor.attach(result.execution_id)
    assert caught.value.status == "success"
    with pytest.raises(ExecutionNotFound):
        await bench.executor.attach("nobody")


@line("5", needs=_ATTACH)
async def test_an_attached_session_of_a_closed_executor_says_so(bench: Bench) -> None:
    execution_id = await bench.start(Shell(_CONVERSATION), stdin_open=True, until="ready")
    session = await bench.executor.attach(execution_id)
    reading = asyncio.create_task(session.read())
    await asyncio.sleep(0)
    await bench.close()
    with pytest.raises(ExecutorClosed):
        await reading
    with pytest.raises(ExecutorClosed):
        await session.write(b"x")
    await bench.open()
    async with await bench.executor.attach(execution_id) as again:  # recovered, its stdin is open still
        await again.write(b"word\n")
        assert await _until(again, b"\n") == b"<word>\n"


async def _own(here: Here, spec: SpecConfig, execution_id: str) -> None:
    await here.executor.start(here.request(spec=spec, execution_id=execution_id, stdin_open=True))
    await _afar(here, execution_id)


async def _afar(here: Here, execution_id: str) -> None:
    async with await here.executor.attach(execution_id, from_start=True) as session:
        await session.write(b"from afar\n")
        await _until(session, b"<from afar>")
        here.say("heard")
        await here.woken()


@line("5", needs={*_ATTACH, "survives_caller"})
async def test_a_killed_client_leaves_job_and_input(bench: Bench) -> None:
    execution_id = await bench.start(Shell(_CONVERSATION), stdin_open=True, until="ready")
    async with bench.elsewhere(_afar, execution_id) as other:
        assert await other.heard() == "heard"
        await other.kill()
    async with await bench.executor.attach(execution_id) as session:
        await session.write(b"here\n")
        assert await _until(session, b"\n") == b"<here>\n"


@line("5", needs={*_ATTACH, "survives_caller"})
async def test_the_executors_death_leaves_the_input_open(bench: Bench) -> None:
    spec: Any = bench.subject.spec(Shell(_CONVERSATION))
    async with bench.elsewhere(_own, spec, "afar") as other:
        assert await other.heard() == "heard"
        await other.kill()
    await bench.executor.recover()
    async with await bench.executor.attach("afar") as session:
        await session.write(b"here\n")
        assert await _until(session, b"\n") == b"<here>\n"
        session.close_stdin()
        assert await session.wait() == 0
    assert await bench.output("afar") == b"ready\n<from afar>\n<here>\nover\n"


# -- terminals -------------------------------------------------------------------------------------------------------


@line("2", needs=_TTY)
async def test_a_job_on_a_terminal(bench: Bench) -> None:
    script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; echo err >&2; read word; stty size"
    execution_id = await bench.start(Shell(f"{script}; echo $TERM; exit 5"), tty=True, tty_size=(100, 40), until="err")
    async with await bench.executor.attach(execution_id, from_start=True) as session:
        assert (await _until(session, b"err\r\n")).splitlines() == [b"/dev/pts/0", b"40 100", b"all", b"err"]
        session.resize(120, 50)
        await session.write(b"word\n")
        await _until(session, b"50 120\r\nxterm\r\n")
        assert await session.wait() == 5
    entries = [entry async for entry in (await bench.follow(execution_id, follow=False)).entries()]
    assert {entry.stream for entry in entries} == {"stdout"}, "a terminal's log is one stream"


@line("12", needs=_TTY)
async def test_a_terminal_has_a_size_that_nobody_said(bench: Bench) -> None:
    execution_id = await bench.start(Shell("stty size"), tty=True)
    assert (await bench.executor.wait(execution_id)).stdout == b"24 80\r\n"


@line("2", needs=_TTY)
async def test_a_change_of_size_is_told_to_the_job(bench: Bench) -> None:
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done"
    execution_id = await bench.start(Shell(script), tty=True, until="ready")
    async with await bench.executor.attach(execution_id) as session:
        session.resize(33, 44)
        await _until(session, b"44 33\r\n")


@line("2", needs=_TTY)
async def test_the_keys_of_a_terminal_are_signals_for_the_job(bench: Bench) -> None:
    # Said by the child itself: a key that came before it is there would only be the shell's.
    script = (
        "trap 'echo interrupted' INT; sh -c 'echo ready; exec cat'; echo and; set -m; sh -c 'echo again; exec cat';"
        " jobs; kill %1; cat; echo over"
    )
    execution_id = await bench.start(Shell(script), tty=True, until="ready")
    async with await bench.executor.attach(execution_id) as session:
        await session.write(b"\x03")  # Ctrl-C
        await _until(session, b"again")
        await session.write(b"\x1a")  # Ctrl-Z
        await _until(session, b"Stopped")
        session.close_stdin()
        await _until(session, b"over\r\n")
        assert await session.wait() == 0
    assert b"interrupted" in await bench.output(execution_id)


@line("6", needs=_TTY)
async def test_the_last_output_of_a_terminal_is_in_the_log(bench: Bench) -> None:
    result = await bench.run(Flood(8000), tty=True)
    assert result.stdout == b"".join(b"%099d\r\n" % number for number in range(8000))
    assert result.stderr == b""


@line("5", needs=_TTY)
async def test_a_job_may_close_its_terminal_and_go_on(bench: Bench) -> None:
    script = "trap 'exit 9' HUP; echo before; exec 3</dev/null </dev/null >/dev/null 2>&1; sleep 0.5; exit 6"
    execution_id = await bench.start(Shell(script), tty=True)
    result = await bench.executor.wait(execution_id)
    assert (result.exit_code, result.stdout) == (6, b"before\r\n")


@line("5", needs={*_TTY, "survives_caller"})
async def test_a_terminal_outlives_its_caller(bench: Bench) -> None:
    execution_id = await bench.start(Shell(_CONVERSATION), tty=True, until="ready")
    async with bench.elsewhere(_afar, execution_id) as other:
        assert await other.heard() == "heard"
        await other.kill()
    async with await bench.executor.attach(execution_id) as session:
        await session.write(b"here\n")
        await _until(session, b"<here>\r\n")
        session.close_stdin()
        await _until(session, b"over")
        assert await session.wait() == 0


@line("5", needs={*_TTY, "survives_caller"})
async def test_a_job_on_a_terminal_is_cancelled_like_any(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Forever(), tty=True, until="ready")
    await bench.executor.cancel(execution_id, grace=0)
    assert (await bench.executor.wait(execution_id)).reason == "cancelled"


# -- requests --------------------------------------------------------------------------------------------------------


@line("3", needs={"tty"})
@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("$.stdin", {"tty": True, "stdin": b"x"}),
        ("$.stdin_file", {"tty": True, "stdin_file": "/etc/hostname"}),
        ("$.tty_size", {"tty_size": (80, 24)}),
        ("$.tty_size", {"tty": True, "tty_size": (0, 24)}),
        ("$.tty_size", {"tty": True, "tty_size": (80, 65536)}),
    ],
    ids=["stdin", "stdin_file", "no terminal", "no columns", "too many rows"],
)
async def test_a_terminal_that_makes_no_sense_is_refused(bench: Bench, field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await bench.executor.start(bench.request(Exit(0), **fields))
    assert caught.value.path == field
    assert caught.value.mend
    assert await bench.ids() == []


@line("3", lacks={"attach"})
async def test_an_open_stdin_is_refused_where_nobody_could_attach(bench: Bench) -> None:
    with pytest.raises(NotSupported) as caught:
        await bench.executor.start(bench.request(Exit(0), stdin_open=True))
    assert caught.value.what == "$.stdin_open"
    assert await bench.ids() == []


@line("3", lacks={"tty"})
async def test_a_terminal_is_refused_where_there_is_none(bench: Bench) -> None:
    with pytest.raises(NotSupported) as caught:
        await bench.executor.start(bench.request(Exit(0), tty=True))
    assert caught.value.what == "$.tty"
    assert await bench.ids() == []
