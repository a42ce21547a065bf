"""A snapshot as one file, what a start from it is told, and what makes another shape. No machine runs here."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from dms_executor.cgroups import detect
from dms_executor.firecracker.host import Host
from dms_executor.firecracker.machine import machine_of
from dms_executor.firecracker.place import Place
from dms_executor.firecracker.restoring import MEMORY, STATE, pack, restored
from dms_executor.firecracker.spec import FirecrackerParams, FirecrackerSettings
from dms_executor.firecracker.template import is_worth_keeping, template_of
from dms_executor.images import ImageConfig
from dms_executor.limits import Limits
from dms_executor.microvm.plan import Plan

from .description import OURS, published

CONTENT = b"memory" + bytes(1 << 20) + b"of a guest"
PLAN = Plan(image=ImageConfig(), kernel="", initrd="")
MACHINE = machine_of(PLAN, [False, True], False, FirecrackerParams(image="a"), FirecrackerSettings())


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """As it lies among others."""
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / MEMORY).write_bytes(CONTENT)
    (saved / STATE).write_bytes(b"state of the devices")
    path = tmp_path / "snapshot"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    pack(fd, saved, len(CONTENT))
    os.close(fd)
    return path


def place(folder: Path) -> Place:
    return Place(folder, "e1-warm", os.geteuid(), None)


def test_a_start_finds_what_was_saved_and_asks_for_what_the_api_has(snapshot: Path, tmp_path: Path) -> None:
    here = place(tmp_path / "vm")
    calls = restored(here, snapshot, MACHINE)
    assert (here.folder / STATE).read_bytes() == b"state of the devices"
    assert (here.folder / MEMORY).samefile(snapshot), "each clone has the memory anew"
    assert (here.folder / MEMORY).read_bytes()[: len(CONTENT)] == CONTENT
    assert calls is not None
    description = published() or OURS
    for call, body in calls:
        method, path = call.split()
        assert not description.faults(json.loads(body), str(description.body(method, path))), (call, body)
    assert [call for call, _ in calls] == [
        "PUT /snapshot/load",
        "PATCH /drives/disk0",
        "PATCH /drives/disk1",
        "PATCH /vm",
    ]
    assert json.loads(calls[0][1])["resume_vm"] is False, "the guest would run before it has its disks"


def test_of_another_file_system_each_start_has_a_copy(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", link)
    here = place(tmp_path / "vm")
    assert restored(here, snapshot, MACHINE) is not None
    copied = here.folder / MEMORY
    assert not copied.samefile(snapshot)
    assert copied.read_bytes() == snapshot.read_bytes()
    assert copied.stat().st_blocks * 512 < len(CONTENT), "its holes are filled"


def test_one_that_is_gone_or_not_ours_alone_is_none(snapshot: Path, tmp_path: Path) -> None:
    assert restored(place(tmp_path / "a"), tmp_path / "absent", MACHINE) is None
    snapshot.chmod(0o646)
    assert restored(place(tmp_path / "b"), snapshot, MACHINE) is None


def test_one_that_is_renewed_while_it_is_taken_is_none(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lend = Place.lend

    def lent(self: Place, path: Path, name: str) -> Path:
        (tmp_path / "newer").write_bytes(path.read_bytes())
        (tmp_path / "newer").rename(path)
        return lend(self, path, name)

    monkeypatch.setattr(Place, "lend", lent)
    here = place(tmp_path / "vm")
    assert restored(here, snapshot, MACHINE) is None, "its memory is of another than its devices"
    assert not list(here.folder.iterdir())


def test_where_there_is_no_room_for_it_the_job_boots(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(Place, "lend", full)
    here = place(tmp_path / "vm")
    assert restored(here, snapshot, MACHINE) is None
    assert not list(here.folder.iterdir())


@pytest.mark.parametrize("left", ["short", "fifo", "link"])
def test_what_no_firecracker_wrote_is_no_snapshot(tmp_path: Path, left: str) -> None:
    (tmp_path / STATE).write_bytes(b"state")
    if left == "fifo":
        os.mkfifo(tmp_path / MEMORY)
    elif left == "link":
        (tmp_path / MEMORY).symlink_to("/dev/zero")
    else:
        (tmp_path / MEMORY).write_bytes(CONTENT[1:])
    with open(tmp_path / "snapshot", "w+b") as file, pytest.raises(OSError, match=r"memory|symbolic"):
        pack(file.fileno(), tmp_path, len(CONTENT))


@pytest.mark.parametrize(
    ("version", "params", "memory", "kept"),
    [
        ("v1.10.0", {}, 512 << 20, True),
        ("v1.17.0-dev", {}, 512 << 20, True),
        ("v1.9.1", {}, 512 << 20, False),
        ("v1.10.0", {"kernel_args": "debug"}, 512 << 20, False),
        ("v1.10.0", {"kernel_image": "/boot/vmlinuz"}, 512 << 20, False),
        ("v1.10.0", {}, 5 << 30, False),
    ],
)
def test_which_shapes_are_worth_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, params: dict[str, str], memory: int, kept: bool
) -> None:
    host = Host(program="firecracker", jailer=None, version=version, kvm_group=0, cgroups=detect())
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=64 << 20, f_frsize=1024))
    assert is_worth_keeping(host, FirecrackerParams(image="a", **params), memory, tmp_path) is kept
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1 << 20, f_frsize=1024))
    assert not is_worth_keeping(host, FirecrackerParams(image="a", **params), memory, tmp_path), "the disk is small"


@pytest.mark.parametrize("damage", [b"", b"x", b"\xff" * 100])
def test_of_one_that_is_damaged_there_is_no_state(snapshot: Path, tmp_path: Path, damage: bytes) -> None:
    snapshot.write_bytes(damage)
    here = place(tmp_path / "vm")
    assert restored(here, snapshot, MACHINE) is not None, "what Firecracker says of it nobody would hear"
    assert (here.folder / STATE).read_bytes() == b""


def test_another_kernel_or_shape_is_another_snapshot(tmp_path: Path) -> None:
    for name in ("kernel", "initrd", "firecracker"):
        (tmp_path / name).write_text(name)
    program = str(tmp_path / "firecracker")
    plan = Plan(image=ImageConfig(), kernel=str(tmp_path / "kernel"), initrd=str(tmp_path / "initrd"))

    def key(
        *writable: bool, memory: int = 0, network: bool = False, args: str = "", jailer: str | None = "jailer"
    ) -> str:
        host = Host(program=program, jailer=jailer, version="v1.17.0", kvm_group=0, cgroups=detect())
        sized = Plan(image=plan.image, kernel=plan.kernel, initrd=plan.initrd, limits=Limits(memory=memory or None))
        params = FirecrackerParams(image="a", kernel_args=args or None)
        machine = machine_of(sized, writable, network, params, FirecrackerSettings())
        return template_of(machine, host, sized, "jobs", tmp_path / "state").key

    first = key(False)
    assert key(False, memory=(512 << 20) - 1) == first, "nearly the same size is the same shape"
    others = [key(False, True), key(False, False), key(False, memory=640 << 20), key(False, network=True)]
    others += [key(False, args="debug"), key(False, jailer=None)]
    (tmp_path / "other").write_text("kernel")
    (tmp_path / "other").rename(tmp_path / "kernel")
    others.append(key(False))
    assert len({first, *others}) == len(others) + 1
