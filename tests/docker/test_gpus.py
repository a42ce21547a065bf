"""GPUs of each vendor down to what the daemon is told, on a host that has them in files only."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dms_executor.docker import PodmanEngine, devices
from dms_executor.docker.dialect import PODMAN
from dms_executor.errors import EngineUnavailable, NotSupported, StartFailed
from dms_executor.types import GPU, Resources

from ..devices.conftest import FakeHost, fake_host
from .session import Bench, opened

__all__ = ["fake_host"]


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def bench(tmp_path: Path, rootfs: Path, fake_host: FakeHost, engine: str) -> AsyncIterator[Bench]:
    (tmp_path / "cdi").mkdir()
    fake_host.node("kfd")
    fake_host.add("amd", "0000:0a:00.0", "card2", "renderD128")
    fake_host.add("amd", "0000:03:00.0", "card0", "renderD130")
    fake_host.add("intel", "0000:00:02.0", "card1", "renderD129")
    fake_host.add("nvidia", "0000:41:00.0", "nvidia1", name="Test GPU")
    fake_host.add("nvidia", "0000:42:00.0", "nvidia0", name="Test GPU")
    for node, group in (("kfd", 109), ("dri/renderD128", 109), ("dri/card2", 44), ("dri/card1", 44)):
        os.chown(fake_host.root / "dev" / node, 0, group)
        (fake_host.root / "dev" / node).chmod(0o660)
    settings: dict[str, Any] = {"cdi_folders": [str(tmp_path / "cdi")], "cdi_hooks": "skip"}
    async with opened(tmp_path / "state", rootfs, engine=engine, **settings) as ready:
        yield ready


def _nodes(told: dict[str, Any]) -> list[tuple[str, str]]:
    """Podman keeps the permissions, and does not tell them."""
    devices = told["HostConfig"]["Devices"] or []
    return [(each["PathInContainer"], each["CgroupPermissions"] or "rw") for each in devices]


async def test_amd_by_its_address(bench: Bench, fake_host: FakeHost) -> None:
    resources = Resources(gpus=[GPU(vendor="amd", pci_address="0a:00.0")])
    told = await bench.inspected(resources=resources)
    assert _nodes(told) == [("/dev/dri/card2", "rw"), ("/dev/dri/renderD128", "rw"), ("/dev/kfd", "rw")]
    dev = fake_host.root / "dev"
    on_host = [each["PathOnHost"] for each in told["HostConfig"]["Devices"]]
    if bench.engine == "docker":  # Podman tells another node of the same number
        assert on_host == [str(dev / "dri/card2"), str(dev / "dri/renderD128"), str(dev / "kfd")]
    assert told["HostConfig"]["GroupAdd"] == ["44", "109"], "the groups of the nodes: video and render"
    assert not told["HostConfig"].get("DeviceRequests")


async def test_a_user_who_is_not_root_can_use_what_was_asked_for_and_sees_no_more(bench: Bench) -> None:
    script = "id -G; ls /dev/dri; echo x >/dev/dri/card2 && echo x >/dev/dri/renderD128 && echo x >/dev/kfd"
    gpus = [GPU(vendor="amd", index=1)]
    said = await bench.sh(script, params={"user": "1000:1000"}, resources=Resources(gpus=gpus))
    assert said.split() == ["1000", "44", "109", "card2", "renderD128"]


async def test_intel(bench: Bench) -> None:
    told = await bench.inspected(resources=Resources(gpus=[GPU(vendor="intel")]))
    assert _nodes(told) == [("/dev/dri/card1", "rw"), ("/dev/dri/renderD129", "rw")]
    assert told["HostConfig"]["GroupAdd"] == ["44"]


async def test_nvidia_without_its_runtime_is_refused_before_anything_is_made(bench: Bench) -> None:
    with pytest.raises(EngineUnavailable, match="CDI") as caught:
        await bench.run("true", resources=Resources(gpus=[GPU(vendor="nvidia")]))
    assert "nvidia-ctk" in caught.value.mend
    assert (await bench.executor.list()) == []


@pytest.mark.parametrize("engine", ["podman"], indirect=True)
async def test_podman_is_asked_for_no_gpu_that_it_would_leave_out(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-container-runtime-hook").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-container-runtime-hook").chmod(0o755)
    monkeypatch.setattr(devices, "_PATH", str(tmp_path))
    with pytest.raises(EngineUnavailable, match="CDI"):
        await bench.run("true", resources=Resources(gpus=[GPU(vendor="nvidia", index=0)]))


@pytest.mark.parametrize("engine", ["podman"], indirect=True)
async def test_a_hook_of_nvidias_gives_no_gpu_to_who_asked_for_none(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "oci-nvidia-hook.json").write_text("{}")
    hooked = msgspec.structs.replace(PODMAN, hook_folders=(str(tmp_path),))
    monkeypatch.setattr(PodmanEngine, "dialect", hooked)
    asked = {"NVIDIA_VISIBLE_DEVICES": "all"}
    assert await bench.sh("echo $NVIDIA_VISIBLE_DEVICES", environment=asked) == "void\n"


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
async def test_nvidia_is_handed_over_by_the_daemon(
    bench: Bench, fake_host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By UUID where the driver shows it, else by index; a daemon that has no such driver says what is missing."""
    hook = tmp_path / "nvidia-container-runtime-hook"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    monkeypatch.setattr(devices, "_PATH", str(tmp_path))
    told = fake_host.root / "proc/driver/nvidia/gpus/0000:42:00.0/information"
    told.write_text(told.read_text() + "GPU UUID: \t GPU-8f9c2d11-0000-1111-2222-333344445555\n")
    gpus = Resources(gpus=[GPU(vendor="nvidia", index=1), GPU(vendor="nvidia", index=0)])
    request = bench.request("true", resources=gpus)
    bodies: list[dict[str, Any]] = []
    real = devices.device_config

    def noted(granted: Any) -> dict[str, Any]:
        bodies.append(real(granted))
        return bodies[-1]

    monkeypatch.setattr("dms_executor.docker.body.device_config", noted)
    with pytest.raises(StartFailed, match="could not select device driver") as caught:
        await bench.executor.run(request)
    assert "nvidia-container-toolkit" in caught.value.mend
    ids = ["GPU-8f9c2d11-0000-1111-2222-333344445555", "0"]
    assert bodies == [{"DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": ids, "Capabilities": [["gpu"]]}]}]


