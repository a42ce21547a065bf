"""The isolation audit: what a job sees of itself is exactly what `worlds.py` says it may see."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dms_executor import Executor, Settings
from dms_executor.oci import OciSpec
from dms_executor.policy import Policy
from dms_executor.supervisor import binary
from dms_executor.types import ExecutionRequest

from ..runsc import needed
from .conftest import LIMITS, opened
from .seen import SCRIPT, look
from .world_of_runsc import SANDBOX
from .worlds import WORLDS, World


@pytest.mark.parametrize("world", [*WORLDS, pytest.param(SANDBOX, marks=needed)], ids=str)
async def test_a_job_sees_what_is_written_down(tmp_path: Path, busybox: Path, world: World) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    params = {"user": world.user} if world.user else {}
    async with opened(tmp_path / "state", busybox, Policy(read_roots=[busybox]), **world.settings) as bench:
        ran = await bench.run("sh", "-c", SCRIPT, params=params)
        first = ran.handle.engine_ids["userns"].partition("+")[0]
        seen = look(ran.stdout, "" if first == "host" else first, ran.x.token)
        init = Path(binary.init_path(bench.state))
        expected = await asyncio.to_thread(lambda: world.expected(token=ran.x.token, init=init))
    assert differences(seen, expected) == {}
    assert bool(ran.handle.loosened) is (world is SANDBOX), "what was loosened is told"


@pytest.mark.parametrize("world", [world for world in WORLDS if world.user is None], ids=str)
async def test_a_further_command_sees_no_more(tmp_path: Path, busybox: Path, world: World) -> None:
    spec = OciSpec(image=f"rootfs:{busybox}", cmd=["sleep", "1000"]).build()
    request = ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec, resources=LIMITS)
    settings = Settings(engines={"oci": world.settings})
    async with Executor.open(tmp_path / "state", policy=Policy(read_roots=[busybox]), settings=settings) as executor:
        await executor.start(request)
        ids = (await executor.inspect("e")).engine_ids
        ran = await executor.exec("e", ["sh", "-c", SCRIPT])
        await executor.cancel("e", grace=0)
    init = Path(binary.init_path(tmp_path / "state"))
    expected = await asyncio.to_thread(lambda: world.expected(token=ids["container"], init=init))
    expected["processes"] |= {"sleep"}
    first = ids["userns"].partition("+")[0]
    seen = look(ran.stdout.decode(), "" if first == "host" else first, ids["container"])
    assert seen["cgroup"] <= {"/", "/exec-1"}, "the job's own, or one beneath it"
    # Go may put the soft limit back that runc had at its own start (https://github.com/opencontainers/runc/issues/4195).
    most = expected["limits"]["Max open files"][1]
    if world.runtime == "runc" and seen["limits"]["Max open files"] == (most, most):
        seen["limits"]["Max open files"] = expected["limits"]["Max open files"]
    assert differences({**seen, "cgroup": {"/"}}, expected) == {}


@pytest.mark.parametrize("aspect", ["privileges", "mounts", "namespaces", "secrets", "writable kernel files"])
def test_a_loosening_is_seen(aspect: str) -> None:
    expected = WORLDS[0].expected(token="0" * 20, init=Path("/init"))
    looser: dict[str, Any] = {
        "privileges": {**expected["privileges"], "NoNewPrivs": "0"},
        "mounts": expected["mounts"] | {("/host", "bind", "ro")},
        "namespaces": {**expected["namespaces"], "net": "the host's"},
        "secrets": {"/proc/kcore"},
        "writable kernel files": {*expected["writable kernel files"], "/proc/sys/kernel/core_pattern"},
    }
    found = differences({**expected, aspect: looser[aspect]}, expected)
    assert list(found) == [aspect]


def differences(seen: dict[str, Any], expected: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By aspect, what is there beyond the expectation and what is missing."""
    assert seen.keys() == expected.keys()
    return {
        aspect: {"seen": _without(seen[aspect], wanted), "expected": _without(wanted, seen[aspect])}
        for aspect, wanted in expected.items()
        if seen[aspect] != wanted
    }


def _without(these: Any, those: Any) -> Any:
    if isinstance(these, set) and isinstance(those, set):
        return these - those
    if isinstance(these, dict) and isinstance(those, dict):
        return {name: value for name, value in these.items() if those.get(name) != value}
    return these
