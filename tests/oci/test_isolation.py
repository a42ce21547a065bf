"""What a job sees of itself: privileges, namespaces, mounts, devices, limits, environment, descriptors."""

from __future__ import annotations

import asyncio
import os

import pytest

from dms_executor.types import ByteSize, Resources, StorageVolume

from .conftest import Bench
from .talk import PYTHON, machines_python, needs_python

_DEVICES = ["full", "null", "random", "tty", "urandom", "zero"]


async def test_the_privileges_of_a_job(bench: Bench) -> None:
    ran = await bench.run("cat", "/proc/self/status")
    status = dict(line.split(":", 1) for line in ran.stdout.splitlines())
    status = {name: value.strip() for name, value in status.items()}
    assert {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {
        "CapEff": 0xA00425FB,
        "CapPrm": 0xA00425FB,
        "CapBnd": 0xA00425FB,
    }
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Groups"] == ""


async def test_another_user_has_no_capability(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "grep Cap /proc/self/status", params={"user": "app"})
    status = dict(line.split(":\t") for line in ran.stdout.splitlines())
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}


async def test_all_namespaces_are_its_own(bench: Bench) -> None:
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    ran = await bench.run("sh", "-c", f"for kind in {' '.join(kinds)}; do readlink /proc/self/ns/$kind; done")
    theirs = ran.stdout.split()
    ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert len(theirs) == len(kinds)
    assert set(theirs).isdisjoint(ours)


async def test_no_id_of_the_hosts_is_its_own(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map; cat /proc/self/setgroups")
    inside, outside, count, *again = ran.stdout.split()
    assert again == [inside, outside, count, "allow"]
    assert (inside, count) == ("0", "65536")
    assert 0x70000000 <= int(outside) < 0x7FFE0000


async def test_its_root_owns_nothing_of_the_hosts(bench: Bench) -> None:
    # crun gives the job its streams: the host's /dev/null was its own then. Nothing changes should it be so again.
    before = await asyncio.to_thread(os.stat, "/dev/null")
    script = (
        "cat; for f in /dev/null /dev/zero /dev/full /dev/tty /dev/.dms-executor-init /proc/sys /sys; do"
        " stat -c %u:%g $f; chmod 666 $f 2>&- && echo changed $f; done;"
        " mount -t tmpfs tmpfs /tmp && echo mounted; mknod /tmp/null c 1 3 && echo made; true"
    )
    ran = await bench.run("sh", "-c", script)
    assert set(ran.stdout.split()) == {"65534:65534"}
    after = await asyncio.to_thread(os.stat, "/dev/null")
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


async def test_nothing_of_the_host_is_mounted_writable(bench: Bench) -> None:
    ran = await bench.run("cat", "/proc/self/mountinfo")
    writable = set()
    for line in ran.stdout.splitlines():
        fields = line.split()
        if "ro" not in fields[5].split(","):
            writable.add((fields[4], fields[fields.index("-") + 1]))
    # No device node can be made in a user namespace, so the runtimes bind the host's; runc masks files by /dev/null.
    nodes = {(place, kind) for place, kind in writable if kind == "devtmpfs" or place.startswith("/proc/")}
    assert {place for place, _ in nodes if place.startswith("/dev/")} <= {f"/dev/{name}" for name in _DEVICES}
    assert {kind for _, kind in nodes} <= {"devtmpfs", "tmpfs"}
    plain = writable - nodes
    assert plain == {
        ("/", "overlay"),
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        *({("/sys/fs/cgroup", "tmpfs")} & plain),  # version 1: an empty folder's tmpfs, its hierarchies read-only
    }


async def test_its_devices_and_interfaces(bench: Bench) -> None:
    script = "for f in /dev/*; do [ ! -L $f ] && [ -c $f -o -b $f ] && echo ${f##*/}; done; echo --; ls /sys/class/net"
    devices, _, interfaces = (await bench.run("sh", "-c", script)).stdout.partition("--\n")
    assert [name for name in devices.split() if name != "console"] == _DEVICES
    assert interfaces.split() == ["lo"]


async def test_masked_and_read_only_paths(bench: Bench) -> None:
    script = (
        "for p in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do [ -e $p ] && head -c 1 $p; done;"
        "ls /sys/firmware /proc/acpi 2>/dev/null | grep -v :;"
        "for p in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper /proc/irq/x"
        " /sys/fs/cgroup/memory/release_agent /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs;"
        " do [ -e $p ] && echo 0 2>/dev/null >$p && echo wrote $p; done; true"
    )
    ran = await bench.run("sh", "-c", script)
    assert ran.stdout.strip() == ""


async def test_its_limits_are_in_its_cgroup(bench: Bench) -> None:
    script = (
        "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null;"
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; ulimit -c"
    )
    ran = await bench.run("sh", "-c", script, resources=Resources(memory=ByteSize("48MiB"), pids=33))
    assert ran.stdout.split() == ["33", str(48 << 20), "0"]


@pytest.mark.parametrize("init", [True, False])
async def test_it_gets_no_descriptor_but_its_streams(bench: Bench, init: bool) -> None:
    ran = await bench.run(
        "sh", "-c", "for n in $(seq 0 300); do [ -L /proc/self/fd/$n ] && echo $n; done; true", init=init
    )
    assert ran.stdout.split() == ["0", "1", "2"]


async def test_its_environment_is_what_was_asked_for(bench: Bench) -> None:
    ran = await bench.run("env", environment={"ASKED": "1"}, params={"hostname": "box"})
    names = {line.partition("=")[0] for line in ran.stdout.splitlines()}
    assert names == {"PATH", "HOSTNAME", "HOME", "ASKED"}


# The filter itself is tried, AF_VSOCK against AF_UNIX, by their numbers: a library would make one of the second.
_PROBE = """
import ctypes, os
number = {"x86_64": 41, "aarch64": 198}[os.uname().machine]  # socket(2)
for name, family in ("unix", 1), ("vsock", 40), ("vsock-high", 0x100000028):
    print(name, int(ctypes.CDLL(None).syscall(number, ctypes.c_long(family), 1, 0) < 0))
"""


@needs_python
@pytest.mark.parametrize("init", [True, False])
async def test_no_socket_leads_around_the_network_namespace(bench: Bench, init: bool) -> None:
    inputs = [StorageVolume(type="bind", source=source, target=target) for target, source in machines_python().items()]
    ran = await bench.run(PYTHON, "-c", _PROBE, inputs=inputs, init=init)
    assert ran.stdout.split() == ["unix", "0", "vsock", "1", "vsock-high", "1"]
