"""Limits, freezer and out-of-memory detection of an ordinary user's jobs, really applied in what is delegated to it.

In the host: `scripts/host --systemd --user guest pytest tests/oci/test_delegated.py`, and without `--systemd`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from .someone import Someone
from .test_rootless import left, request, root

__all__ = ["root"]

CGROUPS = Path("/sys/fs/cgroup")
TOLD = {"cpu": 0.5, "memory": "64MiB", "pids": 32}


@pytest.fixture(autouse=True)
def delegated(someone: Someone, runtime: str) -> None:
    (probe,) = someone.does(runtime, ("probe", "oci"))
    if not {"memory", "pids", "cpu"} <= set(probe["capabilities"]):
        pytest.skip(f"no control group is delegated to this user: {probe['mend']}")


def group_of(token: str) -> Path:
    found = [Path(level, name) for level, names, _ in os.walk(CGROUPS) for name in names if name == token]
    assert len(found) == 1, found
    return found[0]


def test_limits_are_in_the_users_own_scope(someone: Someone, root: Path, runtime: str) -> None:
    asked = request(root, "sleep", "1000", resources=TOLD)
    _, info = someone.does(runtime, ("start", asked), ("inspect", "e"))
    group = group_of(info["engine_ids"]["container"])
    try:
        limits = {name: (group / name).read_text().strip() for name in ("memory.max", "pids.max", "cpu.max")}
        assert limits == {"memory.max": str(64 << 20), "pids.max": "32", "cpu.max": "50000 100000"}
        assert group.stat().st_uid == someone.uid
        shim = Path(f"/proc/{info['engine_ids']['shim']}/cgroup").read_text().strip().removeprefix("0::")
        beside = f"/{group.parent.relative_to(CGROUPS)}"
        assert shim.startswith(f"{beside}/"), "the shim has left its caller for a place beside its jobs"
        if Path("/run/systemd/system").exists():
            manager = f"/user.slice/user-{someone.uid}.slice/user@{someone.uid}.service"
            assert beside == f"{manager}/app.slice/dms-executor.scope"
        assert info["unenforced"] == []
    finally:
        someone.does(runtime, ("cancel", "e"), ("remove", "e"))
    assert not group.exists()


def test_out_of_memory_is_told_by_the_kernel(someone: Someone, root: Path, runtime: str) -> None:
    asked = request(root, "sh", "-c", "echo before; tail /dev/zero", resources={"memory": "16MiB"})
    (result,) = someone.does(runtime, ("run", asked))
    assert (result["reason"], result["status"], result["stdout"]) == ("oom_killed", "failed", "before\n"), result
    assert result["usage"]["oom_kills"] >= 1
    assert left(someone) == []


def test_a_job_gets_no_more_tasks_than_it_may(someone: Someone, root: Path, runtime: str) -> None:
    script = "for i in $(seq 60); do sleep 100 & done; echo started"
    (result,) = someone.does(runtime, ("run", request(root, "sh", "-c", script, resources={"pids": 16})))
    assert "fork" in result["stderr"], result
    assert left(someone) == []


def test_a_frozen_job_stands_still_and_is_cancelled_as_it_is(someone: Someone, root: Path, runtime: str) -> None:
    script = "i=0; while :; do i=$((i + 1)); echo $i; done"
    asked = request(root, "sh", "-c", script, resources=TOLD)
    _, info, *paused = someone.does(runtime, ("start", asked), ("inspect", "e"), ("pause", "e"), ("get_status", "e"))
    group = group_of(info["engine_ids"]["container"])
    assert paused[-1] == "paused"
    assert "frozen 1" in (group / "cgroup.events").read_text()
    used = (group / "cpu.stat").read_text().split()[1]
    stats, _ = someone.does(runtime, ("stats", "e"), ("resume", "e"))
    assert stats["cpu_seconds"] == pytest.approx(int(used) / 1e6, abs=0.01)
    assert stats["memory_limit_bytes"] == 64 << 20
    assert "frozen 0" in (group / "cgroup.events").read_text()
    ended: list[Any] = someone.does(runtime, ("pause", "e"), ("cancel", "e"), ("wait", "e"))
    assert (ended[-1]["status"], ended[-1]["killed"]) == ("cancelled", True)
    assert left(someone) == []
