"""Section 5: the children of a job end with it."""

from __future__ import annotations

from ..bench import Bench
from ..line import line
from ..steps import Forever, Say, Shell

_AWAY = Shell(
    "setsid sh -c 'sleep 100000 & sleep 100000' >/dev/null 2>&1 &\n(setsid setsid sleep 100000 >/dev/null 2>&1 &)"
)


@line("5", needs={"shell", "container"})
async def test_children_in_sessions_of_their_own_end_with_a_cancel(bench: Bench) -> None:
    execution_id = await bench.start(_AWAY, Say("ready"), Forever(), until="ready")
    await bench.executor.cancel(execution_id)
    await bench.clear()


@line("5", needs={"shell", "container"})
async def test_children_in_sessions_of_their_own_end_with_the_job(bench: Bench) -> None:
    result = await bench.run(_AWAY, Say("done"))
    assert result.stdout == b"done\n"
    await bench.clear()


@line("5", needs={"shell"})
async def test_a_child_that_holds_stdout_does_not_hold_the_result(bench: Bench) -> None:
    result = await bench.run(Shell("sleep 100000 &"), Say("done"))
    assert (result.exit_code, result.stdout) == (0, b"done\n")
    assert await bench.output(result.execution_id, follow=True) == b"done\n"


@line("5", needs={"shell"})
async def test_a_job_that_stops_itself_is_cancelled(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Shell("kill -STOP $$"), Forever(), until="ready")
    await bench.executor.cancel(execution_id, grace=0.3)
    assert (await bench.executor.wait(execution_id)).status == "cancelled"
