"""A host's /sys, /proc and /dev as they look with GPUs in it: what the kernel's documentation says of each file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dms_executor.devices import gpus, grants

_IDS = {"nvidia": "0x10de", "amd": "0x1002", "intel": "0x8086"}


class FakeHost:
    """PCI devices in a folder of the test's own; their nodes are copies of /dev/null."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "dev" / "dri").mkdir(parents=True)
        (root / "sys/bus/pci/devices").mkdir(parents=True)

    def add(self, vendor: str, address: str, *nodes: str, kind: str = "0x030000", name: str = "") -> None:
        """`nodes` are names in /dev/dri; NVIDIA's is `nvidiaN`."""
        device = self.root / "sys/bus/pci/devices" / address
        device.mkdir()
        (device / "vendor").write_text(f"{_IDS.get(vendor, vendor)}\n")
        (device / "class").write_text(f"{kind}\n")
        if vendor == "nvidia":
            self._add_nvidia(address, nodes, name)
            return
        if name:
            (device / "product_name").write_text(f"{name}\n")
        for node in nodes:
            (device / "drm" / node).mkdir(parents=True)
            (device / "drm" / f"{node}-HDMI-A-1").mkdir()  # a connector is no node
            self.node(f"dri/{node}")

    def _add_nvidia(self, address: str, nodes: tuple[str, ...], name: str) -> None:
        for node in nodes:
            told = self.root / "proc/driver/nvidia/gpus" / address
            told.mkdir(parents=True)
            minor = node.removeprefix("nvidia")
            (told / "information").write_text(
                f"Model: \t\t {name}\nBus Location: \t {address}\nDevice Minor: \t {minor}\n"
            )
            self.node(node)

    def node(self, name: str) -> None:
        if os.geteuid() == 0:
            os.mknod(self.root / "dev" / name, stat.S_IFCHR | 0o660, os.makedev(1, 3))


@pytest.fixture
def fake_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    host = FakeHost(tmp_path / "host")
    monkeypatch.setattr(gpus, "SYSFS", host.root / "sys")
    monkeypatch.setattr(gpus, "PROC", host.root / "proc")
    monkeypatch.setattr(grants, "DEV", host.root / "dev")
    return host
