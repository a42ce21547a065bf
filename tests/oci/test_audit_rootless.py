"""The isolation audit of an ordinary user's jobs: what one sees is exactly what `world_rootless.py` says."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from .. import lan
from .seen import SCRIPT, look
from .someone import Someone
from .test_audit import differences
from .test_rootless import Root, request, root
from .world_rootless import WORLDS, differs
from .worlds import World

__all__ = ["root"]

SHELL = ["sh", "-c", SCRIPT]


def asked(root: Path, world: World, *cmd: str) -> Root:
    params = {"user": world.user} if world.user else {}
    network = {"network": "user"} if world.name.endswith("-network") else {}
    return request(root, *cmd, resources={"memory": "64MiB", "pids": 64}, params=params, **network)


def strict(root: Path) -> dict[str, Any]:
    """As for a stranger's job; on a host without a delegated control group its owner has to say more."""
    return {"read_roots": [str(root)], "unenforced": ["memory", "pids"]}


def written(someone: Someone, world: World, info: dict[str, Any]) -> dict[str, Any]:
    """The expectation for that user on this host."""
    ranges = [
        [line.split(":")[1:] for line in Path(file).read_text().splitlines() if line.split(":")[0] == someone.name]
        for file in ("/etc/subuid", "/etc/subgid")
    ]
    maps = []
    for own, ((first, count),) in zip((someone.uid, someone.gid), ranges, strict=True):
        maps += [f"0 {own} 1", f"1 {first} {count}"]
    mine = differs(world, maps, delegated=not info["unenforced"])
    init = someone.python("-c", "from dms_executor.supervisor import binary; print(binary.init_path(None))").stdout
    return mine.expected(token=info["engine_ids"]["container"], init=Path(init.strip()))


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_a_job_sees_what_is_written_down(someone: Someone, root: Path, world: World) -> None:
    someone.settings |= world.settings
    with contextlib.ExitStack() as stack:
        if world.name.endswith("-network"):
            if why := lan.missing():
                pytest.skip(why)
            stack.enter_context(lan.host_and_outside())
            someone.opens("/dev/net/tun", 10, 200)
        steps = (("run", asked(root, world, *SHELL)), ("inspect", "e"))
        result, info = someone.does(world.runtime, *steps, policy=strict(root))
    assert result.get("exit_code") == 0, result
    seen = look(result["stdout"], "", info["engine_ids"]["container"])
    assert differences(seen, written(someone, world, info)) == {}
    told = ["network: user"] if world.name.endswith("-network") else []
    assert info["loosened"] == told, "what was loosened is told, and nothing else"


@pytest.mark.parametrize("world", [each for each in WORLDS if each.name in ("rootless-crun", "rootless-runc")], ids=str)
def test_a_further_command_sees_no_more(someone: Someone, root: Path, world: World) -> None:
    steps = (("start", asked(root, world, "sleep", "1000")), ("inspect", "e"), ("exec", ["e", SHELL]), ("cancel", "e"))
    _, info, ran, _ = someone.does(world.runtime, *steps, policy=strict(root))
    seen = look(ran["stdout"], "", info["engine_ids"]["container"])
    expected = written(someone, world, info)
    expected["processes"] |= {"sleep"}
    assert seen["cgroup"] <= {"/", "/exec-1"}, "the job's own, or one beneath it"
    # Go may put the soft limit back that runc had at its own start (https://github.com/opencontainers/runc/issues/4195).
    most = expected["limits"]["Max open files"][1]
    if world.runtime == "runc" and seen["limits"]["Max open files"] == (most, most):
        seen["limits"]["Max open files"] = expected["limits"]["Max open files"]
    assert differences({**seen, "cgroup": {"/"}}, expected) == {}
