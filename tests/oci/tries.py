"""Runs in a job, by the host's own Python: tries what a job may not do, and prints a name and an error for each.

No import of ours, and nothing that would harm the host where it works: what is mounted, loaded or made here has no
content. Numbers of system calls: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

# name, number on x86_64, number on aarch64
_TABLE = """
ptrace 101 117, syslog 103 116, vhangup 153 58, pivot_root 155 41, acct 163 89, settimeofday 164 170,
mount 165 40, umount2 166 39, swapon 167 224, reboot 169 142, sethostname 170 161, iopl 172 -,
init_module 175 105, quotactl 179 60, clock_settime 227 112, kexec_load 246 104, add_key 248 217,
request_key 249 218, keyctl 250 219, unshare 272 97, perf_event_open 298 241, open_by_handle_at 304 265,
setns 308 268, process_vm_readv 310 270, kcmp 312 272, finit_module 313 273, bpf 321 280,
userfaultfd 323 282, io_uring_setup 425 425, open_tree 428 428, move_mount 429 429, fsopen 430 430,
pidfd_getfd 438 438, mount_setattr 442 442
"""
_COLUMN = {"x86_64": 1, "aarch64": 2}[os.uname().machine]
NUMBERS = {row.split()[0]: row.split()[_COLUMN] for row in _TABLE.split(",")}
LIBC = ctypes.CDLL(None, use_errno=True)
NAMESPACES = {"user": 0x10000000, "mount": 0x20000, "net": 0x40000000, "pid": 0x20000000, "cgroup": 0x2000000}


def call(name: str, *arguments: object) -> str:
    if NUMBERS[name] == "-":
        return "ENOSYS"
    ctypes.set_errno(0)
    plain = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    done = LIBC.syscall(ctypes.c_long(int(NUMBERS[name])), *plain)
    return errno.errorcode.get(ctypes.get_errno(), "?") if done < 0 else "done"


def opening(path: str, flags: int) -> str:
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "done"


def attempt(work: Callable[..., object], *arguments: object) -> str:
    try:
        work(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "done"


def tell(name: str, answer: str) -> None:
    print(name, answer, flush=True)


def calls() -> None:
    buffer = ctypes.create_string_buffer(4096)
    zero = ctypes.c_void_p(0)
    tell("mount", call("mount", b"none", b"/tmp", b"tmpfs", 0, zero))
    tell("mount a bind", call("mount", b"/proc", b"/tmp", zero, 4096, zero))
    tell("remount /proc/sys", call("mount", zero, b"/proc/sys", zero, 32 | 4096, zero))
    tell("umount /proc/sys", call("umount2", b"/proc/sys", 2))
    tell("umount /proc/keys", call("umount2", b"/proc/keys", 2))
    tell("open_tree", call("open_tree", -100, b"/", 1))
    tell("fsopen", call("fsopen", b"tmpfs", 0))
    tell("move_mount", call("move_mount", -100, b"/tmp", -100, b"/root", 0))
    tell("mount_setattr", call("mount_setattr", -100, b"/proc/sys", 0, buffer, 32))
    tell("pivot_root", call("pivot_root", b"/tmp", b"/tmp"))
    for kind, flag in NAMESPACES.items():
        tell(f"unshare {kind}", call("unshare", flag))
    tell("setns", call("setns", os.open("/proc/self/ns/mnt", os.O_RDONLY), 0))
    tell("ptrace the init", call("ptrace", 16, 1, 0, 0))
    tell("seize the init", call("ptrace", 0x4206, 1, 0, 0))
    parts = (ctypes.c_void_p * 4)(ctypes.addressof(buffer), 16, 0x400000, 16)
    here, there = ctypes.byref(parts), ctypes.byref(parts, 2 * ctypes.sizeof(ctypes.c_void_p))
    tell("read the init's memory", call("process_vm_readv", 1, here, 1, there, 1, 0))
    tell("take a descriptor of the init", call("pidfd_getfd", os.pidfd_open(1), 3, 0))
    tell("add_key", call("add_key", b"user", b"dms", b"x", 1, -3))
    tell("request_key", call("request_key", b"user", b"dms", zero, 0))
    tell("keyctl session", call("keyctl", 1, zero))
    tell("keyctl read", call("keyctl", 11, -3, buffer, 4096))
    tell("bpf", call("bpf", 0, buffer, 72))
    tell("perf_event_open", call("perf_event_open", buffer, 0, -1, -1, 0))
    tell("userfaultfd", call("userfaultfd", 0))
    tell("io_uring_setup", call("io_uring_setup", 1, buffer))
    tell("init_module", call("init_module", buffer, 16, b""))
    tell("finit_module", call("finit_module", 0, b"", 0))
    tell("kexec_load", call("kexec_load", 0, 0, zero, 0))
    tell("reboot", call("reboot", 0xFEE1DEAD, 672274793, 0, zero))
    tell("swapon", call("swapon", b"/tmp/none", 0))
    tell("acct", call("acct", b"/tmp/none"))
    tell("settimeofday", call("settimeofday", buffer, zero))
    tell("clock_settime", call("clock_settime", 0, buffer))
    tell("sethostname", call("sethostname", b"host", 4))
    tell("syslog", call("syslog", 3, buffer, 4096))
    tell("quotactl", call("quotactl", 0, zero, 0, zero))
    tell("iopl", call("iopl", 3))
    tell("vhangup", call("vhangup"))
    tell("open_by_handle_at", call("open_by_handle_at", -100, buffer, 0))
    tell("kcmp with the init", call("kcmp", os.getpid(), 1, 0, 0, 0))


def files() -> None:
    write, read = os.O_WRONLY, os.O_RDONLY
    for path in (
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/overcommit_memory",
        "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run",
        "/proc/1/mem", "/dev/.dms-executor-init", "/etc/hosts",
        "/proc/irq/default_smp_affinity", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/memory/notify_on_release",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/devices/devices.allow",
    ):  # fmt: skip
        if Path(path).exists() or path == "/sys/fs/cgroup/memory/release_agent":
            tell(f"write {path}", opening(path, write))
    for path in ("/proc/1/mem", "/proc/1/environ", "/proc/1/maps", "/proc/1/root", "/proc/1/cwd", "/proc/1/fd/3"):
        tell(f"read {path}", opening(path, read))
    for folder in ("/sys/fs/cgroup/devices", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
        if Path(folder, "cgroup.procs").exists():
            tell(f"mkdir in {folder}", attempt(os.mkdir, f"{folder}/escape"))


def nodes() -> None:
    out = sys.argv[1]
    tell("mknod a device", attempt(os.mknod, f"{out}/mem", 0o20666, os.makedev(1, 1)))
    tell("mknod a disk", attempt(os.mknod, f"{out}/disk", 0o60666, os.makedev(7, 0)))
    tell("mknod in /dev", attempt(os.mknod, "/dev/kmsg", 0o20666, os.makedev(1, 11)))
    tell("link the host's", attempt(os.link, "/in/file", f"{out}/linked"))
    tell("rename the host's", attempt(os.rename, "/in/file", f"{out}/moved"))
    tell("chmod an input", attempt(os.chmod, "/in/file", 0o777))
    tell("xattr trusted", attempt(os.setxattr, out, "trusted.overlay.opaque", b"y"))


def setid() -> None:
    """Somebody who is not root executes a set-user-id file of root's."""
    program = f"{sys.argv[1]}/id"
    with open("/bin/busybox", "rb") as source, open(program, "wb") as target:
        target.write(source.read())
    Path(program).chmod(0o6755)
    net_admin = struct.pack("<5I", 0x02000001, 1 << 12, 0, 0, 0)  # vfs_cap_data of linux/capability.h
    tell("file capabilities", attempt(os.setxattr, program, "security.capability", net_admin))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(1000)
        os.setuid(1000)
        os.dup2(writer, 1)
        os.execv(program, ["id", "-u"])
    os.close(writer)
    tell("set-user-id", os.read(reader, 64).decode().strip())
    os.waitpid(child, 0)


calls()
files()
nodes()
setid()
