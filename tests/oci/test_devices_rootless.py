"""CDI devices and GPUs for an ordinary user: nodes of the host's own, which the user may open or is told why not."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dms_executor.devices.access import permitted

from .someone import Someone
from .test_rootless import Root, left, request, root

__all__ = ["root"]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes and specs need root to make")
NAME = "vendor.test/copy=null"
USER, GROUP, MASK = 0x02, 0x08, 0x10
OWNER, OWNING_GROUP, OTHERS = 0x01, 0x04, 0x20


class Machine:
    """Root's own folder, which everybody may read: a node, and a folder of specs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cdi, self.node = folder, folder / "cdi", folder / "node"
        self.cdi.mkdir(mode=0o755)

    def has(self, mode: int, owner: tuple[int, int] = (0, 0)) -> None:
        self.node.unlink(missing_ok=True)
        os.mknod(self.node, stat.S_IFCHR | mode, os.makedev(1, 3))
        os.chown(self.node, *owner)
        self.node.chmod(mode)

    def says(self, *, common: dict[str, Any] | None = None, **more: Any) -> None:
        node = {"path": "/dev/copy", "hostPath": str(self.node), **more}
        devices = [{"name": "null", "containerEdits": {"deviceNodes": [node]}}]
        spec = {"cdiVersion": "0.6.0", "kind": "vendor.test/copy", "devices": devices, "containerEdits": common or {}}
        (self.cdi / "copy.json").write_text(json.dumps(spec))
        (self.cdi / "copy.json").chmod(0o644)


@pytest.fixture
def machine(someone: Someone) -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="dms-test-"))
    folder.chmod(0o755)
    made = Machine(folder)
    someone.settings["cdi_folders"] = [str(made.cdi)]
    yield made
    shutil.rmtree(folder)


@needs_root
@pytest.mark.parametrize("user", ["0:0", "1000:1001"])
@pytest.mark.parametrize("init", [True, False])
def test_a_device_that_is_a_copy_of_null(
    someone: Someone, root: Path, runtime: str, machine: Machine, user: str, init: bool
) -> None:
    machine.has(0o666)
    machine.says()
    script = "echo gone >/dev/copy && cat /dev/copy && stat -c '%F %t:%T %a' /dev/copy; mknod /tmp/x c 1 3 || echo no"
    fields: Root = {"devices": [NAME], "init": init, "params": {"user": user}}
    result, info = someone.does(runtime, ("run", request(root, "sh", "-c", script, **fields)), ("inspect", "e"))
    assert result["stdout"].splitlines() == ["character special file 1:3 666", "no"], result
    assert f"device: {NAME} (/dev/copy)" in info["loosened"]
    assert left(someone) == []


@needs_root
def test_a_node_of_the_callers_own_is_the_jobs_roots(
    someone: Someone, root: Path, runtime: str, machine: Machine
) -> None:
    machine.has(0o600, (someone.uid, someone.gid))
    machine.says()
    mine = request(root, "sh", "-c", "echo x >/dev/copy && stat -c %u:%g /dev/copy", devices=[NAME])
    other = {**request(root, "true", devices=[NAME], params={"user": "app"}), "execution_id": "f"}
    result, refused, _ = someone.does(runtime, ("run", mine), ("run", other), ("remove", "f"))
    assert result["stdout"] == "0:0\n", result
    assert (refused["error"], "in the job 1000" in refused["message"]) == ("NotSupported", True), refused


@needs_root
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o644])
def test_one_that_the_user_may_not_open_is_refused(
    someone: Someone, root: Path, runtime: str, machine: Machine, mode: int
) -> None:
    machine.has(mode)
    machine.says()
    (refused,) = someone.does(runtime, ("run", request(root, "true", devices=[NAME])))
    assert str(machine.node) in refused["message"], refused
    if mode == 0o644:
        assert refused["error"] == "NotSupported"
        assert f"setfacl -m u:{someone.uid}:rw {machine.node}" in refused["mend"]
    else:  # as any file of the host's that this user may not even read
        assert (refused["error"], "Give that user the permission" in refused["mend"]) == ("PolicyDenied", True)
    machine.says(permissions="r")
    (read,) = someone.does(runtime, ("run", request(root, "cat", "/dev/copy", devices=[NAME])))
    assert read.get("exit_code") == (0 if mode == 0o644 else None), read


@needs_root
def test_an_access_list_counts(someone: Someone, root: Path, runtime: str, machine: Machine) -> None:
    machine.has(0o600)
    machine.says()
    entries = [(OWNER, 6, -1), (USER, 6, someone.uid), (OWNING_GROUP, 0, -1), (MASK, 6, -1), (OTHERS, 0, -1)]
    try:
        os.setxattr(machine.node, "system.posix_acl_access", acl(*entries))
    except OSError as error:
        pytest.skip(f"no access lists on the file system of {machine.node}: {error.strerror}")
    (result,) = someone.does(runtime, ("run", request(root, "sh", "-c", "echo x >/dev/copy", devices=[NAME])))
    assert result["exit_code"] == 0, result


