"""A real Firecracker boots a real Linux from what is made on the host, by the file that is written for it.

In the host in a box, whose KVM boots guests: `DMS_EXECUTOR_KVM=linux scripts/host pytest tests/firecracker`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from dms_executor.firecracker.config import Drive, Machine, boot_args, document
from tests import kernels
from tests.host.machines import tsc_khz
from tests.microvm.guests import check_outputs, make_guest

from . import real


@kernels.needed
@real.needed
@pytest.mark.skipif(
    os.environ.get("DMS_EXECUTOR_KVM") != "linux", reason="DMS_EXECUTOR_KVM says of no KVM here that Linux boots in it"
)
async def test_a_guest_boots_from_what_was_made_and_its_outputs_come_back(rootfs: Path, tmp_path: Path) -> None:
    guest = await make_guest(rootfs, tmp_path / "guest")
    names = ("root", "scratch", "outputs")
    machine = Machine(
        kernel=guest.kernel.path,
        initrd=guest.initrd,
        vcpus=1,
        memory=128 << 20,
        boot_args=boot_args([f"tsc_early_khz={tsc_khz()}"], given="console=ttyS0"),
        drives=[
            Drive(name=name, path=path, read_only=name == "root") for name, path in zip(names, guest.disks, strict=True)
        ],
        vsock=tmp_path / "vsock",
    )
    (tmp_path / "machine.json").write_bytes(document(machine))
    command = [real.program(), "--no-api", "--config-file", str(tmp_path / "machine.json")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, stdin=subprocess.DEVNULL, timeout=100)
    console = done.stdout.decode(errors="replace")
    assert done.returncode == 0, console + done.stderr.decode(errors="replace")
    await check_outputs(guest, tmp_path / "back", console)
