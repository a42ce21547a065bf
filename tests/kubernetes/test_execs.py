"""Further commands, attached input and figures of a job in a pod; the lines of the conformance suite go further."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dms_executor.errors import CopyFailed, EngineUnreachable, NotSupported, StartFailed
from dms_executor.kubernetes import conversation, execs, helper
from dms_executor.lifecycle import ExecSession

from .apiserver import ApiServer
from .conftest import Bench

_WAITS = "echo ready; while :; do sleep 1000; done"
_ECHOES = 'while read word; do echo "<$word>"; done; echo over'


async def until(session: ExecSession, text: bytes) -> bytes:
    """What it says until `text` is in it."""
    seen = b""
    while text not in seen:
        piece = await session.read()
        assert piece is not None, seen
        seen += piece[1]
    return seen


async def test_a_command_has_streams_and_a_code_of_its_own(either: Bench) -> None:
    execution_id = await either.start("sh", "-c", _WAITS, secret_environment={"SECRET": "hush"})
    script = 'cat; pwd; echo "$WORD ${SECRET-none}" >&2; exit 3'
    result = await either.executor.exec(
        execution_id, ["sh", "-c", script], stdin=b"\0\xff", environment={"WORD": "w"}, working_directory="/tmp"
    )
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"\0\xff/tmp\n", b"w none\n")
    with pytest.raises(StartFailed, match="No such file"):
        await either.executor.exec(execution_id, ["/no/such"])
    with pytest.raises(NotSupported, match="user"):
        await either.executor.exec(execution_id, ["true"], user="12")


async def test_nothing_of_a_command_is_in_what_the_cluster_writes_down(alone: Bench, server: ApiServer) -> None:
    execution_id = await alone.start("sh", "-c", _WAITS)
    await alone.executor.exec(execution_id, ["echo", "hush-word"], environment={"NAME": "hush-value"})
    assert "dms-pod" in server.addresses[-1]
    assert not [address for address in server.addresses if "hush" in address]


async def test_a_job_that_stops_who_looks_at_it_keeps_nobody_waiting(
    alone: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((conversation, "_START"), (conversation, "_CLOSE"), (execs, "_FIGURES")):
        monkeypatch.setattr(module, name, 0.5)
    monkeypatch.setattr(helper.Helper.__init__, "__kwdefaults__", {"silence": 0.5})
    script = "echo ready; while :; do kill -STOP $(pidof dms-pod) 2>/dev/null; done"
    execution_id = await alone.start("sh", "-c", script)
    async with asyncio.timeout(60):
        with pytest.raises(EngineUnreachable):  # one may be quicker than it is stopped
            while True:
                await alone.executor.stats(execution_id)
        with pytest.raises(CopyFailed):
            while True:
                await alone.executor.copy_out(execution_id, "/etc", tmp_path / "etc")


async def test_a_killed_command_takes_along_what_came_of_it(either: Bench) -> None:
    execution_id = await either.start("sh", "-c", _WAITS)
    command = ["sh", "-c", "(setsid sleep 54321 &); trap '' TERM; echo begun; while :; do sleep 54321; done"]
    async with await either.executor.exec_session(execution_id, command) as session:
        await until(session, b"begun")
        await session.kill()
        assert await session.wait() == 137
    script = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done | grep -c 'sleep 5432[1]'"
    assert (await either.executor.exec(execution_id, ["sh", "-c", script])).stdout == b"0\n"


async def test_what_is_typed_to_a_job_reaches_it(either: Bench) -> None:
    execution_id = await either.start("sh", "-c", _ECHOES, stdin=b"first\n", stdin_open=True)
    async with await either.executor.attach(execution_id, from_start=True) as session:
        await session.write(b"typed\n")
        assert await until(session, b"typed>\n") == b"<first>\n<typed>\n"
        session.close_stdin()
        await until(session, b"over\n")
        assert await session.wait() == 0


async def test_a_job_on_a_terminal_writes_into_its_log(either: Bench) -> None:
    script = "tty; stty size; read word; stty size; exit 4"
    execution_id = await either.start("sh", "-c", script, tty=True, tty_size=(100, 40))
    async with await either.executor.attach(execution_id, from_start=True) as session:
        await until(session, b"40 100\r\n")
        session.resize(33, 44)
        await session.write(b"x\n")
        await until(session, b"44 33\r\n")
        assert await session.wait() == 4


async def test_figures_are_of_the_job_s_own_control_group(either: Bench) -> None:
    execution_id = await either.start("sh", "-c", _WAITS)
    sample = await either.executor.stats(execution_id)
    assert sample.cpu_percent is None
    assert sample.cpu_seconds
    # The stand-in's pods see the groups of this host, whose topmost one tells nothing of memory on version 2.
    if Path("/sys/fs/cgroup/memory.current").exists() or not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        assert sample.memory_bytes


async def test_a_script_that_ignores_its_end_is_killed_and_the_job_never_runs(either: Bench) -> None:
    script = b"#!/bin/sh\ntrap '' TERM; echo ready; sleep 1000 & wait; sleep 1000\n"
    execution_id = await either.start("sh", "-c", "echo never", provision_scripts={"stubborn": script})
    await either.executor.cancel(execution_id, grace=0.2)
    result = await either.executor.wait(execution_id)
    assert (result.status, result.reason, result.exit_code) == ("cancelled", "cancelled", None), result
    assert b"never" not in result.stdout