@needs_root
def test_a_node_that_only_root_could_make(someone: Someone, root: Path, machine: Machine) -> None:
    machine.says(hostPath="/absent", type="c", major=1, minor=5)
    (refused,) = someone.does("crun", ("run", request(root, "true", devices=[NAME])))
    assert (refused["error"], "only root makes one" in refused["message"]) == ("NotSupported", True), refused


@needs_root
def test_mounts_and_variables(someone: Someone, root: Path, runtime: str, machine: Machine) -> None:
    machine.has(0o666)
    (machine.folder / "driver.so").write_text("library\n")
    mount = {"hostPath": str(machine.folder / "driver.so"), "containerPath": "/usr/lib/driver.so", "options": ["ro"]}
    machine.says(common={"env": ["DRIVER=from spec"], "mounts": [mount]})
    script = "cat /usr/lib/driver.so; echo $DRIVER; echo x 2>/dev/null >/usr/lib/driver.so || echo refused"
    (result,) = someone.does(runtime, ("run", request(root, "sh", "-c", script, devices=[NAME])))
    assert result["stdout"].splitlines() == ["library", "from spec", "refused"], result


@needs_root
@pytest.mark.parametrize(("mode", "given"), [(0o666, True), (0o660, False)])
def test_gpus_down_to_their_nodes(
    someone: Someone, root: Path, runtime: str, machine: Machine, mode: int, given: bool
) -> None:
    """Of AMD and Intel without a spec, of NVIDIA by one; whose nodes the user may not open is not declared."""
    host = machine.folder / "host"
    pretend(host, mode)
    someone.pretends(**{"gpus.SYSFS": host / "sys", "gpus.PROC": host / "proc", "grants.DEV": host / "dev"})
    edits = {"deviceNodes": [{"path": "/dev/nvidia0"}]}
    spec = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{"name": "0", "containerEdits": edits}]}
    (machine.cdi / "nvidia.json").write_text(json.dumps(spec))
    wanted = [{"vendor": vendor} for vendor in ("amd", "intel", "nvidia")]
    script = "ls /dev/dri /dev/kfd /dev/nvidia0 && for node in /dev/dri/* /dev/kfd /dev/nvidia0; do echo x >$node; done"
    asked = request(root, "sh", "-c", script, resources={"gpus": wanted})
    probe, result = someone.does(runtime, ("probe", "oci"), ("run", asked))
    assert ("gpus" in probe["capabilities"]) is given
    if not given:
        assert (result["error"], "may not read" in result["message"]) == ("PolicyDenied", True), result
        return
    nodes = {"card0", "renderD128", "card1", "renderD129", "/dev/kfd", "/dev/nvidia0", "/dev/dri:"}
    assert (result["exit_code"], set(result["stdout"].split())) == (0, nodes), result


def pretend(host: Path, mode: int) -> None:
    """/sys, /proc and /dev of a machine with three GPUs, their nodes copies of /dev/null."""
    for vendor, address, nodes in (
        ("0x1002", "0000:03:00.0", ("card0", "renderD128")),
        ("0x8086", "0000:00:02.0", ("card1", "renderD129")),
        ("0x10de", "0000:41:00.0", ()),
    ):
        device = host / "sys/bus/pci/devices" / address
        for node in nodes:
            (device / "drm" / node).mkdir(parents=True)
        device.mkdir(parents=True, exist_ok=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text("0x030000\n")
    told = host / "proc/driver/nvidia/gpus/0000:41:00.0"
    told.mkdir(parents=True)
    (told / "information").write_text("Model: \t Test\nDevice Minor: \t 0\n")
    (host / "dev/dri").mkdir(parents=True)
    for name in ("dri/card0", "dri/renderD128", "dri/card1", "dri/renderD129", "kfd", "nvidia0"):
        os.mknod(host / "dev" / name, stat.S_IFCHR | mode, os.makedev(1, 3))
        (host / "dev" / name).chmod(mode)


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, who & 0xFFFFFFFF) for tag, bits, who in entries
    )


@pytest.mark.parametrize(
    ("mode", "entries", "uid", "gids", "said"),
    [
        (0o640, (), 5, set(), "rw"),
        (0o640, (), 6, {7}, "r"),
        (0o604, (), 6, {7}, ""),
        (0o604, (), 6, set(), "r"),
        (0o660, [(USER, 6, 6), (OWNING_GROUP, 0, -1), (MASK, 6, -1)], 6, set(), "rw"),
        (0o640, [(USER, 6, 6), (OWNING_GROUP, 0, -1), (MASK, 4, -1)], 6, set(), "r"),
        (0o660, [(OWNING_GROUP, 0, -1), (GROUP, 6, 9), (MASK, 6, -1)], 6, {9}, "rw"),
        (0o666, [(OWNING_GROUP, 0, -1), (GROUP, 0, 9), (MASK, 6, -1)], 6, {9}, ""),
        (0o060, [(OWNING_GROUP, 6, -1), (MASK, 6, -1)], 5, {7}, ""),
    ],
)
def test_what_the_kernel_lets_whom_open(mode: int, entries: Any, uid: int, gids: set[int], said: str) -> None:
    status = os.stat_result((stat.S_IFCHR | mode, 1, 1, 1, 5, 7, 0, 0, 0, 0))
    assert permitted(status, acl(*entries) if entries else b"", uid, gids) == said
