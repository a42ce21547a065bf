"""Whether Firecracker runs a guest on this host's KVM: one of a few instructions is tried, in 64-bit mode."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from .config import Machine, document

__all__ = ["toy_kernel", "trial"]

_LOADED_AT: Final = 1 << 20  # HIMEM_START, where the 64-bit boot protocol has a kernel
_WORD: Final = b"dms"
# A KVM that emulates a guest's kernel lacks fxsave and cmpxchg16b.
_CODE: Final = bytes.fromhex(
    "480fae042500400000"  # fxsave64 0x4000
    "be00500000 f0480fc70e"  # lock cmpxchg16b (0x5000)
    "66baf803 b064ee b06dee b073ee"  # the serial port's 0x3f8: "dms"
    "66ba6400 b0feee"  # a reset by the keyboard's controller, which ends Firecracker
    "f4 ebfd"  # hlt, for ever
)


def toy_kernel(code: bytes) -> bytes:
    """A static ELF for x86-64 that begins with `code`."""
    code = code.ljust(4096, b"\xf4")
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _LOADED_AT, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 7, 4096, _LOADED_AT, _LOADED_AT, len(code), len(code), 4096)
    return (head + segment).ljust(4096, b"\0") + code


def trial(program: str, seconds: float) -> str:
    """Why `program` runs no guest here; empty where one ran. One that says nothing for `seconds` is killed. Blocks."""
    with tempfile.TemporaryDirectory(prefix="dms-executor-trial.") as folder:
        kernel, config = Path(folder) / "kernel", Path(folder) / "config"
        kernel.write_bytes(toy_kernel(_CODE))
        config.write_bytes(document(Machine(kernel=kernel, vcpus=1, memory=64 << 20, boot_args="quiet")))
        try:
            done = subprocess.run(
                [program, "--no-api", "--level", "Error", "--config-file", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"a guest of a few instructions did not end within {seconds:g} s"
        except OSError as error:
            return f"{program} cannot be tried: {error.strerror}"
    if done.returncode == 0 and _WORD in done.stdout:
        return ""
    lines = done.stdout.decode(errors="replace").strip().split("\n")
    said = next((line.partition("] ")[2] for line in lines if "KVM_EXIT" in line), lines[-1])[:200]
    return f"a guest of a few instructions does not run ({said or f'code {done.returncode}'})"
