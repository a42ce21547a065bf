"""Where no engine is usable, the error says how the one that would be taken is mended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor, SpecConfig, registry
from dms_executor.errors import EngineUnavailable
from dms_executor.lifecycle import core
from dms_executor.registry import register
from dms_executor.testing import MemoryEngine
from dms_executor.types import Probe


class First(MemoryEngine):
    name = "first"
    rank = 1

    async def probe(self) -> Probe:
        return Probe(engine=self.name, usable=False, problem="no runtime in PATH", mend="apt-get install crun.")


class Second(MemoryEngine):
    name = "second"
    rank = 2

    async def probe(self) -> Probe:
        return Probe(engine=self.name, usable=False, problem="no daemon", mend="Start it")


async def test_the_first_engines_mend_is_the_errors(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in (First, Second):
        register(engine)
    monkeypatch.setattr(core, "names_by_rank", lambda: ["first", "second"])
    async with Executor.open(state_dir) as executor:
        with pytest.raises(EngineUnavailable) as caught:
            await executor.run(ExecutionRequest(job_id="j", execution_id="e", engine_spec=SpecConfig()))
        assert await executor.list() == []
    assert "first: no runtime in PATH" in caught.value.message
    assert "second: no daemon" in caught.value.message
    assert caught.value.mend.startswith("apt-get install crun.")
    assert "dms-executor engines" in caught.value.mend


def test_the_ranks_by_which_an_engine_is_chosen_are_the_engines_own() -> None:
    ours = {name: rank for name, (_, rank) in registry._OURS.items()}
    assert ours == {name: registry.engine_class(name).rank for name in ours}
    taken = [name for name in registry.names_by_rank() if name in ours]
    assert taken == ["oci", "docker", "podman", "firecracker", "qemu"]


def test_an_installed_package_that_brings_an_engine_is_seen(tmp_path: Path) -> None:
    (tmp_path / "ours-1.dist-info").mkdir()
    ours = tmp_path / "ours-1.dist-info" / "entry_points.txt"
    ours.write_text(f"[console_scripts]\nx = y:z\n\n[{registry.GROUP}]\noci = a:B\n\n[other]\nmine = c:D\n")
    assert not registry._may_bring_engines(str(tmp_path))
    ours.write_text(f"[{registry.GROUP}]\noci = a:B\nmine = c:D\n")
    assert registry._may_bring_engines(str(tmp_path))
    assert not registry._may_bring_engines(str(tmp_path / "missing"))
    assert registry._brings_engines(str(tmp_path))


def test_a_folder_of_packages_that_this_user_may_not_read_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_path: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "is_dir", refused)
    assert not registry._brings_engines("/somewhere")


def test_a_job_that_names_no_engine_imports_no_other(tmp_path: Path) -> None:
    program = (
        "import sys; from dms_executor.registry import *; names_by_rank(); engine_class('oci'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert {"dms_executor.docker", "dms_executor.qemu", "importlib.metadata"}.isdisjoint(done.stdout.split())
