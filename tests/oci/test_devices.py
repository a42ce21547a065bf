"""CDI devices in real containers: what a spec gives, what its absence takes, with both runtimes, mapped and not."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dms_executor.errors import InvalidRequest, NotSupported, PolicyDenied, ResourcesUnavailable
from dms_executor.policy import Policy

from .conftest import Bench, opened

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes need root")

_NAME = "vendor.test/copy=null"


@pytest.fixture
def cdi(tmp_path: Path) -> Iterator[Path]:
    """A folder of specs, and a copy of /dev/null in a tmp folder; the copy is what the spec's device is."""
    folder = tmp_path / "cdi"
    folder.mkdir(mode=0o755)
    os.mknod(tmp_path / "node", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    yield folder
    (tmp_path / "node").unlink(missing_ok=True)


def _spec(folder: Path, edits: dict[str, Any], *, common: dict[str, Any] | None = None, name: str = "null") -> None:
    spec = {
        "cdiVersion": "0.6.0",
        "kind": "vendor.test/copy",
        "devices": [{"name": name, "containerEdits": edits}],
        "containerEdits": common or {},
    }
    (folder / "copy.json").write_text(json.dumps(spec))
    (folder / "copy.json").chmod(0o644)


def _node(folder: Path, **more: Any) -> dict[str, Any]:
    return {"path": "/dev/copy", "hostPath": str(folder.parent / "node"), **more}


@pytest.fixture(params=["off", "auto"])
async def equipped(
    tmp_path: Path, busybox: Path, runtime: str, cdi: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Bench]:
    """An engine that reads the test's specs; without a user namespace and with one."""
    (tmp_path / "state").mkdir(mode=0o700)
    policy = msgspec.structs.replace(Policy.trusted(), devices=("vendor.test/copy",))
    settings = {"runtime": runtime, "userns": request.param, "cdi_folders": [str(cdi)]}
    async with opened(tmp_path / "state", busybox, policy, **settings) as bench:
        yield bench


@pytest.mark.parametrize("user", ["0:0", "1000:1001"])
@pytest.mark.parametrize("init", [True, False])
async def test_a_device_that_is_a_copy_of_null(equipped: Bench, cdi: Path, user: str, init: bool) -> None:
    _spec(cdi, {"deviceNodes": [_node(cdi)]})
    script = "echo gone >/dev/copy && cat /dev/copy && stat -c '%F %t:%T %a %u:%g' /dev/copy"
    ran = await equipped.run("sh", "-c", script, devices=[_NAME], params={"user": user}, init=init)
    assert ran.stdout == f"character special file 1:3 666 {user}\n", ran.stderr
    assert ran.exit.code == 0


async def test_what_was_granted_is_recorded(equipped: Bench, cdi: Path) -> None:
    _spec(cdi, {"deviceNodes": [_node(cdi)]})
    x = equipped.execution("true", devices=[_NAME])
    prepared, handle = await equipped.created(x)
    assert f"device: {_NAME} (/dev/copy)" in prepared.loosened
    await equipped.engine.destroy(x, handle)


async def test_the_spec_sets_mode_owner_and_access(equipped: Bench, cdi: Path) -> None:
    _spec(cdi, {"deviceNodes": [_node(cdi, fileMode=0o640, uid=5, gid=44, permissions="r")], "additionalGids": [44]})
    script = "stat -c '%a %u:%g' /dev/copy; id -G; cat /dev/copy && echo r; echo 2>/dev/null >/dev/copy || echo no"
    ran = await equipped.run("sh", "-c", script, devices=[_NAME], params={"user": "app"})
    assert ran.stdout.splitlines() == ["640 5:44", "1001 44 1002", "r", "no"]


@pytest.mark.parametrize(("permissions", "said"), [("rw", "r w"), ("r", "r"), ("wm", "w")])
async def test_the_kernel_refuses_what_the_spec_does_not_permit(
    equipped: Bench, cdi: Path, permissions: str, said: str
) -> None:
    source = next((path for path in ("/dev/fuse", "/dev/loop-control") if Path(path).exists()), None)
    if source is None:
        pytest.skip("no device here that may be opened by anybody and that no container has")
    _spec(cdi, {"deviceNodes": [_node(cdi, hostPath=source, permissions=permissions)]})
    script = "(: </dev/copy) 2>/dev/null && echo r; (: >/dev/copy) 2>/dev/null && echo w; true"
    ran = await equipped.run("sh", "-c", script, devices=[_NAME])
    assert ran.stdout.split() == said.split()


async def test_a_node_that_no_spec_gave_cannot_be_opened(equipped: Bench, cdi: Path) -> None:
    # /dev/full is 1:7 and is everybody's; a node of another number comes in by nothing but a spec.
    _spec(cdi, {"deviceNodes": [_node(cdi)], "mounts": []})
    ran = await equipped.run("sh", "-c", "ls /dev/copy || echo absent; mknod /tmp/x c 1 3 || echo refused")
    assert ran.stdout.split() == ["absent", "refused"]


async def test_mounts_and_variables(equipped: Bench, cdi: Path, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "driver.so").write_text("library\n")
    file = {
        "hostPath": str(tmp_path / "lib" / "driver.so"),
        "containerPath": "/usr/lib/driver.so",
        "options": ["ro", "nosuid", "nodev", "bind"],
    }
    folder = {"hostPath": str(tmp_path / "lib"), "containerPath": "/opt/rw", "options": ["rbind", "rprivate"]}
    common = {"env": ["DRIVER=from spec", "MODE=spec"], "mounts": [file]}
    _spec(cdi, {"deviceNodes": [_node(cdi)], "mounts": [folder]}, common=common)
    script = (
        "cat /usr/lib/driver.so; echo $DRIVER $MODE; echo x 2>/dev/null >/usr/lib/driver.so || echo refused; ls /opt/rw"
    )
    ran = await equipped.run("sh", "-c", script, devices=[_NAME], environment={"MODE": "request"})
    assert ran.stdout.splitlines() == ["library", "from spec spec", "refused", "driver.so"], ran.stderr


async def test_numbers_without_a_node_of_the_host(equipped: Bench, cdi: Path) -> None:
    _spec(cdi, {"deviceNodes": [{"path": "/dev/zero2", "hostPath": "/absent", "type": "c", "major": 1, "minor": 5}]})
    ran = await equipped.run("sh", "-c", "head -c 3 /dev/zero2 | od -An -tx1", devices=[_NAME])
    assert ran.stdout.split() == ["00", "00", "00"]


async def test_all_gives_each_device_of_the_kind(equipped: Bench, cdi: Path) -> None:
    _spec(cdi, {"deviceNodes": [_node(cdi)]})
    second = json.loads((cdi / "copy.json").read_text())
    second["devices"][0]["name"] = "two"
    second["devices"][0]["containerEdits"]["deviceNodes"][0]["path"] = "/dev/other"
    (cdi / "two.json").write_text(json.dumps(second))
    ran = await equipped.run("sh", "-c", "ls /dev/copy /dev/other", devices=["vendor.test/copy=all"])
    assert ran.stdout.split() == ["/dev/copy", "/dev/other"]


@pytest.mark.parametrize("name", ["other.test/copy=null", "vendor.test/others=null", "vendor.test/copyist=x"])
async def test_what_the_policy_does_not_name_is_denied(equipped: Bench, cdi: Path, name: str) -> None:
    _spec(cdi, {"deviceNodes": [_node(cdi)]})
    with pytest.raises(PolicyDenied) as caught:
        await equipped.engine.validate(equipped.execution("true", devices=[name]).request)
    assert f"devices=(..., {name!r})" in caught.value.mend


async def test_by_default_no_device_is_allowed(tmp_path: Path, busybox: Path, runtime: str, cdi: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    _spec(cdi, {"deviceNodes": [_node(cdi)]})
    policy = Policy(read_roots=(str(busybox),), missing_defaults="record")
    async with opened(tmp_path / "state", busybox, policy, runtime=runtime, cdi_folders=[str(cdi)]) as bench:
        with pytest.raises(PolicyDenied, match=r"devices\[0\]"):
            await bench.engine.validate(bench.execution("true", devices=[_NAME]).request)


async def test_a_name_that_is_none_and_one_that_nobody_has(equipped: Bench, cdi: Path) -> None:
    _spec(cdi, {"deviceNodes": [_node(cdi)]})
    for name in ("null", "/dev/null", "vendor.test/copy=", "vendor.test/copy=../x"):
        with pytest.raises(InvalidRequest, match=r"\$\.devices\[0\]"):
            await equipped.engine.validate(equipped.execution("true", devices=[name]).request)
    with pytest.raises(InvalidRequest) as caught:
        await equipped.engine.validate(equipped.execution("true", devices=["vendor.test/copy=absent"]).request)
    assert _NAME in caught.value.mend


async def test_a_device_that_is_not_plugged_in(equipped: Bench, cdi: Path) -> None:
    _spec(cdi, {"deviceNodes": [{"path": "/dev/copy", "hostPath": "/dev/no-such-node"}]})
    with pytest.raises(ResourcesUnavailable, match="no-such-node"):
        await equipped.engine.validate(equipped.execution("true", devices=[_NAME]).request)


async def test_a_device_swapped_after_it_was_granted(equipped: Bench, cdi: Path, tmp_path: Path) -> None:
    _spec(cdi, {"deviceNodes": [_node(cdi)]})
    x = equipped.execution("true", devices=[_NAME])
    await equipped.engine.validate(x.request)
    prepared = await equipped.engine.prepare(x, lambda progress: None)
    (tmp_path / "node").rename(tmp_path / "former")
    os.mknod(tmp_path / "node", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with pytest.raises(PolicyDenied, match="swapped"):
        await equipped.engine.create(x, prepared)
    await equipped.engine.destroy(x, None)
    assert equipped.left(x) == []


@pytest.mark.parametrize("target", ["/dev/null", "/dev", "/dev/.dms-executor-init", "/proc/x"])
async def test_a_node_in_a_place_of_the_jobs_own(equipped: Bench, cdi: Path, target: str) -> None:
    _spec(cdi, {"deviceNodes": [_node(cdi, path=target)]})
    with pytest.raises(NotSupported, match="the job's own"):
        await equipped.engine.validate(equipped.execution("true", devices=[_NAME]).request)


async def test_the_state_folder_is_refused_whatever_a_spec_says(equipped: Bench, cdi: Path) -> None:
    mount = {"hostPath": str(equipped.state), "containerPath": "/opt/state", "options": ["rbind"]}
    _spec(cdi, {"mounts": [mount]})
    with pytest.raises(PolicyDenied, match="under any policy"):
        await equipped.engine.validate(equipped.execution("true", devices=[_NAME]).request)


@pytest.fixture
def hook(tmp_path: Path) -> dict[str, Any]:
    """A hook that leaves a mark on the host."""
    touch = shutil.which("touch") or "/usr/bin/touch"
    return {"hookName": "createContainer", "path": touch, "args": ["touch", str(tmp_path / "mark")]}


@pytest.mark.parametrize("setting", ["refuse", "skip", "run"])
async def test_hooks(
    tmp_path: Path, busybox: Path, runtime: str, cdi: Path, hook: dict[str, Any], setting: str
) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    _spec(cdi, {"deviceNodes": [_node(cdi)], "hooks": [hook]})
    settings = {"runtime": runtime, "userns": "off", "cdi_folders": [str(cdi)], "cdi_hooks": setting}
    async with opened(tmp_path / "state", busybox, Policy.trusted(), **settings) as bench:
        if setting == "refuse":
            with pytest.raises(PolicyDenied, match="on the host as root") as caught:
                await bench.engine.validate(bench.execution("true", devices=[_NAME]).request)
            assert "cdi_hooks" in caught.value.mend
            return
        x = bench.execution("sh", "-c", "echo x >/dev/copy", devices=[_NAME])
        prepared, handle = await bench.created(x)
        await bench.engine.start(x, handle)
        assert (await bench.ended(x, handle)).exit.code == 0
    assert (tmp_path / "mark").exists() is (setting == "run")
    words = "runs on the host" if setting == "run" else "is left out"
    assert any("hook createContainer" in each and words in each for each in prepared.loosened)