async def test_a_cdi_device_comes_with_its_mounts_and_variables(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "library").write_text("driver")
    edits = {
        "deviceNodes": [{"path": "/dev/copy", "hostPath": "/dev/kfd", "permissions": "r"}],
        "mounts": [{"hostPath": str(tmp_path / "library"), "containerPath": "/lib.so", "options": ["ro"]}],
        "env": ["FROM_SPEC=1"],
        "additionalGids": [4242],
        "hooks": [{"hookName": "createContainer", "path": "/usr/bin/no-such-hook"}],
    }
    spec = {"cdiVersion": "0.6.0", "kind": "vendor.test/x", "devices": [{"name": "a", "containerEdits": edits}]}
    (tmp_path / "cdi/x.json").write_text(json.dumps(spec))
    request = bench.request(
        "sh",
        "-c",
        "cat /lib.so; echo; echo $FROM_SPEC; id -G; cat /dev/copy",
        devices=["vendor.test/x=a"],
        environment={"FROM_SPEC": "the request's"},
    )
    result = await bench.executor.run(request)
    assert (result.exit_code, result.stdout) == (0, b"driver\n1\n0 109 4242\n"), result
    told = (await bench.executor.inspect(request.execution_id)).loosened
    assert any("vendor.test/x=a: the hook createContainer" in each for each in told), told


async def test_what_a_daemon_cannot_do_is_refused(bench: Bench, tmp_path: Path) -> None:
    """A node of numbers that the host has no node of, and a place that is the job's own."""
    for node in (
        {"path": "/dev/made", "type": "c", "major": 1, "minor": 77},
        {"path": "/dev/null", "hostPath": "/dev/kfd"},
    ):
        edits = {"deviceNodes": [node]}
        spec = {"cdiVersion": "0.6.0", "kind": "vendor.test/y", "devices": [{"name": "a", "containerEdits": edits}]}
        (tmp_path / "cdi/y.json").write_text(json.dumps(spec))
        with pytest.raises(NotSupported, match=str(node["path"])):
            await bench.run("true", devices=["vendor.test/y=a"])
    assert (await bench.executor.list()) == []
