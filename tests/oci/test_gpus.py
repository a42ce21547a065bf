"""GPUs of each vendor, from a request down to the runtime's configuration, on a host that has them in files only."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dms_executor.errors import EngineUnavailable, NotSupported, PolicyDenied, ResourcesUnavailable
from dms_executor.policy import Policy
from dms_executor.types import GPU

from ..devices.conftest import FakeHost, fake_host
from .conftest import LIMITS, Bench, opened

__all__ = ["fake_host"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes need root")


@pytest.fixture
async def bench(tmp_path: Path, busybox: Path, fake_host: FakeHost) -> AsyncIterator[Bench]:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "cdi").mkdir()
    fake_host.node("kfd")
    fake_host.add("amd", "0000:0a:00.0", "card2", "renderD128")
    fake_host.add("amd", "0000:03:00.0", "card0", "renderD130")
    fake_host.add("intel", "0000:00:02.0", "card1", "renderD129")
    fake_host.add("nvidia", "0000:41:00.0", "nvidia1", name="Test GPU")
    fake_host.add("nvidia", "0000:42:00.0", "nvidia0", name="Test GPU")
    settings = {"runtime": "crun", "userns": "off", "cdi_folders": [str(tmp_path / "cdi")], "cdi_hooks": "skip"}
    async with opened(tmp_path / "state", busybox, Policy.trusted(), **settings) as ready:
        yield ready


async def _config(bench: Bench, *gpus: GPU) -> tuple[dict[str, Any], list[str]]:
    """What the runtime is told, and what the record says."""
    resources = msgspec.structs.replace(LIMITS, gpus=list(gpus))
    x = bench.execution("true", resources=resources)
    prepared, handle = await bench.created(x)
    config: dict[str, Any] = json.loads((x.folder / "bundle" / "config.json").read_text())
    await bench.engine.destroy(x, handle)
    return config, prepared.loosened


def _nodes(config: dict[str, Any]) -> list[str]:
    return [each["destination"] for each in config["mounts"] if "/dev/" in each["source"].removeprefix("/run")]


async def test_amd_by_its_address(bench: Bench) -> None:
    config, told = await _config(bench, GPU(vendor="amd", pci_address="0a:00.0"))
    assert _nodes(config) == ["/dev/dri/card2", "/dev/dri/renderD128", "/dev/kfd"]
    allowed = [rule for rule in config["linux"]["resources"]["devices"] if rule["allow"]]
    assert allowed == [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}] * 3
    assert told == ["device: GPU amd 1 0000:0a:00.0 (/dev/dri/card2, /dev/dri/renderD128, /dev/kfd)"]


async def test_amd_by_index_is_in_the_order_of_pci(bench: Bench) -> None:
    config, _ = await _config(bench, GPU(vendor="amd", index=0))
    assert _nodes(config) == ["/dev/dri/card0", "/dev/dri/renderD130", "/dev/kfd"]


async def test_two_of_amd_share_one_kfd(bench: Bench) -> None:
    config, _ = await _config(bench, GPU(vendor="amd"), GPU(vendor="amd"))
    assert sorted(_nodes(config)) == sorted(
        ["/dev/dri/card0", "/dev/dri/renderD130", "/dev/kfd", "/dev/dri/card2", "/dev/dri/renderD128"]
    )


async def test_intel(bench: Bench) -> None:
    config, told = await _config(bench, GPU(vendor="intel"))
    assert _nodes(config) == ["/dev/dri/card1", "/dev/dri/renderD129"]
    assert told == ["device: GPU intel 0 0000:00:02.0 (/dev/dri/card1, /dev/dri/renderD129)"]


def _nvidia(folder: Path, host: FakeHost) -> None:
    """As `nvidia-ctk cdi generate` writes it: devices by index, which is not the minor number."""
    (folder.parent / "libcuda.so.1").write_text("library")
    library = {
        "hostPath": str(folder.parent / "libcuda.so.1"),
        "containerPath": "/usr/lib/libcuda.so.1",
        "options": ["ro", "nosuid", "nodev", "bind"],
    }
    host.node("nvidiactl")
    host.node("nvidia-uvm")
    common = {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": "/dev/nvidiactl"}, {"path": "/dev/nvidia-uvm"}],
        "mounts": [library],
        "hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-ctk", "args": ["nvidia-ctk", "hook", "x"]}],
    }
    both = [{"path": "/dev/nvidia0"}, {"path": "/dev/nvidia1"}]
    devices = [
        {"name": "0", "containerEdits": {"deviceNodes": both[1:]}},
        {"name": "1", "containerEdits": {"deviceNodes": both[:1]}},
        {"name": "all", "containerEdits": {"deviceNodes": both}},
    ]
    spec = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices, "containerEdits": common}
    (folder / "nvidia.yaml").write_text(json.dumps(spec))  # JSON is YAML


async def test_nvidia_by_its_cdi_spec(bench: Bench, fake_host: FakeHost, tmp_path: Path) -> None:
    _nvidia(tmp_path / "cdi", fake_host)
    config, told = await _config(bench, GPU(vendor="nvidia", pci_address="0000:41:00.0"))
    assert _nodes(config) == ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia1"]
    assert "NVIDIA_VISIBLE_DEVICES=void" in config["process"]["env"]
    assert "/usr/lib/libcuda.so.1" in [each["destination"] for each in config["mounts"]]
    assert "hooks" not in config
    assert "nvidia.com/gpu=0: the hook createContainer nvidia-ctk hook x is left out" in told
    assert told[-1].startswith("device: GPU nvidia 0 0000:41:00.0 Test GPU by nvidia.com/gpu=0 (")


async def test_the_device_all_of_a_spec_is_the_vendors_own(bench: Bench, fake_host: FakeHost, tmp_path: Path) -> None:
    _nvidia(tmp_path / "cdi", fake_host)
    x = bench.execution("true", devices=["nvidia.com/gpu=all"])
    _, handle = await bench.created(x)
    config = json.loads((x.folder / "bundle" / "config.json").read_text())
    await bench.engine.destroy(x, handle)
    assert _nodes(config) == ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia1"]


async def test_nvidia_without_a_spec_says_how_to_make_one(bench: Bench) -> None:
    with pytest.raises(EngineUnavailable, match="nvidia 0 0000:41") as caught:
        await _config(bench, GPU(vendor="nvidia", index=0))
    assert "nvidia-ctk cdi generate" in caught.value.mend


@pytest.mark.parametrize(
    "gpu", [GPU(vendor="amd", index=2), GPU(vendor="nvidia", name="Other"), GPU(vendor="amd", pci_address="ff:00.0")]
)
async def test_one_that_is_not_there(bench: Bench, gpu: GPU) -> None:
    with pytest.raises(ResourcesUnavailable, match=r"\$\.resources\.gpus\[0\]") as caught:
        await _config(bench, gpu)
    assert "0000:0a:00.0" in caught.value.mend


@pytest.mark.parametrize("allowed", ["amd.com/gpu=0000:03:00.0", "amd.com/gpu=0"])
async def test_only_what_the_policy_allows(tmp_path: Path, busybox: Path, fake_host: FakeHost, allowed: str) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    fake_host.node("kfd")
    fake_host.add("amd", "0000:03:00.0", "card0", "renderD130")
    fake_host.add("amd", "0000:0a:00.0", "card2", "renderD128")
    policy = msgspec.structs.replace(Policy.trusted(), devices=(allowed,))
    async with opened(tmp_path / "state", busybox, policy, runtime="crun", userns="off") as bench:
        config, _ = await _config(bench, GPU(vendor="amd"))
        assert "/dev/dri/card0" in _nodes(config)
        with pytest.raises(PolicyDenied) as caught:
            await _config(bench, GPU(vendor="amd", pci_address="0a:00.0"))
        assert "devices=(..., 'amd.com/gpu=1')" in caught.value.mend


async def test_a_host_without_any(tmp_path: Path, busybox: Path, fake_host: FakeHost) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    async with opened(tmp_path / "state", busybox, Policy.trusted(), runtime="crun", userns="off") as bench:
        probe = await bench.engine.probe()
        assert "gpus" not in probe.capabilities
        assert probe.capacity is not None
        assert probe.capacity.gpus == []
        with pytest.raises(NotSupported) as caught:
            await _config(bench, GPU(vendor="amd"))
        assert (caught.value.engine, caught.value.what) == ("oci", "$.resources.gpus")


async def test_the_probe_lists_them(bench: Bench) -> None:
    probe = await bench.engine.probe()
    assert {"gpus", "devices"} <= probe.capabilities
    assert probe.capacity is not None
    assert probe.capacity.gpus is not None
    told = [(gpu.vendor, gpu.index, gpu.pci_address) for gpu in probe.capacity.gpus]
    assert told == [
        ("intel", 0, "0000:00:02.0"),
        ("amd", 0, "0000:03:00.0"),
        ("amd", 1, "0000:0a:00.0"),
        ("nvidia", 0, "0000:41:00.0"),
        ("nvidia", 1, "0000:42:00.0"),
    ]
