"""Whether an accelerator runs a guest: one of a few instructions is tried, the last of them in 64-bit mode."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Final

__all__ = ["trial"]

_FIRMWARE: Final = 65536
_RESET: Final = 0xFFF0  # where an x86 processor begins: 16 bytes below 4 GiB, at whose top a firmware lies
_START: Final = 0xFF00
_SAID: Final = 0x2A
_DEVICE: Final = "isa-debug-exit,iobase=0xf4,iosize=1"  # a byte n that is written there ends QEMU with 2 n + 1
_TO_START: Final = bytes.fromhex("ea 00ff 00f0")  # ljmp 0xf000:_START, where the firmware lies below 1 MiB, too
# A KVM that emulates a guest's kernel does well before 64-bit mode, and lacks fxsave and cmpxchg16b in it.
_CODE: Final = bytes.fromhex(
    "fa 31c0 8ed8"  # cli; ds = 0
    "66c7060010 03200000 66c7060020 03300000 66c7060030 83000000"  # page tables at 0x1000: the first 2 MiB as they are
    "66b800100000 0f22d8 66b820060000 0f22e0"  # cr3 = 0x1000; cr4 = PAE, OSFXSR, OSXMMEXCPT
    "66b9800000c0 0f32 80cc01 0f30"  # EFER |= LME
    "2e660f011688ff 0f20c0 660d01000080 0f22c0"  # lgdt; cr0 |= PG, PE
    "66ea5aff0f000800"  # ljmp to the next line, in 64-bit mode
    "480fae042500400000"  # fxsave64 0x4000
    "be00500000 f0480fc70e"  # lock cmpxchg16b (0x5000)
    "b02a e6f4"  # outb _SAID, 0xf4
    "f4 ebfd"  # hlt, for ever
    "8db40000"  # up to a multiple of 8
    "0000000000000000 00000000009a2000"  # the segments: none, 64-bit code
    "0f00 78ff0f00"  # what lgdt reads: their length and address
)
_WITHOUT_CORE: Final = ["sh", "-c", 'ulimit -c 0; exec "$@"', "sh"]  # a QEMU whose KVM fails it calls abort


def trial(program: str, accelerator: str, processor: str, seconds: float) -> str:
    """Why `program` (a QEMU for x86-64) runs no guest with that accelerator (`kvm`, `tcg`) and processor (`host`,
    `max`); empty where one ran. One that says nothing for `seconds` is killed. Blocks."""
    firmware = os.memfd_create("firmware")
    try:
        os.truncate(firmware, _FIRMWARE)
        os.pwrite(firmware, _CODE, _START)
        os.pwrite(firmware, _TO_START, _RESET)
        argv = [program, "-M", "microvm,isa-serial=off", "-accel", accelerator, "-cpu", processor, "-m", "32"]
        argv += ["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-device", _DEVICE]
        argv += ["-sandbox", "on", "-bios", f"/proc/self/fd/{firmware}"]
        done = subprocess.run(
            _WITHOUT_CORE + argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[firmware],
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"a guest of a few instructions did not end within {seconds:g} s"
    except OSError as error:
        return f"{program} cannot be tried: {error.strerror}"
    finally:
        os.close(firmware)
    if done.returncode == 2 * _SAID + 1:
        return ""
    said = done.stderr.decode(errors="replace").strip().partition("\n")[0][:200]
    end = signal.Signals(-done.returncode).name if done.returncode < 0 else f"code {done.returncode}"
    return f"a guest of a few instructions does not run ({said or end})"
