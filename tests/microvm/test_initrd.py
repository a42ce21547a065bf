"""What the guest's kernel unpacks as its first root."""

from __future__ import annotations

import lzma
import stat
import struct
from pathlib import Path
from typing import NamedTuple

import pytest

from dms_executor.errors import EngineUnavailable
from dms_executor.microvm import initrd
from dms_executor.microvm.kernel import Kernel, find
from tests import kernels


class Found(NamedTuple):
    mode: int
    owner: tuple[int, int]
    time: int
    device: tuple[int, int]
    data: bytes


def unpacked(path: Path) -> dict[str, Found]:
    """As the kernel's init/initramfs.c goes through it."""
    data, at, found = path.read_bytes(), 0, {}
    while True:
        assert data[at : at + 6] == b"070701"
        assert at % 4 == 0
        field = [int(data[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        name = data[at + 110 : at + 110 + field[11]]
        assert name.endswith(b"\0")
        begin = (at + 110 + field[11] + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert not data[begin:].strip(b"\0")
            return found
        content = data[begin : begin + field[6]]
        device = (field[9], field[10])
        found[name[:-1].decode()] = Found(field[1], (field[2], field[3]), field[5], device, content)
        at = (begin + field[6] + 3) & ~3


def module(depends: str = "", softdep: str = "") -> bytes:
    """An ELF file with nothing but a section `.modinfo`."""
    info = f"depends={depends}\0" + (f"softdep={softdep}\0" if softdep else "")
    names = b"\0.modinfo\0.shstrtab\0"
    body = info.encode() + names
    table = 64 + len(body)
    head = b"\x7fELF\x02\x01\x01".ljust(40, b"\0") + struct.pack("<Q", table)
    head = head.ljust(58, b"\0") + struct.pack("<HHH", 64, 3, 2)
    sections = [(0, 0, 0, 0, 0, 0), (1, 1, 0, 0, 64, len(info)), (10, 3, 0, 0, 64 + len(info), len(names))]
    return head + body + b"".join(struct.pack("<IIQQQQ", *section).ljust(64, b"\0") for section in sections)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    folder = tmp_path / "6.6"
    (folder / "kernel/deep").mkdir(parents=True)
    (folder / "modules.builtin").write_text("kernel/lib/built-in.ko\n")
    return Kernel(path=tmp_path / "vmlinux", modules=folder, release="6.6")


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    (tmp_path / "agent").write_bytes(b"the agent")
    return tmp_path / "agent"


def place(kernel: Kernel, name: str, data: bytes) -> None:
    assert kernel.modules is not None
    (kernel.modules / "kernel/deep" / name).write_bytes(data)


async def order(kernel: Kernel, agent: Path, tmp_path: Path, *wanted: str) -> list[str]:
    path = await initrd.build(kernel, agent, tmp_path / "cache", wanted=wanted)
    return unpacked(path)["modules/order"].data.decode().split()


async def test_each_module_comes_after_what_it_needs(tmp_path: Path, kernel: Kernel, agent: Path) -> None:
    place(kernel, "top.ko", module("middle,one-more,built-in"))
    place(kernel, "middle.ko.xz", lzma.compress(module("lowest", "pre: soft-one missing post: later")))
    place(kernel, "lowest.ko", module())
    place(kernel, "one_more.ko", module("lowest"))
    place(kernel, "soft_one.ko", module())
    place(kernel, "later.ko", module())
    found = await order(kernel, agent, tmp_path, "?absent", "top", "built_in")
    assert found == ["lowest.ko", "soft_one.ko", "middle.ko", "one_more.ko", "top.ko"]


async def test_what_is_in_it(tmp_path: Path, kernel: Kernel, agent: Path) -> None:
    place(kernel, "a.ko.xz", lzma.compress(module()))
    path = await initrd.build(kernel, agent, tmp_path / "cache", wanted=("a",))
    found = unpacked(path)
    assert found["init"].data == b"the agent"
    assert found["init"].mode == stat.S_IFREG | 0o755
    assert found["modules/a.ko"].data == module()
    assert (found["dev/console"].mode, found["dev/console"].device) == (stat.S_IFCHR | 0o600, (5, 1))
    assert {name for name, entry in found.items() if stat.S_ISDIR(entry.mode)} == {
        "dev",
        "modules",
        "proc",
        "root",
        "sys",
    }
    assert {entry.owner for entry in found.values()} == {(0, 0)}
    assert {entry.time for entry in found.values()} == {0}


async def test_the_same_inputs_give_the_same_file_and_others_another(
    tmp_path: Path, kernel: Kernel, agent: Path
) -> None:
    place(kernel, "a.ko", module())
    first = await initrd.build(kernel, agent, tmp_path / "cache", wanted=("a",))
    made = first.stat().st_ino
    assert (await initrd.build(kernel, agent, tmp_path / "cache", wanted=("a",))).stat().st_ino == made
    again = await initrd.build(kernel, agent, tmp_path / "elsewhere", wanted=("a",))
    assert (again.name, again.read_bytes()) == (first.name, first.read_bytes())
    assert await initrd.build(kernel, agent, tmp_path / "cache", wanted=()) != first
    agent.write_bytes(b"another agent")
    assert await initrd.build(kernel, agent, tmp_path / "cache", wanted=("a",)) != first


async def test_a_kernel_with_all_built_in(tmp_path: Path, agent: Path) -> None:
    kernel = Kernel(path=tmp_path / "vmlinux", modules=None, release="6.6")
    assert await order(kernel, agent, tmp_path, "virtio_blk") == []


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("other.ko", module(), "no module a in"),
        ("a.ko", b"not an ELF file", "no 64-bit ELF file"),
        ("a.ko", module()[:-100], "damaged|modinfo"),
        ("a.ko.xz", b"\xfd7zXZ\0damaged", "damaged"),
        ("a.ko", module("b"), "no module b in"),
    ],
)
async def test_a_module_that_cannot_be_had(
    tmp_path: Path, kernel: Kernel, agent: Path, name: str, data: bytes, said: str
) -> None:
    place(kernel, name, data)
    with pytest.raises(EngineUnavailable, match=said):
        await initrd.build(kernel, agent, tmp_path / "cache", wanted=("a",))
    assert not (tmp_path / "cache").exists()


async def test_modules_that_need_each_other_end(tmp_path: Path, kernel: Kernel, agent: Path) -> None:
    place(kernel, "a.ko", module("b"))
    place(kernel, "b.ko", module("a"))
    assert await order(kernel, agent, tmp_path, "a") == ["b.ko", "a.ko"]
    for number in range(100):
        place(kernel, f"m{number}.ko", module(f"m{number + 1}"))
    with pytest.raises(EngineUnavailable, match="without an end"):
        await initrd.build(kernel, agent, tmp_path / "cache", wanted=("m0",))


async def test_an_agent_that_is_not_there(tmp_path: Path, kernel: Kernel) -> None:
    with pytest.raises(EngineUnavailable, match="absent"):
        await initrd.build(kernel, tmp_path / "absent", tmp_path / "cache", wanted=())


@kernels.needed
async def test_debians_cloud_kernel_gets_what_it_needs(tmp_path: Path, agent: Path) -> None:
    found = await find(Path(kernels.installed()[0]), tmp_path / "kernels")
    names = await order(found, agent, tmp_path, *initrd.WANTED)
    assert names.index("virtio_ring.ko") < names.index("virtio.ko") < names.index("virtio_mmio.ko")
    assert names.index("vsock.ko") < names.index("vmw_vsock_virtio_transport_common.ko")
    assert names.index("libcrc32c.ko") < names.index("erofs.ko")
    assert "ext4.ko" not in names  # built in
