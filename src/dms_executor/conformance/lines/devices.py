"""Sections 3 and 7: devices and GPUs that the policy allows, and nothing else."""

from __future__ import annotations

import msgspec
import pytest

from ...errors import ExecutorError, NotSupported, PolicyDenied, ResourcesUnavailable
from ...policy import Policy
from ...types import GPU, Resources
from ..bench import Bench
from ..line import line
from ..steps import Forever, Shell


@line("7")
async def test_a_device_that_the_policy_does_not_name_is_refused(bench: Bench) -> None:
    given = bench.subject.policy(bench.folder)
    await bench.open(policy=msgspec.structs.replace(given, devices=()))
    with pytest.raises((PolicyDenied, NotSupported)):
        await bench.run(devices=["vendor.example/class=name"])
    assert await bench.ids() == [], "a denied request left a record"


@line("2", lacks={"devices"})
async def test_devices_that_are_not_declared_are_not_there(bench: Bench) -> None:
    await bench.open(policy=Policy.trusted())
    with pytest.raises(NotSupported) as caught:
        await bench.run(devices=["vendor.example/class=name"])
    assert caught.value.what == "$.devices"
    assert await bench.ids() == []


@line("2", lacks={"gpus"})
@pytest.mark.parametrize("vendor", ["nvidia", "amd", "intel"])
async def test_gpus_that_are_not_declared_are_not_there(bench: Bench, vendor: str) -> None:
    await bench.open(policy=Policy.trusted())
    with pytest.raises(ExecutorError):
        await bench.run(resources=Resources(gpus=[msgspec.convert({"vendor": vendor}, GPU)]))
    assert await bench.ids() == []


@line("7", needs={"devices", "device", "shell"})
async def test_a_device_that_is_allowed_is_there_and_recorded(bench: Bench) -> None:
    name, path = bench.subject.device()
    result = await bench.run(Shell(f"[ -c {path} ] || exit 5; echo x >{path} || exit 6"), devices=[name])
    assert (result.status, result.exit_code) == ("success", 0), result.stderr
    assert any(name in each for each in (await bench.executor.inspect(result.execution_id)).loosened)
    result = await bench.run(Shell(f"[ -e {path} ] && exit 7"))
    assert result.exit_code == 0, "the device is there for a job that did not ask for it"


@line("5", needs={"gpus"})
async def test_a_gpu_is_one_executions_own(bench: Bench) -> None:
    await bench.open(policy=Policy.trusted())
    capacity = (await bench.executor.probe(bench.subject.engine))[0].capacity
    assert capacity is not None
    assert capacity.gpus, "an engine that declares gpus lists them"
    taken = []
    for gpu in capacity.gpus:
        try:
            taken.append((await bench.start(Forever(), resources=Resources(gpus=[gpu])), gpu))
        except ExecutorError:
            continue  # found, and of no use here
    assert taken, "none of the GPUs that the probe lists can be had"
    with pytest.raises(ResourcesUnavailable):
        await bench.run(resources=Resources(gpus=[taken[0][1]]))
