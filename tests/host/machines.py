"""How the host's kernel is started: under QEMU, with KVM or all emulated, or as a program (User-mode Linux).

A kernel that is a program runs the host's processes on this machine's own processor: a Python program takes there twice
what it takes outside, where an emulated processor takes ten times as long. It has one processor, no cpuset, no KVM for
guests of its own: https://docs.kernel.org/virt/uml/user_mode_linux_howto_v2.html
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

QEMU = "qemu-system-x86_64"
# Each word for a reason: https://docs.kernel.org/admin-guide/kernel-parameters.html. `panic=-1` ends a failed boot.
# An emulated HPET is read under a lock of QEMU's: the time stamp counter is the cheaper clock there.
KERNEL = "console=ttyS0 quiet panic=-1 cryptomgr.notests mitigations=off tsc=reliable clocksource=tsc"
_TIED = ("setpriv", "--pdeathsig", "KILL")


def qemu(cache: Path, accel: str, checkout: Path, out: Path) -> list[str]:
    """The whole machine; its output is the process's."""
    return [
        *bare(
            cache,
            accel,
            f"{KERNEL} {os.environ.get('DMS_EXECUTOR_HOST_KERNEL', '')}",
            _memory(),
            len(os.sched_getaffinity(0)),
            out / "console",
        ),
        # Nobody writes to it, and a kernel that is a program may lock it.
        *(
            "-drive",
            f"file={_escaped(cache / 'root.img')},format=raw,if=none,id=root,cache=unsafe,snapshot=on,file.locking=off",
        ),
        *("-device", "virtio-blk-pci,drive=root"),
        *("-drive", f"file={_escaped(checkout)},format=raw,if=none,id=checkout,readonly=on"),
        *("-device", "virtio-blk-pci,drive=checkout"),
        *("-fsdev", f"local,id=out,path={_escaped(out)},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=out,mount_tag=out"),
        *(
            "-device",
            "virtio-serial-pci",
            "-chardev",
            "stdio,id=said,signal=off",
            "-device",
            "virtconsole,chardev=said",
        ),
    ]


def uml(cache: Path, checkout: Path, out: Path, scratch: Path) -> list[str]:
    """The kernel as a program, whose output is its first serial line."""
    return uml_bare(
        cache,
        _memory(),
        out / "console",
        scratch,
        *(f"ubd0={scratch / 'root.cow'},{cache / 'root.img'}", f"ubd1r={checkout}", f"host.out={out.resolve()}"),
        *os.environ.get("DMS_EXECUTOR_HOST_KERNEL", "").split(),
    )


def uml_bare(cache: Path, memory: str, console: Path, scratch: Path, *more: str) -> list[str]:
    """The kernel as a program, without disks; `scratch` is for what it keeps while it runs."""
    kernel = [word for word in KERNEL.split() if not word.startswith(("console", "tsc", "clocksource"))]
    words = [
        *(str(cache / "linux.uml"), f"mem={memory}M", f"initrd={cache / 'initrd.cpio'}"),
        *(f"umid={scratch.name}", f"uml_dir={scratch}", "con=null", "con0=null,fd:3", "ssl=null", "ssl0=null,fd:1"),
        *(*kernel, *more),
    ]
    return [*_TIED, "sh", "-c", 'exec 3>"$0" && exec "$@"', str(console), *words]


def bare(cache: Path, accel: str, kernel: str, memory: str, cpus: int, console: Path) -> list[str]:
    """QEMU with a kernel and no disks."""
    if accel == "tcg":
        # Without it a guest may hang at the calibration of its clock while the machine is busy.
        kernel += f" tsc_early_khz={tsc_khz()}"
    return [
        *(*_TIED, QEMU, "-M", "q35", "-m", memory, "-smp", str(cpus)),
        *("-accel", "tcg,thread=multi" if accel == "tcg" else "kvm", "-cpu", "max" if accel == "tcg" else "host"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", f"file:{console}"),
        *("-kernel", str(cache / "vmlinuz"), "-initrd", str(cache / "initrd.cpio"), "-append", kernel),
    ]


def _memory() -> str:
    return os.environ.get("DMS_EXECUTOR_HOST_MEMORY", "3072")


def _escaped(path: Path) -> str:
    return str(path.resolve()).replace(",", ",,")


def tsc_khz() -> int:
    """The rate of this machine's time stamp counter, which an emulated guest sees unscaled."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    first, began = _together(read)
    time.sleep(0.1)
    last, ended = _together(read)
    return int((last - first) * 1_000_000 // (ended - began))


def _together(read: Callable[[], int]) -> tuple[int, int]:
    """The counter and the nanosecond at which it was read: of some tries the one that nothing came between."""
    best = (1 << 62, 0, 0)
    for _ in range(20):
        before, ticks, after = time.monotonic_ns(), read(), time.monotonic_ns()
        best = min(best, (after - before, ticks, (before + after) // 2))
    return best[1:]
