"""What a daemon is told of a job that asks for nothing, and what the job then has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dms_executor import Policy
from dms_executor.docker.names import CALLS, INIT, REPORT
from dms_executor.types import StorageVolume

from .session import Bench, opened

_DOCKERS_OWN = 0xA80425FB  # https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities
_MKNOD = 1 << 27


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def bench(tmp_path: Path, rootfs: Path, engine: str) -> AsyncIterator[Bench]:
    (tmp_path / "in").mkdir()
    async with opened(tmp_path / "state", rootfs, Policy(read_roots=(tmp_path / "in",)), engine) as ready:
        yield ready


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
async def test_the_create_call_of_a_plain_job(bench: Bench, tmp_path: Path) -> None:
    told = await bench.inspected(inputs=[StorageVolume(source=str(tmp_path / "in"), target="/in")])
    host = told["HostConfig"]
    assert (host["CapDrop"], host["CapAdd"] or [], host["Privileged"]) == (["MKNOD"], [], False)
    assert host["SecurityOpt"] == ["no-new-privileges"], "no profile is named: the daemon's default holds"
    assert host["NetworkMode"] == "none"
    assert host["PidsLimit"] == 4096
    memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert host["Memory"] == host["MemorySwap"] == memory // 2
    assert (host["PidMode"], host["UTSMode"], host["IpcMode"], host["UsernsMode"]) == ("", "", "private", "")
    assert not host["Devices"]
    assert not host["DeviceRequests"]
    assert not host["PortBindings"]
    assert not host["GroupAdd"]
    assert host["RestartPolicy"]["Name"] == "no"
    assert "/proc/kcore" in host["MaskedPaths"]
    assert (told["Path"], told["Args"]) == (INIT, ["-r", REPORT, "-o", "--", "sleep", "1000"])
    writable = {mount["Destination"] for mount in told["Mounts"] if mount["RW"]}
    assert writable == {REPORT}, "beside the report nothing of the host's can be written"
    assert {mount["Destination"] for mount in told["Mounts"]} == {CALLS, INIT, REPORT, "/in"}


async def test_what_a_plain_job_has(bench: Bench) -> None:
    said = await bench.sh("cat /proc/self/status; ls /sys/class/net; ls /dev; : >/dev/null")
    status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    capabilities = int(status["CapBnd"], 16)
    assert capabilities == int(status["CapEff"], 16)
    assert capabilities & ~(_DOCKERS_OWN & ~_MKNOD) == 0, "Podman's default is less than Docker's"
    assert bench.engine == "podman" or capabilities == _DOCKERS_OWN & ~_MKNOD
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    words = said.split()
    assert "lo" in words
    assert "eth0" not in words
    assert not {"mem", "kmsg", "sda", "dri", "kvm"} & set(words)


async def test_a_user_has_no_capability(bench: Bench) -> None:
    said = await bench.sh("id -u; grep CapEff /proc/self/status", params={"user": "1000"})
    assert said.split() == ["1000", "CapEff:", "0" * 16]
