"""What of an attached job is this engine's own: its init holds input and terminal, and the job can reach the FIFOs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dms_executor import ExecSession, LogStreamRequest
from dms_executor.errors import InvalidRequest, NotSupported

from .session import Bench, opened

pytestmark = [pytest.mark.timeout(60)]
_FIFOS = "/dev/.dms-executor-calls"


@pytest.fixture(params=["docker", "podman"])
async def bench(state_dir: Path, rootfs: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with opened(state_dir, rootfs, engine=request.param) as ready:
        yield ready


async def _until(session: ExecSession, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        piece = await session.read()
        assert piece is not None, f"it ended after {seen!r}"
        seen += piece[1]
    return seen


async def test_what_a_job_writes_into_its_own_fifos_harms_nobody(bench: Bench) -> None:
    junk = f"head -c 300000 /dev/urandom > {_FIFOS}/control; echo x > {_FIFOS}/stdin; rm -f {_FIFOS}/stdin 2>/dev/null"
    request = bench.request("sh", "-c", f"{junk}; echo ready; cat; echo over; exit 4", stdin_open=True)
    await bench.executor.start(request)
    async with await bench.executor.attach(request.execution_id, from_start=True) as session:
        await _until(session, b"ready\nx\n")
        await session.write(b"word\n")
        assert await _until(session, b"word\n") == b"word\n"
        session.close_stdin()
        await _until(session, b"over\n")
        assert await session.wait() == 4


async def test_a_job_that_takes_its_input_away_reaches_its_end_all_the_same(bench: Bench) -> None:
    script = f"dd if={_FIFOS}/stdin bs=4096 2>/dev/null & cat; echo over; exit 4"
    request = bench.request("sh", "-c", script, stdin_open=True)
    await bench.executor.start(request)
    async with await bench.executor.attach(request.execution_id, from_start=True) as session:
        for _ in range(50):  # one of the two readers gets each of them
            await session.write(b"word\n")
        session.close_stdin()
        await _until(session, b"over\n")
        assert await session.wait() == 4


async def test_what_a_job_on_a_terminal_leaves_running_does_not_keep_its_end(bench: Bench) -> None:
    result = await bench.run("sh", "-c", "yes & sleep 0.2; echo over; exit 3", tty=True)
    assert (result.exit_code, result.reason) == (3, "exited")
    assert b"over\r\n" in result.stdout


async def test_a_provision_script_on_a_terminal_says_why_it_failed(bench: Bench) -> None:
    scripts = {"10-first": b"echo first; test -t 1 && test ! -t 0 && echo terminal", "20-second": b"echo told; exit 4"}
    result = await bench.run("true", tty=True, provision_scripts=scripts)
    assert result.reason == "start_failed"
    assert "20-second" in result.error_msg
    async with await bench.executor.get_log_stream(LogStreamRequest(execution_id=result.execution_id)) as log:
        assert await log.read() == b"first\r\nterminal\r\ntold\r\n"


async def test_a_terminals_name_for_programs_is_the_images_or_the_requests(bench: Bench) -> None:
    assert await bench.sh("echo $TERM", tty=True) == "xterm\r\n"
    assert await bench.sh("echo $TERM", tty=True, environment={"TERM": "vt100"}) == "vt100\r\n"


async def test_an_ordinary_user_has_a_terminal_and_an_input_as_well(bench: Bench) -> None:
    request = bench.request("sh", "-c", "id -u; cat /dev/stdin", params={"user": "1234"}, stdin_open=True)
    await bench.executor.start(request)
    async with await bench.executor.attach(request.execution_id, from_start=True) as session:
        await session.write(b"word")
        session.close_stdin()
        assert await _until(session, b"word") == b"1234\nword"
    assert await bench.sh("tty; echo hi > /dev/tty", {"user": "1234"}, tty=True) == "/dev/pts/0\r\nhi\r\n"


async def test_without_our_init_there_is_neither(bench: Bench) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await bench.run("true", tty=True, init=False)
    assert caught.value.path == "$.tty"
    with pytest.raises(NotSupported) as refused:
        await bench.run("true", stdin_open=True, init=False)
    assert refused.value.what == "$.stdin_open"
    assert await bench.executor.list() == []
