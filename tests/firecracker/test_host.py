"""What the probe says of a host that lacks something, and how it is mended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dms_executor.engine import EngineContext
from dms_executor.firecracker import FirecrackerEngine, FirecrackerSettings, host
from dms_executor.policy import Policy
from dms_executor.types import Probe

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the engine firecracker takes root so far")
_BOOTS = 'case "$*" in --version) echo "Firecracker v1.9.1" ;; *) echo dms ;; esac'


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "missing_kvm", lambda: "")
    monkeypatch.setattr(host, "kvm_owner", lambda: (0, 0o600))


async def probed(folder: Path, **settings: Any) -> Probe:
    given = FirecrackerSettings(**settings)
    context = EngineContext(state_dir=folder, executor_id="e", settings=given, policy=Policy())
    async with FirecrackerEngine.open(context) as engine:
        return await engine.probe()


async def test_no_program(tmp_path: Path) -> None:
    probe = await probed(tmp_path, program="/no/firecracker")
    assert not probe.usable
    assert probe.problem == "/no/firecracker is not installed"
    assert probe.mend is not None
    assert "github.com/firecracker-microvm" in probe.mend


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo nothing of the kind", "does not say which version it is"),
        ("echo Firecracker v1.4.1", "v1.4.1 is too old"),
        ("exit 1", "does not say which version it is"),
    ],
)
async def test_a_program_that_is_none_or_old(script: str, problem: str, tmp_path: Path) -> None:
    probe = await probed(tmp_path, program=program(tmp_path / "firecracker", script))
    assert not probe.usable
    assert problem in probe.problem
    assert probe.mend


@pytest.mark.usefixtures("kvm")
async def test_the_jailer_is_not_done_without_unless_that_is_said(tmp_path: Path) -> None:
    name = program(tmp_path / "firecracker", _BOOTS)
    probe = await probed(tmp_path, program=name, jailer="/no/jailer")
    assert probe.problem == "/no/jailer is not installed"
    assert probe.mend is not None
    assert "jailed" in probe.mend
    # As a user of the VM's own it could not open what is root's alone.
    probe = await probed(tmp_path, program=name, jailed=False)
    assert "/dev/kvm is root's alone" in probe.problem


@pytest.mark.usefixtures("kvm")
async def test_a_name_that_the_jailer_does_not_start(tmp_path: Path) -> None:
    jailer = program(tmp_path / "jailer", "exit 1")
    probe = await probed(tmp_path, program=program(tmp_path / "vmm", _BOOTS), jailer=jailer)
    assert "'vmm'" in probe.problem


async def test_no_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "missing_kvm", lambda: "/dev/kvm does not exist")
    tools = {name: program(tmp_path / name, _BOOTS) for name in ("firecracker", "jailer")}
    probe = await probed(tmp_path, program=tools["firecracker"], jailer=tools["jailer"])
    assert (probe.usable, probe.problem) == (False, "/dev/kvm does not exist")


@pytest.mark.usefixtures("kvm")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            'case "$*" in --version) echo v1.9.1 ;; *) echo "x [vcpu] Received KVM_EXIT_SHUTDOWN signal" ;; esac',
            "KVM_EXIT",
        ),
        ('case "$*" in --version) echo v1.9.1 ;; *) exit 3 ;; esac', "code 3"),
    ],
)
async def test_a_kvm_that_opens_and_runs_no_guest(script: str, said: str, tmp_path: Path) -> None:
    jailer = program(tmp_path / "jailer", "exit 1")
    probe = await probed(tmp_path, program=program(tmp_path / "firecracker", script), jailer=jailer)
    assert not probe.usable
    assert probe.problem.startswith("KVM runs no guest here")
    assert said in probe.problem
