"""The engine with the programs that stand in for Firecracker and its jailer, where neither is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dms_executor.firecracker import host, raw, template
from dms_executor.microvm import launch, warm
from tests import kernels

from .fake import programs

_API = os.environ.get("DMS_EXECUTOR_FIRECRACKER_API")


@pytest.fixture(autouse=True)
def however_slow_it_boots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_DEADLINE", 240.0)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests of a module: kernel, initrd, root image and snapshots are made once."""
    return tmp_path_factory.mktemp("firecracker") / "state"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What requests may name."""
    return tmp_path_factory.mktemp("named")


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return programs(tmp_path_factory.mktemp("tools") / "bin", _API)


@pytest.fixture
def stood_in(tools: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], dict[str, Any]]:
    """The engine's settings, jailed or not."""

    def settings(jailed: bool) -> dict[str, Any]:
        # A machine without a KVM runs these, too: what is asked of its node is another's.
        monkeypatch.setattr(host, "missing_kvm", lambda: "")
        monkeypatch.setattr(host, "kvm_owner", lambda: (os.getgid() + 1, 0o660))
        if not jailed:
            # The stand-in is a program of Python's, which may lie where no user but ours reads it.
            monkeypatch.setattr(launch, "owner_of", lambda token: 0)
            monkeypatch.setattr(raw, "owner_of", lambda token: 0)
            monkeypatch.setattr(template, "owner_of", lambda token: 0)
        return {
            "program": tools["firecracker"],
            "jailer": tools["jailer"],
            "jailed": jailed,
            "kernel_image": kernels.installed()[0],
            "warm": False,
        }

    return settings
