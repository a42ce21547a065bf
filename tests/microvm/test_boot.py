"""All the pieces together: a real kernel boots from them, and what the guest wrote comes back."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dms_executor.microvm import initrd, kernel, rootimage
from dms_executor.microvm.outputs import make_device, unpack_outputs
from dms_executor.microvm.scratch import make_scratch
from tests import kernels
from tests.host.machines import QEMU, tsc_khz

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
_WORDS = "quiet panic=-1 reboot=t cryptomgr.notests"


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc here to compile the test's guest")
    made = tmp_path_factory.mktemp("agent") / "agent"
    subprocess.run([compiler, "-static", "-Os", "-Wall", "-Werror", "-o", made, _SOURCE], check=True)
    return made


@pytest.fixture
def tree(rootfs: Path, tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    shutil.copytree(rootfs, made, symlinks=True)
    (made / "guest.sh").write_text(_SCRIPT)
    (made / "etc/setuid").write_text("content")
    os.chown(made / "etc/setuid", 1000, 70000)
    (made / "etc/setuid").chmod(0o4751)
    return made


@kernels.needed
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"no {QEMU}: apt-get install qemu-system-x86")
async def test_a_guest_boots_from_what_was_made_and_its_outputs_come_back(
    agent: Path, tree: Path, tmp_path: Path
) -> None:
    cache, scratch, device = tmp_path / "cache", tmp_path / "scratch", tmp_path / "outputs"
    found = await kernel.find(Path(kernels.installed()[0]), cache / "kernels")
    first = await initrd.build(found, agent, cache / "initrds")
    root = await rootimage.build(tree, cache / "roots", "key")
    await make_scratch(scratch, 64 << 20)
    await make_device(device, 64 << 20)
    drives = [(root, "on"), (scratch, "off"), (device, "off")]
    command = [
        *(QEMU, "-M", "microvm,acpi=on", "-accel", "tcg", "-cpu", "max", "-m", "128", "-nodefaults", "-no-user-config"),
        *("-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", str(found.path), "-initrd", str(first)),
        *("-append", f"console=ttyS0 {_WORDS} tsc_early_khz={tsc_khz()}"),
    ]
    for number, (path, read_only) in enumerate(drives):
        command += ["-drive", f"id=d{number},if=none,format=raw,readonly={read_only},file={path},cache=unsafe"]
        command += ["-device", f"virtio-blk-device,drive=d{number}"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, stdin=subprocess.DEVNULL, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    back = tmp_path / "back"
    back.mkdir()
    folder = os.open(back, os.O_PATH | os.O_DIRECTORY)
    try:
        await unpack_outputs(device, [folder], keep_owner=True)
    except Exception as error:
        raise AssertionError(done.stdout.decode(errors="replace")) from error
    finally:
        os.close(folder)
    assert (back / "sub/result").read_text() == "changed\n"
    assert (back / "hard").stat().st_ino == (back / "sub/result").stat().st_ino
    assert (back / "link").readlink() == Path("/nowhere")
    assert (back / "zeros").stat().st_size == 3_072_000
    size = int((back / "df").read_text().split()[1])  # KiB: the disk's, less what ext4 needs for itself
    assert 40 << 10 < size < 64 << 10
