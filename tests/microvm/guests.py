"""A guest of the tests' own: what it boots from, what it does, and what must come back of it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec
import pytest

from dms_executor.microvm import initrd, kernel, rootimage
from dms_executor.microvm.kernel import Kernel
from dms_executor.microvm.outputs import make_device, unpack_outputs
from dms_executor.microvm.scratch import make_scratch
from tests import kernels

__all__ = ["Guest", "check_outputs", "make_guest"]

_SOURCE = Path(__file__).with_name("guest.c")
_SCRIPT = """
set -e
test "$(cat /etc/setuid)" = content
test "$(stat -c '%a %u %g' /etc/setuid)" = '4751 1000 70000'
test "$(readlink /bin/sh)" = busybox
grep -q 'overlay / overlay' /proc/mounts
! touch /dev/vda/x 2>/dev/null
mkdir -p /out/sub
echo changed >/etc/setuid
cat /etc/setuid >/out/sub/result
ln /out/sub/result /out/hard
ln -s /nowhere /out/link
busybox dd if=/dev/zero of=/out/zeros bs=1024 count=3000 2>/dev/null
df -k / | tail -1 >/out/df
tar c -C /out -f /out.tar .
"""


class Guest(msgspec.Struct, frozen=True):
    """`disks`, in the order in which the guest finds them: root, scratch, outputs."""

    kernel: Kernel
    initrd: Path
    disks: tuple[Path, Path, Path]


async def make_guest(rootfs: Path, folder: Path) -> Guest:
    """All of it below `folder`, by nothing but the package's own functions."""
    tree = _tree(rootfs, folder / "tree")
    found = await kernel.find(Path(kernels.installed()[0]), folder / "kernels")
    first = await initrd.build(found, _agent(), folder / "initrds")
    root = await rootimage.build(tree, folder / "roots", "key")
    await make_scratch(folder / "scratch", 64 << 20)
    await make_device(folder / "outputs", 64 << 20)
    return Guest(found, first, (root, folder / "scratch", folder / "outputs"))


async def check_outputs(guest: Guest, folder: Path, console: str) -> None:
    """`console`: what the guest said, for the message of a failure."""
    folder.mkdir()
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        await unpack_outputs(guest.disks[2], [fd], keep_owner=True)
    except Exception as error:
        raise AssertionError(console) from error
    finally:
        os.close(fd)
    assert (folder / "sub/result").read_text() == "changed\n"
    assert (folder / "hard").stat().st_ino == (folder / "sub/result").stat().st_ino
    assert (folder / "link").readlink() == Path("/nowhere")
    assert (folder / "zeros").stat().st_size == 3_072_000
    size = int((folder / "df").read_text().split()[1])  # KiB: the disk's, less what ext4 needs for itself
    assert 40 << 10 < size < 64 << 10


@functools.cache
def _agent() -> Path:
    """Compiled once a session; DMS_EXECUTOR_TEST_GUEST: already, for a machine without a compiler."""
    if made := os.environ.get("DMS_EXECUTOR_TEST_GUEST"):
        return Path(made)
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc here to compile the test's guest")
    folder = Path(tempfile.mkdtemp(prefix="dms-executor-guest."))
    subprocess.run([compiler, "-static", "-Os", "-Wall", "-Werror", "-o", folder / "agent", _SOURCE], check=True)
    return folder / "agent"


def _tree(rootfs: Path, made: Path) -> Path:
    shutil.copytree(rootfs, made, symlinks=True)
    (made / "guest.sh").write_text(_SCRIPT)
    (made / "etc/setuid").write_text("content")
    os.chown(made / "etc/setuid", 1000, 70000)
    (made / "etc/setuid").chmod(0o4751)
    return made
