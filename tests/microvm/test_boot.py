"""All the pieces together: a real kernel boots from them, and what the guest wrote comes back."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import kernels
from tests.host.machines import QEMU, tsc_khz

from .guests import check_outputs, make_guest

_WORDS = "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests"


@kernels.needed
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"no {QEMU}: apt-get install qemu-system-x86")
async def test_a_guest_boots_from_what_was_made_and_its_outputs_come_back(rootfs: Path, tmp_path: Path) -> None:
    guest = await make_guest(rootfs, tmp_path / "guest")
    command = [
        *(QEMU, "-M", "microvm,acpi=on", "-accel", "tcg", "-cpu", "max", "-m", "128", "-nodefaults", "-no-user-config"),
        *("-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-kernel", str(guest.kernel.path), "-initrd", str(guest.initrd)),
        *("-append", f"{_WORDS} tsc_early_khz={tsc_khz()}"),
    ]
    for number, (path, read_only) in enumerate(zip(guest.disks, ("on", "off", "off"), strict=True)):
        command += ["-drive", f"id=d{number},if=none,format=raw,readonly={read_only},file={path},cache=unsafe"]
        command += ["-device", f"virtio-blk-device,drive=d{number}"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, stdin=subprocess.DEVNULL, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    await check_outputs(guest, tmp_path / "back", done.stdout.decode(errors="replace"))
