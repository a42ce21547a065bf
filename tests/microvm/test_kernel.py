"""Which kernel a guest gets, and in what form."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
from pathlib import Path

import pytest

from dms_executor.errors import EngineUnavailable, InvalidRequest, PolicyDenied
from dms_executor.microvm import kernel
from dms_executor.microvm.bzimage import kernel_release
from dms_executor.policy import Policy
from tests import kernels

_MACHINES = {"x86_64": 62, "aarch64": 183}


def vmlinux(release: str, machine: str = platform.machine()) -> bytes:
    """The outside of one: what `find` goes by."""
    head = b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + _MACHINES[machine].to_bytes(2, "little")
    return head.ljust(70000, b"\0") + b"Linux version %s (somebody)\0" % release.encode()


def installation(root: Path, release: str, modules: tuple[str, ...] | None = kernel.NEEDED) -> Path:
    """A kernel with all that it needs built in, or without some of it."""
    image = root / "boot" / f"vmlinuz-{release}"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(vmlinux(release))
    if modules is not None:
        folder = root / "lib/modules" / release
        (folder / "kernel").mkdir(parents=True)
        (folder / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in modules))
    return image


async def test_the_newest_that_suits_cloud_flavours_first(tmp_path: Path) -> None:
    for release in ("6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64", "6.12.0-1-amd64"):
        installation(tmp_path, release)
    installation(tmp_path, "6.9.0-1-cloud-amd64", modules=("virtio_blk",))
    installation(tmp_path, "6.9.0-2-cloud-amd64", modules=None)
    found = await kernel.find(None, tmp_path / "cache", root=tmp_path)
    assert found.release == "6.1.0-10-cloud-amd64"
    assert found.modules == tmp_path / "lib/modules/6.1.0-10-cloud-amd64"
    assert found.path == tmp_path / "boot/vmlinuz-6.1.0-10-cloud-amd64"  # it is uncompressed as it is


async def test_none_that_suits_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="apt-get install linux-image-cloud-"):
        await kernel.find(None, tmp_path / "cache", root=tmp_path)
    installation(tmp_path, "6.1.0-9-cloud-amd64", modules=("virtio_mmio", "erofs"))
    (tmp_path / "boot/vmlinuz-7").write_bytes(b"x")
    with pytest.raises(EngineUnavailable, match=r"without virtio_blk, overlay;.*vmlinuz-7: not a file"):
        await kernel.find(None, tmp_path / "cache", root=tmp_path)


async def test_a_kernel_is_read_whole_once_and_again_when_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []

    def search(data: bytes) -> str | None:
        searched.append(len(data))
        return kernel_release(data)

    monkeypatch.setattr(kernel, "kernel_release", search)
    image = installation(tmp_path, "6.1.0-9-cloud-amd64")
    for _ in range(3):
        assert (await kernel.find(image, tmp_path / "cache", root=tmp_path)).release == "6.1.0-9-cloud-amd64"
    assert len(searched) == 1
    other = tmp_path / "other"
    other.write_bytes(vmlinux("6.1.0-10-cloud-amd64"))
    other.rename(image)
    assert (await kernel.find(image, tmp_path / "cache", root=tmp_path)).release == "6.1.0-10-cloud-amd64"
    assert len(searched) == 2


async def test_a_named_one_without_modules_has_all_built_in(tmp_path: Path) -> None:
    image = tmp_path / "mine"
    image.write_bytes(vmlinux("6.99.1-mine"))
    found = await kernel.find(image, tmp_path / "cache", root=tmp_path)
    assert found == kernel.Kernel(path=image, modules=None, release="6.99.1-mine")


@pytest.mark.parametrize("case", ["absent", "folder", "short", "text", "other", "cut", "fifo"])
async def test_a_named_one_that_is_none(tmp_path: Path, case: str) -> None:
    image = tmp_path / "image"
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    if case == "folder":
        image.mkdir()
    elif case == "fifo":
        os.mkfifo(image)
    elif case != "absent":
        bzimage = bytearray(vmlinux("6.1"))
        bzimage[:4] = b"\0\0\0\0"
        bzimage[0x202:0x208] = b"HdrS\x0f\x02"
        bzimage[0x248:0x250] = b"\0\0\0\0\xff\xff\xff\x7f"
        datas = {"short": b"\x7fELF", "text": b"#!/bin/sh\n" * 9000, "other": vmlinux("6.1", other), "cut": bzimage}
        image.write_bytes(datas[case])
    with pytest.raises(InvalidRequest) as raised:
        await asyncio.wait_for(kernel.find(image, tmp_path / "cache"), 10)
    assert raised.value.path == "$.engine_spec.params.kernel_image"
    assert not (tmp_path / "cache").exists()


async def test_a_granted_one_is_what_was_granted(tmp_path: Path) -> None:
    """And what lies beside it was not."""
    image, cache = tmp_path / "boot/vmlinuz", tmp_path / "cache"
    image.parent.mkdir()
    image.write_bytes(vmlinux("6.99.1-mine"))
    (tmp_path / "lib/modules/6.99.1-mine/kernel").mkdir(parents=True)
    policy = Policy(read_roots=(tmp_path,))
    with await asyncio.to_thread(policy.open, str(image), field=kernel.FIELD) as granted:
        grant = granted.grant
    found = await kernel.find_granted(grant, cache, root=tmp_path / "nowhere")
    assert (found.path.parent, found.modules, found.release) == (cache, None, "6.99.1-mine")
    assert found.path.read_bytes() == image.read_bytes()
    image.rename(tmp_path / "away")
    os.mkfifo(image)
    with pytest.raises(PolicyDenied):
        await asyncio.wait_for(kernel.find_granted(grant, cache), 10)


async def test_a_release_that_leads_elsewhere_finds_no_modules(tmp_path: Path) -> None:
    image = tmp_path / "boot/vmlinuz"
    image.parent.mkdir()
    (tmp_path / "lib/modules/6").mkdir(parents=True)
    (tmp_path / "lib/secret/kernel").mkdir(parents=True)
    image.write_bytes(vmlinux("6/../../secret"))
    assert (await kernel.find(image, tmp_path / "cache", root=tmp_path)).modules is None


@kernels.needed
async def test_debians_cloud_kernel_is_extracted_once(tmp_path: Path) -> None:
    image = Path(kernels.installed()[0])
    first, second = await asyncio.gather(*(kernel.find(image, tmp_path / "cache") for _ in range(2)))
    assert first == second
    assert first.path.read_bytes()[:4] == b"\x7fELF"
    assert first.release in image.name
    assert first.modules is not None
    assert (first.modules / "kernel").is_dir()
    # Not a second time, nor by another's hands: it is the same file.
    made = first.path.stat().st_ino
    assert (await kernel.find(image, tmp_path / "cache")).path.stat().st_ino == made
    assert len(list((tmp_path / "cache").iterdir())) == 1
    # What replaces it is another kernel.
    copy = tmp_path / "copy"
    shutil.copy(image, copy)
    assert (await kernel.find(copy, tmp_path / "cache")).path != first.path
