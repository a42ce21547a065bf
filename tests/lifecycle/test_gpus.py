"""GPUs are given to one execution at a time, whoever claims them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from dms_executor import Executor, Policy
from dms_executor.errors import NotSupported, ResourcesUnavailable
from dms_executor.types import GPU, Capacity, ExecutionRequest, Probe, Resources, Settings

from .stand_in import StandIn, request

_GPUS = [
    GPU(vendor="amd", index=0, name="A", pci_address="0000:01:00.0"),
    GPU(vendor="amd", index=1, name="A", pci_address="0000:02:00.0"),
    GPU(vendor="intel", index=0, pci_address="0000:00:02.0"),
]


@pytest.fixture(autouse=True)
def _with_gpus(monkeypatch: pytest.MonkeyPatch, stand_in: type[StandIn]) -> None:
    plain = stand_in.probe

    async def probe(self: StandIn) -> Probe:
        found = await plain(self)
        capacity = msgspec.structs.replace(found.capacity or Capacity(), gpus=_GPUS)
        return msgspec.structs.replace(found, capabilities=found.capabilities | {"gpus"}, capacity=capacity)

    monkeypatch.setattr(stand_in, "probe", probe)


def _asking(execution_id: str, *gpus: GPU, script: str = "forever") -> ExecutionRequest:
    return request(execution_id, script, resources=Resources(gpus=list(gpus)))


async def _given(executor: Executor, execution_id: str) -> list[str | None]:
    return [gpu.pci_address for gpu in (await executor.inspect(execution_id)).request.resources.gpus]


async def test_each_gets_one_of_its_own_until_it_ends(state_dir: Path) -> None:
    async with Executor.open(state_dir, policy=Policy.trusted()) as executor:
        await executor.start(_asking("one", GPU(vendor="amd")))
        await executor.start(_asking("two", GPU(vendor="amd")))
        assert {*await _given(executor, "one"), *await _given(executor, "two")} == {"0000:01:00.0", "0000:02:00.0"}
        with pytest.raises(ResourcesUnavailable, match="intel 0") as caught:
            await executor.start(_asking("three", GPU(vendor="amd")))
        assert caught.value.execution_id == "three"
        assert [info.request.execution_id for info in await executor.list()] == ["one", "two"]
        freed = await _given(executor, "one")
        await executor.cancel("one", grace=0)
        await executor.start(_asking("three", GPU(vendor="amd")))
        assert await _given(executor, "three") == freed
        for name in ("two", "three"):
            await executor.cancel(name, grace=0)


async def test_one_that_is_named_is_not_given_twice(state_dir: Path) -> None:
    async with Executor.open(state_dir, policy=Policy.trusted()) as executor:
        await executor.start(_asking("one", GPU(vendor="amd", pci_address="02:00.0")))
        assert await _given(executor, "one") == ["0000:02:00.0"]
        with pytest.raises(ResourcesUnavailable, match="amd 1"):
            await executor.start(_asking("two", GPU(vendor="amd", index=1)))
        await executor.cancel("one", grace=0)


async def test_of_many_at_once_as_many_run_as_there_are_gpus(state_dir: Path) -> None:
    async with Executor.open(state_dir, policy=Policy.trusted()) as executor:
        starts = [executor.start(_asking(f"e{number}", GPU(vendor="amd"))) for number in range(6)]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 2
        assert all(outcome is None or isinstance(outcome, ResourcesUnavailable) for outcome in outcomes)
        for info in await executor.list():
            await executor.cancel(info.request.execution_id, grace=0)


async def test_only_those_that_the_policy_allows_are_given(state_dir: Path) -> None:
    policy = msgspec.structs.replace(Policy.trusted(), devices=("amd.com/gpu=1",))
    async with Executor.open(state_dir, policy=policy) as executor:
        await executor.run(_asking("one", GPU(vendor="amd"), script="exit 0"))
        assert await _given(executor, "one") == ["0000:02:00.0"]
        with pytest.raises(ResourcesUnavailable):
            await executor.start(_asking("two", GPU(vendor="amd"), GPU(vendor="amd")))


async def test_a_capacity_of_the_settings_counts_before_the_hosts(state_dir: Path) -> None:
    capacity = Capacity(gpus=_GPUS[2:])
    async with Executor.open(state_dir, policy=Policy.trusted(), settings=Settings(capacity=capacity)) as executor:
        with pytest.raises(ResourcesUnavailable):
            await executor.start(_asking("one", GPU(vendor="amd")))
        assert (await executor.run(_asking("two", GPU(vendor="intel"), script="exit 0"))).exit_code == 0


async def test_an_engine_that_has_none_says_so(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, stand_in: type[StandIn]
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("dms_executor.registry._registered", {StandIn.name: StandIn})
    async with Executor.open(state_dir, policy=Policy.trusted()) as executor:
        with pytest.raises(NotSupported) as caught:
            await executor.start(_asking("one", GPU(vendor="amd")))
        assert (caught.value.engine, caught.value.what) == ("stand-in", "$.resources.gpus")
        with pytest.raises(NotSupported) as caught:
            await executor.start(request("two", "exit 0", devices=["v.test/c=x"]))
        assert caught.value.what == "$.devices"
        assert await executor.list() == []
