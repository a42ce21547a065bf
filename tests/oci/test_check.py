"""Validation: params, what the engine lacks, what the host cannot enforce, what the policy forbids."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dms_executor.cgroups import Cgroups
from dms_executor.errors import ExecutorError, InvalidRequest, NotSupported, PolicyDenied
from dms_executor.limits import Limits
from dms_executor.oci import OciSpec
from dms_executor.oci.check import check_runtime, host_limits
from dms_executor.oci.flavours import CRUN, RUNSC
from dms_executor.oci.host import Host
from dms_executor.oci.probing import lacking
from dms_executor.oci.runtime import Runtime
from dms_executor.oci.spec import checked_settings
from dms_executor.policy import Policy
from dms_executor.types import GPU, ByteSize, ExecutionRequest, Resources, SpecConfig, StorageVolume

from .conftest import Bench, opened

P = "$.engine_spec.params"


@pytest.fixture
async def strict(tmp_path: Path, busybox: Path) -> AsyncIterator[Bench]:
    """The engine with a policy that allows the root tree and one folder."""
    (tmp_path / "allowed").mkdir()
    (tmp_path / "state").mkdir()
    policy = Policy(read_roots=[busybox, tmp_path / "allowed"])
    async with opened(tmp_path / "state", busybox, policy) as ready:
        yield ready


def asking(params: dict[str, Any], **fields: Any) -> ExecutionRequest:
    return ExecutionRequest(job_id="j", execution_id="e", engine_spec=SpecConfig(type="oci", params=params), **fields)


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({}, P),
        ({"image": 3}, f"{P}.image"),
        ({"image": ""}, f"{P}.image"),
        ({"image": "rootfs:/x", "comand": []}, P),
        ({"image": "rootfs:/x", "cmd": ["a\0"]}, f"{P}.cmd[0]"),
        ({"image": "rootfs:/x", "cmd": "echo"}, f"{P}.cmd"),
        ({"image": "rootfs:/x", "working_directory": "x"}, f"{P}.working_directory"),
        ({"image": "rootfs:/x", "hostname": "x" * 65}, f"{P}.hostname"),
        ({"image": "rootfs:/x", "environment": {"A=B": "x"}}, f"{P}.environment"),
        ({"image": "rootfs:relative"}, f"{P}.image"),
        ({"image": "rootfs:/nonexistent"}, f"{P}.image"),
    ],
)
async def test_bad_params(bench: Bench, params: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        await bench.engine.validate(asking(params))
    assert error.value.path == path


def test_unknown_params_are_told_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="entrypoint"):
        from dms_executor.oci.spec import checked_params

        checked_params({"image": "rootfs:/x", "comand": []})


def test_the_builder_leaves_out_what_is_not_said() -> None:
    assert OciSpec(image="rootfs:/x").build().params == {"image": "rootfs:/x"}
    assert OciSpec(image="rootfs:/x", cmd=[], read_only_root=True).build().params == {
        "image": "rootfs:/x",
        "cmd": [],
        "read_only_root": True,
    }


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"resources": Resources(gpus=[GPU(vendor="nvidia")])}, "$.resources.gpus"),
        ({"network": "bridge"}, "$.network"),
        ({"inputs": [StorageVolume(type="volume", source="v", target="/v")]}, "$.inputs[0].type"),
    ],
)
async def test_what_it_lacks_is_named(bench: Bench, fields: dict[str, Any], what: str) -> None:
    request = asking({"image": f"rootfs:{bench.busybox}"}, **fields)
    with pytest.raises(NotSupported) as error:
        await bench.engine.validate(request)
    assert (error.value.engine, error.value.what) == ("oci", what)


async def test_a_terminal_takes_our_init(bench: Bench) -> None:
    request = asking({"image": f"rootfs:{bench.busybox}"}, tty=True, init=False)
    with pytest.raises(InvalidRequest, match="init") as error:
        await bench.engine.validate(request)
    assert error.value.path == "$.tty"


async def test_a_folder_of_another_platform(bench: Bench) -> None:
    with pytest.raises(NotSupported):
        await bench.engine.validate(asking({"image": "rootfs:/x", "platform": "linux/s390x"}))


@pytest.mark.parametrize(
    "resources", [Resources(memory=ByteSize("1MiB")), Resources(cpu=0.001), Resources(disk=ByteSize("1KiB"))]
)
async def test_too_little_is_invalid(bench: Bench, resources: Resources) -> None:
    with pytest.raises(InvalidRequest, match="At least"):
        await bench.engine.validate(asking({"image": f"rootfs:{bench.busybox}"}, resources=resources))


@pytest.mark.parametrize(
    "fields",
    [
        {"network": "host"},
        {"inputs": [StorageVolume(source="/etc", target="/in")]},
        {"inputs": [StorageVolume(source="/", target="/in")]},
        {"inputs": [StorageVolume(source="{allowed}", target="/in", read_only=False)]},
        {"inputs": [StorageVolume(source="{allowed}/link", target="/in")]},
        {"inputs": [StorageVolume(source="{state}", target="/in")]},
        {"results_dir": "{allowed}/results"},
        {"stdin_file": "/etc/passwd"},
        {"outputs": [StorageVolume(source="{allowed}/out", target="/out")]},
    ],
)
async def test_a_strangers_request(strict: Bench, tmp_path: Path, fields: dict[str, Any]) -> None:
    (tmp_path / "allowed" / "link").symlink_to("/etc")
    names = {"{allowed}": str(tmp_path / "allowed"), "{state}": str(tmp_path / "state")}

    def placed(value: Any) -> Any:
        if isinstance(value, str):
            for name, path in names.items():
                value = value.replace(name, path)
        if isinstance(value, list):
            return [
                StorageVolume(target=volume.target, source=placed(volume.source), read_only=volume.read_only)
                for volume in value
            ]
        return value

    request = asking({"image": f"rootfs:{strict.busybox}"}, **{name: placed(value) for name, value in fields.items()})
    with pytest.raises(PolicyDenied):
        await strict.engine.validate(request)
    assert sorted(path.name for path in (tmp_path / "allowed").iterdir()) == ["link"]


async def test_the_image_needs_a_root_too(strict: Bench) -> None:
    with pytest.raises(PolicyDenied, match=r"params\.image"):
        await strict.engine.validate(asking({"image": "rootfs:/usr"}))


async def test_a_swap_between_prepare_and_create(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    x = bench.execution("ls", "/in", inputs=[StorageVolume(source=str(tmp_path / "in"), target="/in")])
    prepared = await bench.engine.prepare(x, lambda progress: None)
    (tmp_path / "in").rename(tmp_path / "moved")
    (tmp_path / "in").symlink_to("/etc")
    with pytest.raises(PolicyDenied):
        await bench.engine.create(x, prepared)
    await bench.engine.destroy(x, None)
    assert bench.left(x) == []


HOST = Host(
    runtime=Runtime(flavour=CRUN, path="/usr/bin/crun", why=""), cgroups=Cgroups(), limits=frozenset(), memory=2**30
)


def test_limits_that_cannot_be_enforced() -> None:
    named = asking({}, resources=Resources(memory=ByteSize("64MiB")))
    with pytest.raises(NotSupported) as error:
        host_limits(named, HOST, Policy.trusted())
    assert error.value.what == "$.resources.memory"
    with pytest.raises(NotSupported):
        host_limits(asking({}), HOST, Policy())
    assert host_limits(asking({}), HOST, Policy.trusted()) == (Limits(), ["memory", "pids"])
    lifted = Policy(unenforced=("memory", "pids"))
    assert host_limits(named, HOST, lifted) == (Limits(), ["memory", "pids"])


def test_a_probe_tells_how_each_limit_is_had() -> None:
    told = lacking(HOST, checked_settings({}))
    assert [text.partition(":")[0] for text in told] == [
        f"no limit of {name}" for name in ("cpu", "memory", "pids", "disk")
    ]
    assert "cgroup_enable=memory" in told[1]
    assert "Install e2fsprogs" in told[3]
    limited = msgspec.structs.replace(HOST, limits=frozenset({"cpu", "memory", "pids", "disk"}))
    assert lacking(limited, checked_settings({})) == []


def test_settings() -> None:
    assert checked_settings({"runtime": "runc"}).runtime == "runc"
    for bad in ({"runtine": "x"}, {"cgroup_parent": "../x"}, {"cgroup_parent": ""}):
        with pytest.raises(ExecutorError):
            checked_settings(bad)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"devices": ["v.test/c=a"]}, "$.devices"),
        ({"resources": Resources(gpus=[GPU(vendor="amd")])}, "$.resources.gpus"),
    ],
)
def test_a_kernel_of_its_own_has_no_devices_of_the_hosts(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(NotSupported, match="runsc") as error:
        check_runtime(asking({"image": "rootfs:/x"}, **fields), RUNSC)
    assert error.value.what == what


async def test_a_registry_that_the_policy_does_not_name(tmp_path: Path, busybox: Path) -> None:
    (tmp_path / "state").mkdir()
    async with opened(tmp_path / "state", busybox, Policy(registries=("registry.example:5000",))) as bench:
        await bench.engine.validate(asking({"image": "registry.example:5000/team/tool:1"}))
        for image in ("alpine", "127.0.0.1:5000/tool", "docker://registry.example/tool"):
            with pytest.raises(PolicyDenied, match="registries") as error:
                await bench.engine.validate(asking({"image": image}))
            assert str(error.value).startswith(f"{P}.image")
