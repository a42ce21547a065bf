"""A VM's control group on version 2 with KVM, of which the kernel never says that it is frozen."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dms_executor.cgroups import Cgroups
from dms_executor.cgroups.hierarchies import Hierarchy
from dms_executor.microvm import standing
from dms_executor.microvm.host import VmHost
from dms_executor.microvm.standing import is_standing, make_stand


@pytest.fixture
def host(tmp_path: Path) -> VmHost:
    """A folder that looks like a group, with the figures of one that does nothing."""
    group = tmp_path / "vm"
    group.mkdir()
    (group / "cgroup.freeze").write_text("0\n")
    (group / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    (group / "cpu.stat").write_text("usage_usec 7\nuser_usec 3\n")
    hierarchy = Hierarchy(mount=str(tmp_path), version=2, controllers=frozenset())
    return VmHost(program="vmm", accelerator="kvm", cgroups=Cgroups(hierarchies=(hierarchy,)))


async def test_what_was_asked_for_counts_once_no_time_goes_by(host: VmHost, tmp_path: Path) -> None:
    assert await asyncio.to_thread(is_standing, host, "vm") is False
    await make_stand(host, "vm", True, engine="e")
    assert await asyncio.to_thread(is_standing, host, "vm") is True
    await make_stand(host, "vm", False, engine="e")
    assert await asyncio.to_thread(is_standing, host, "vm") is False


async def test_a_group_that_is_gone(host: VmHost) -> None:
    assert await asyncio.to_thread(is_standing, host, "none") is None
    with pytest.raises(FileNotFoundError):
        await make_stand(host, "none", True, engine="e")


async def test_one_that_goes_on_is_waited_for(host: VmHost, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = [1, 2, 3, 3]
    monkeypatch.setattr(standing, "_used", lambda stat: figures.pop(0))
    await make_stand(host, "vm", True, engine="e")
    assert not figures
