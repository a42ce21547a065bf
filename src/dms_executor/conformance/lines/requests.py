"""Sections 3 and 4: requests that are refused before anything is made."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest

from ...errors import InvalidRequest, NotSupported
from ...types import ByteSize, ExecutionRequest, PortMapping, Resources, SpecConfig, StorageVolume
from ..bench import Bench
from ..line import line

_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "timeout": ({"timeout": -1.0}, "$.timeout"),
    "timeout-0": ({"timeout": 0.0}, "$.timeout"),
    "timeout-nan": ({"timeout": float("nan")}, "$.timeout"),
    "timeout-text": ({"timeout": "soon"}, "$.timeout"),
    "cpu": ({"resources": Resources(cpu=-0.5)}, "$.resources.cpu"),
    "memory": ({"resources": Resources(memory=-1)}, "$.resources.memory"),  # type: ignore[arg-type]
    "pids": ({"resources": Resources(pids=0)}, "$.resources.pids"),
    "persist_logs": ({"persist_logs": -1.0}, "$.persist_logs"),
    "environment": ({"environment": {"A=B": "x"}}, "$.environment"),
    "environment-nul": ({"environment": {"A": "x\0"}}, "$.environment"),
    "environment-type": ({"environment": {"A": 1}}, "$.environment"),
    "labels": ({"labels": {"": "x"}}, "$.labels"),
    "job_id": ({"job_id": "a/b"}, "$.job_id"),
    "ports": ({"ports": [PortMapping(container_port=0)]}, "$.ports[0]"),
    "stdin": ({"stdin": b"x", "stdin_file": "/etc/hostname"}, "$.stdin_file"),
    "script": ({"provision_scripts": {"../x": b""}}, "$.provision_scripts"),
}


@line("3")
@pytest.mark.parametrize("wrong", list(_WRONG))
async def test_a_wrong_field_is_named_and_nothing_is_left(bench: Bench, wrong: str) -> None:
    fields, path = _WRONG[wrong]
    request = bench.request(**fields)
    with pytest.raises(InvalidRequest) as caught:
        await bench.executor.run(request)
    assert caught.value.path.startswith(path), str(caught.value)
    assert caught.value.mend
    assert await bench.ids() == [], "a refused request left a record"
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.path, copy.mend) == (str(caught.value), caught.value.path, caught.value.mend)


@line("3")
async def test_an_id_stays_free_after_a_refusal(bench: Bench) -> None:
    with pytest.raises(InvalidRequest):
        await bench.executor.run(bench.request(timeout=-1.0, execution_id="same"))
    assert (await bench.run(execution_id="same")).status == "success"


@line("3")
async def test_unknown_params_list_the_known(bench: Bench) -> None:
    spec = bench.subject.spec()
    spec = msgspec.structs.replace(spec, params={**spec.params, "no_such_param": 1})
    with pytest.raises(InvalidRequest) as caught:
        await bench.executor.run(bench.request(spec=spec))
    assert caught.value.path.startswith("$.engine_spec.params")
    assert "no_such_param" in str(caught.value)
    assert any(name in caught.value.mend for name in spec.params), str(caught.value)


@line("3")
async def test_an_unknown_engine_lists_the_installed(bench: Bench) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await bench.executor.run(bench.request(spec=SpecConfig(type="no-such-engine")))
    assert caught.value.path == "$.engine_spec.type"
    assert bench.subject.engine in caught.value.mend


@line("3")
async def test_what_is_no_request_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidRequest):
        await bench.executor.run({"job_id": "j"})  # type: ignore[arg-type]


_LACKING: dict[str, tuple[str, dict[str, Any]]] = {
    "network_user": ("network", {"network": "user"}),
    "ports": ("ports", {"ports": [PortMapping(container_port=80)]}),
    "tty": ("tty", {"tty": True}),
    "named_volumes": ("inputs", {"inputs": [StorageVolume(type="volume", source="v", target="/v")]}),
}


@line("5")
@pytest.mark.parametrize("power", list(_LACKING))
async def test_a_request_for_what_the_engine_lacks_is_refused(bench: Bench, power: str) -> None:
    if power in await _declared(bench):
        return
    word, fields = _LACKING[power]
    with pytest.raises(NotSupported) as caught:
        await bench.executor.run(bench.request(**fields))
    assert caught.value.engine == bench.subject.engine
    assert word in caught.value.what, str(caught.value)
    assert await bench.ids() == []


@line("5", lacks={"volumes"})
@pytest.mark.parametrize("field", ["inputs", "outputs", "results_dir", "stdin_file"])
async def test_volumes_of_an_engine_that_has_none_are_refused(bench: Bench, field: str) -> None:
    volume = StorageVolume(source=str(bench.folder), target="/data")
    value: Any = [volume] if field in ("inputs", "outputs") else str(bench.folder / "absent")
    with pytest.raises(NotSupported) as caught:
        await bench.executor.run(bench.request(**{field: value}))
    assert field in caught.value.what


@line("3")
async def test_a_request_is_the_same_from_json(bench: Bench) -> None:
    from ...types import decode_request, encode

    policy = msgspec.structs.replace(bench.subject.policy(bench.folder), unenforced=("cpu", "memory"))
    await bench.open(policy)
    request = bench.request(resources=Resources(memory=ByteSize("64MiB"), cpu=0.5), labels={"a": "b"})
    again: ExecutionRequest = decode_request(encode(request))
    assert again == request
    assert (await bench.executor.run(again)).status == "success"


async def _declared(bench: Bench) -> frozenset[str]:
    return (await bench.executor.probe(bench.subject.engine))[0].capabilities
