"""Section 5: provision scripts run before the job, as part of it."""

from __future__ import annotations

import asyncio

import pytest

from ...errors import InvalidRequest, StartFailed
from ..bench import Bench
from ..line import line
from ..steps import Exit, Say, Shell, Stdin

_NEEDS = {"shell", "container"}
_SHELL = b"#!/bin/sh\n"


def _scripts(**named: str) -> dict[str, bytes]:
    return {name: _SHELL + text.encode() + b"\n" for name, text in named.items()}


@line("5", needs=_NEEDS)
async def test_scripts_run_in_name_order_before_the_job(bench: Bench) -> None:
    scripts = {"b": b"echo from b >&2", **_scripts(c="echo from c; echo left > /tmp/left", a="echo from a")}
    result = await bench.run(Shell("cat /tmp/left"), Exit(3), provision_scripts=scripts)
    assert (result.status, result.exit_code, result.reason) == ("failed", 3, "exited"), result
    assert (result.stdout, result.stderr) == (b"from a\nfrom c\nleft\n", b"from b\n")


@line("5", needs=_NEEDS)
async def test_scripts_have_the_jobs_environment_and_their_stdin_is_empty(bench: Bench) -> None:
    result = await bench.run(
        Stdin(),
        provision_scripts=_scripts(a='echo "$WORD $SECRET"; cat'),
        environment={"WORD": "plain"},
        secret_environment={"SECRET": "hush"},
        stdin=b"for the job",
    )
    assert result.stdout == b"plain hush\nfor the job"


@line("5", needs=_NEEDS)
async def test_the_first_script_that_fails_is_the_executions_failure(bench: Bench) -> None:
    scripts = _scripts(first="echo begun", second="exit 7", third="echo never")
    result = await bench.run(Say("never"), provision_scripts=scripts)
    assert (result.status, result.reason, result.exit_code) == ("failed", "start_failed", None), result
    assert result.stdout == b"begun\n"
    assert "second" in result.error_msg
    assert "7" in result.error_msg
    assert result.started_at is not None


@line("5", needs=_NEEDS)
async def test_a_script_that_a_signal_ends_is_a_failure(bench: Bench) -> None:
    result = await bench.run(Say("never"), provision_scripts=_scripts(only="kill -9 $$"))
    assert (result.status, result.reason, result.exit_code, result.signal) == ("failed", "start_failed", None, None)
    assert "only" in result.error_msg
    assert "signal 9" in result.error_msg


@line("5", needs=_NEEDS)
async def test_a_first_script_that_cannot_be_executed_is_raised(bench: Bench) -> None:
    with pytest.raises(StartFailed, match="script one"):
        await bench.run(Say("never"), provision_scripts={"one": b"#!/no/such/interpreter\n"})


@line("5", needs=_NEEDS)
async def test_what_cannot_be_executed_after_a_script_is_the_results(bench: Bench) -> None:
    scripts = {**_scripts(a="echo ran"), "b": b"#!/no/such/interpreter\n"}
    result = await bench.run(Say("never"), provision_scripts=scripts)
    assert (result.reason, result.exit_code, result.stdout) == ("start_failed", None, b"ran\n"), result
    assert "script b" in result.error_msg


@line("5", needs=_NEEDS | {"no_command"})
async def test_a_missing_command_after_a_script_is_the_results(bench: Bench) -> None:
    request = bench.request(spec=bench.subject.failing("command"), provision_scripts=_scripts(a="echo ran"))
    result = await bench.executor.run(request)
    assert (result.status, result.reason, result.exit_code) == ("failed", "start_failed", None), result
    assert "No such file" in result.error_msg
    assert result.stdout == b"ran\n"


@line("5", needs=_NEEDS)
@pytest.mark.parametrize("script", ["echo ready; sleep 1000", "trap 'exit 0' TERM; echo ready; sleep 1000 & wait"])
async def test_a_timeout_in_a_script_is_a_timeout(bench: Bench, script: str) -> None:
    result = await bench.run(Say("never"), provision_scripts=_scripts(slow=script), timeout=1)
    assert (result.status, result.reason, result.exit_code) == ("failed", "timed_out", None), result
    assert result.stdout == b"ready\n"


@line("5", needs=_NEEDS)
@pytest.mark.parametrize("script", ["echo ready; sleep 1000", "trap 'exit 0' TERM; echo ready; sleep 1000 & wait"])
async def test_a_cancel_in_a_script_is_a_cancel(bench: Bench, script: str) -> None:
    execution_id = await bench.start(Say("never"), until="ready", provision_scripts=_scripts(slow=script))
    assert await bench.executor.get_status(execution_id) == "running"
    await bench.executor.cancel(execution_id, grace=5)
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.reason, result.exit_code) == ("cancelled", "cancelled", None), result
    assert result.stdout == b"ready\n"


@line("5", needs=_NEEDS)
async def test_a_script_that_ignores_term_is_killed_with_its_children(bench: Bench) -> None:
    script = "trap '' TERM; echo ready; sleep 1000 & wait; sleep 1000"
    execution_id = await bench.start(Say("never"), until="ready", provision_scripts=_scripts(stubborn=script))
    async with asyncio.timeout(20):
        await bench.executor.cancel(execution_id, grace=0.2)
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.exit_code) == ("cancelled", None), result


@line("5", needs=_NEEDS)
async def test_a_script_is_private_while_it_runs_and_gone_when_the_job_does(bench: Bench) -> None:
    show = 'echo "$0"; stat -c "%a %u" "$0" "${0%/*}"'
    look = Shell("find / -xdev -name keep-me 2>/dev/null; find /dev -name keep-me; echo end")
    result = await bench.run(look, provision_scripts={"keep-me": _SHELL + show.encode()})
    path, mode, folder, end = result.stdout.decode().splitlines()
    assert (path.endswith("/keep-me"), mode, folder, end) == (True, "700 0", "700 0", "end")


@line("5", needs=_NEEDS)
@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\0", ".hidden"])
async def test_a_scripts_name_is_a_plain_one(bench: Bench, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await bench.run(Exit(0), provision_scripts={name: b"true"})
    assert caught.value.path == "$.provision_scripts"


@line("5", needs=_NEEDS)
async def test_without_our_init_there_are_no_scripts(bench: Bench) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await bench.run(Exit(0), provision_scripts=_scripts(a="true"), init=False)
    assert caught.value.path == "$.provision_scripts"
