"""Section 2: what an engine cannot do it says; what it says it can, it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from ...errors import ExecutionNotRunning, NotSupported
from ..bench import Bench
from ..line import line
from ..steps import Forever, Say, Trap

_METHODS: dict[str, tuple[str, Callable[[Any, str], Awaitable[Any]]]] = {
    "pause": ("pause", lambda executor, name: executor.pause(name)),
    "resume": ("pause", lambda executor, name: executor.resume(name)),
    "exec": ("exec", lambda executor, name: executor.exec(name, ["true"])),
    "exec_session": ("exec", lambda executor, name: executor.exec_session(name, ["true"])),
    "attach": ("attach", lambda executor, name: executor.attach(name)),
    "stats": ("stats", lambda executor, name: executor.stats(name)),
    "copy_in": ("copy", lambda executor, name: executor.copy_in(name, "/etc/hostname", "/tmp/x")),
    "copy_out": ("copy", lambda executor, name: executor.copy_out(name, "/etc/hostname", "/tmp/x")),
    "snapshot": ("snapshot", lambda executor, name: executor.snapshot(name, "saved")),
    "restore": ("snapshot", lambda executor, name: _restored(executor, name)),
}


async def _restored(executor: Any, name: str) -> None:
    """Where nothing can be saved, nothing is."""
    with suppress(NotSupported):
        await executor.snapshot(name, "saved")
    await executor.restore("saved", name)


@line("2")
@pytest.mark.parametrize("method", list(_METHODS))
async def test_a_power_that_is_not_declared_is_not_there(bench: Bench, method: str) -> None:
    power, call = _METHODS[method]
    declared = power in (await bench.executor.probe(bench.subject.engine))[0].capabilities
    execution_id = await bench.start(Forever())
    if declared:
        await _works(call(bench.executor, execution_id), method)
        return
    with pytest.raises(NotSupported) as caught:
        await call(bench.executor, execution_id)
    assert power in caught.value.what or method in caught.value.what
    assert caught.value.execution_id is not None
    assert await bench.executor.get_status(execution_id) == "running", "a refused call changed something"


async def _works(call: Awaitable[Any], method: str) -> None:
    try:
        await call
    except NotSupported as error:
        pytest.fail(f"the probe declares what {method} needs, and the call says: {error}")


@line("2")
async def test_the_probe_says_what_is_usable_here(bench: Bench) -> None:
    probe = (await bench.executor.probe(bench.subject.engine))[0]
    assert (probe.engine, probe.usable, probe.problem) == (bench.subject.engine, True, "")
    assert probe.version


@line("2")
async def test_the_probe_of_all_engines_tells_how_to_mend_each(bench: Bench) -> None:
    probes = await bench.executor.probe()
    assert bench.subject.engine in {probe.engine for probe in probes}
    for probe in probes:
        assert probe.usable or (probe.problem and probe.mend), f"{probe.engine} says neither: {probe}"


@line("2", needs={"pause"})
async def test_pause_and_resume_are_idempotent(bench: Bench) -> None:
    execution_id = await bench.start(Trap("USR1", 3), Say("ready"), Forever(), until="ready")
    await bench.executor.pause(execution_id)
    await bench.executor.pause(execution_id)
    assert await bench.executor.get_status(execution_id) == "paused"
    await bench.executor.resume(execution_id)
    await bench.executor.resume(execution_id)
    assert await bench.executor.get_status(execution_id) == "running"
    await bench.executor.send_signal(execution_id, "USR1")
    assert (await bench.executor.wait(execution_id)).exit_code == 3


@line("5", needs={"pause"})
@pytest.mark.parametrize("method", ["pause", "resume"])
async def test_pause_of_one_that_does_not_run_is_refused(bench: Bench, method: str) -> None:
    result = await bench.run()
    with pytest.raises(ExecutionNotRunning) as caught:
        await getattr(bench.executor, method)(result.execution_id)
    assert caught.value.status == "success"
