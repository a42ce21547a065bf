"""Section 5: what is named is reserved."""

from __future__ import annotations

import msgspec
import pytest

from ...errors import ResourcesUnavailable
from ...types import ByteSize, Capacity, Resources
from ..bench import Bench
from ..line import line
from ..steps import Forever

_HALF = Resources(memory=ByteSize("64MiB"))


@line("5", needs={"memory"})
async def test_what_is_beyond_capacity_is_refused_and_leaves_nothing(bench: Bench) -> None:
    await bench.open(capacity=Capacity(memory=ByteSize("128MiB")))
    first = await bench.start(Forever(), resources=_HALF)
    await bench.start(Forever(), resources=_HALF)
    with pytest.raises(ResourcesUnavailable) as caught:
        await bench.executor.start(bench.request(resources=_HALF, execution_id="third"))
    assert "memory" in str(caught.value)
    assert caught.value.execution_id == "third"
    assert "third" not in await bench.ids()
    await bench.executor.cancel(first, grace=0)
    assert (await bench.run(resources=_HALF, execution_id="third")).status == "success"


@line("5")
async def test_more_cores_than_the_engine_has_are_refused(bench: Bench) -> None:
    # What is named is reserved, whether or not this host can enforce it.
    policy = msgspec.structs.replace(bench.subject.policy(bench.folder), unenforced=("cpu",))
    await bench.open(policy, capacity=Capacity(cpu=2.0))
    with pytest.raises(ResourcesUnavailable):
        await bench.executor.start(bench.request(resources=Resources(cpu=2.5)))
    assert await bench.ids() == []


@line("5")
async def test_defaults_cap_and_do_not_reserve(bench: Bench) -> None:
    await bench.open(capacity=Capacity(cpu=0.1, memory=ByteSize("1MiB"), pids=1))
    for _ in range(3):
        await bench.start(Forever())
    assert len(await bench.executor.list(statuses=["running"])) == 3


@line("5", needs={"pids", "shell"})
async def test_a_limit_of_tasks_holds(bench: Bench) -> None:
    from ..steps import Shell

    script = Shell("for i in $(seq 60); do sleep 1000 & done 2>&1; echo end")
    result = await bench.run(script, resources=Resources(pids=20))
    assert b"fork" in result.stdout or result.exit_code != 0, result
