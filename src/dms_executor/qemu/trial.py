"""Whether an accelerator runs a guest: one of six instructions is started under it, and must say so."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Final

__all__ = ["trial"]

_FIRMWARE: Final = 65536
_RESET: Final = 0xFFF0  # where an x86 processor begins: 16 bytes below 4 GiB, at whose top a firmware lies
_SAID: Final = 0x2A
_DEVICE: Final = "isa-debug-exit,iobase=0xf4,iosize=1"  # a byte n that is written there ends QEMU with 2 n + 1
_CODE: Final = bytes(
    [0x0F, 0xAE, 0x06, 0x00, 0x10]  # fxsave [0x1000]: a kernel begins with it; a KVM that only emulates lacks it
    + [0xB0, _SAID, 0xE6, 0xF4]  # mov al, _SAID; out 0xf4, al
    + [0xF4, 0xEB, 0xFD]  # hlt, for ever
)
_WITHOUT_CORE: Final = ["sh", "-c", 'ulimit -c 0; exec "$@"', "sh"]  # a QEMU whose KVM fails it calls abort


def trial(program: str, accelerator: str, processor: str, seconds: float) -> str:
    """Why `program` (a QEMU for x86-64) runs no guest with that accelerator (`kvm`, `tcg`) and processor (`host`,
    `max`); empty where one ran. One that says nothing for `seconds` is killed. Blocks."""
    firmware = os.memfd_create("firmware")
    try:
        os.truncate(firmware, _FIRMWARE)
        os.pwrite(firmware, _CODE, _RESET)
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
