"""What a request may choose of its container: names, networks, ports, sizes, volumes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dms_executor import Policy
from dms_executor.docker.disk import can_limit_disk
from dms_executor.errors import InvalidRequest, NotSupported, PolicyDenied, ResourcesUnavailable
from dms_executor.types import ByteSize, PortMapping, Resources, StorageVolume
from tests.daemons import SESSIONS

from .session import Bench, opened


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> str:
    SESSIONS[request.param].needed()
    return str(request.param)


@pytest.fixture
async def bench(tmp_path: Path, rootfs: Path, engine: str) -> AsyncIterator[Bench]:
    async with opened(tmp_path / "state", rootfs, engine=engine) as ready:
        yield ready


@pytest.fixture
def volume(rootfs: Path, engine: str) -> Iterator[str]:
    """A volume of the daemon's with a file in it."""
    image, daemon = SESSIONS[engine].with_image(rootfs), SESSIONS[engine].daemon()
    daemon.client("volume", "create", "dms-test-data")
    job = ("run", "--rm", "--network", "none", "-v", "dms-test-data:/data", image)
    daemon.client(*job, "sh", "-c", "echo kept >/data/file")
    yield "dms-test-data"
    daemon.client("volume", "rm", "--force", "dms-test-data")


async def test_names_and_sizes(bench: Bench) -> None:
    params = {"hostname": "named", "user": "guest", "working_directory": "/made", "shm_size": ByteSize("8MiB")}
    said = await bench.sh("hostname; id -un; pwd; df -k /dev/shm | tail -n 1", params=params)
    name, user, folder, shm = said.splitlines()
    assert (name, user, folder) == ("named", "guest", "/made")
    assert shm.split()[1] == "8192"


async def test_a_root_that_is_read_only(bench: Bench) -> None:
    said = await bench.sh("touch /x 2>&- || echo refused; echo ok >/dev/shm/x", params={"read_only_root": True})
    assert said == "refused\n"


@pytest.mark.parametrize(
    "engine", ["docker"], indirect=True
)  # Podman's would be made with rules of the host's firewall
async def test_a_network_of_the_daemons_by_its_name(bench: Bench) -> None:
    bench.daemon.client("network", "create", "--internal", "--subnet", "198.19.255.0/24", "dms-test-net")
    try:
        said = await bench.sh("ip -4 -o address show dev eth0", network="dms-test-net")
        assert " 198.19.255." in said
        await bench.removed()
    finally:
        bench.daemon.client("network", "rm", "dms-test-net")


async def test_the_hosts_network_is_recorded(bench: Bench) -> None:
    request = bench.request("readlink", "/proc/self/ns/net", network="host")
    result = await bench.executor.run(request)
    assert result.stdout.decode().strip() == str(Path("/proc/self/ns/net").readlink())
    assert "network: host" in (await bench.executor.inspect(request.execution_id)).loosened


@pytest.mark.parametrize("network", ["no-such-net", "default", "a/../../containers", "ns:1"])
async def test_a_network_that_is_not_there_is_refused(bench: Bench, network: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await bench.run("true", network=network)
    assert caught.value.path == "$.network"
    assert (await bench.executor.list()) == []


async def test_the_policy_decides_on_networks(tmp_path: Path, rootfs: Path, engine: str) -> None:
    async with opened(tmp_path / "state", rootfs, Policy(networks=("none",)), engine) as bench:
        for network in (bench.network, "bridge", "host"):
            with pytest.raises(PolicyDenied):
                await bench.run("true", network=network)


@pytest.mark.parametrize("network", ["none", "host"])
async def test_ports_that_lead_nowhere_are_refused(bench: Bench, network: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await bench.run("true", network=network, ports=[PortMapping(container_port=80)])
    assert caught.value.path == "$.ports"


async def test_a_port_that_is_taken_leaves_no_container(bench: Bench) -> None:
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    async with server:
        number = server.sockets[0].getsockname()[1]
        port = PortMapping(container_port=80, host_port=number)
        with pytest.raises(ResourcesUnavailable, match=str(number)):
            await bench.run("true", network=bench.network, ports=[port])
    assert bench.daemon.containers() == []


async def test_udp_ports_are_published(bench: Bench) -> None:
    ports = [PortMapping(container_port=53, protocol="udp"), PortMapping(container_port=53)]
    told = await bench.inspected(network=bench.network, ports=ports)
    bound: dict[str, Any] = told["NetworkSettings"]["Ports"]
    assert sorted(bound) == ["53/tcp", "53/udp"]
    assert all(each["HostIp"] == "127.0.0.1" for bindings in bound.values() for each in bindings)


async def test_a_named_volume_is_read_only_unless_said(bench: Bench, volume: str) -> None:
    mount = StorageVolume(type="volume", source=volume, target="/data")
    said = await bench.sh("cat /data/file; touch /data/new 2>&- || echo refused", inputs=[mount])
    assert said == "kept\nrefused\n"
    writable = StorageVolume(type="volume", source=volume, target="/data", read_only=False)
    request = bench.request("touch", "/data/new", inputs=[writable])
    assert (await bench.executor.run(request)).exit_code == 0
    assert "inputs[0]: writable" in (await bench.executor.inspect(request.execution_id)).loosened
    assert await bench.sh("ls /data", inputs=[mount]) == "file\nnew\n"
    await bench.removed()
    assert volume.encode() in bench.daemon.client("volume", "ls", "--quiet").stdout, "it outlives its jobs"


async def test_the_policy_decides_on_volumes(tmp_path: Path, rootfs: Path, engine: str, volume: str) -> None:
    async with opened(tmp_path / "state", rootfs, Policy(missing_defaults="record"), engine) as bench:
        for name in (volume, "no-such-volume"):  # nor is it told which there are
            with pytest.raises(PolicyDenied) as caught:
                await bench.run("true", inputs=[StorageVolume(type="volume", source=name, target="/data")])
            assert "volumes" in caught.value.mend
    allowed = Policy(volumes=(volume,), missing_defaults="record")
    async with opened(tmp_path / "other", rootfs, allowed, engine) as bench:
        mount = StorageVolume(type="volume", source=volume, target="/data")
        assert await bench.sh("cat /data/file", inputs=[mount]) == "kept\n"


async def test_a_volume_is_not_made_by_a_request(bench: Bench) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await bench.run("true", inputs=[StorageVolume(type="volume", source="no-such-volume", target="/data")])
    assert (caught.value.path, caught.value.mend) == (
        "$.inputs[0].source",
        f"{bench.engine} volume create no-such-volume",
    )
    with pytest.raises(InvalidRequest, match="an output"):
        await bench.run("true", outputs=[StorageVolume(type="volume", source="data", target="/data")])
    with pytest.raises(InvalidRequest, match="no volume's name"):
        await bench.run("true", inputs=[StorageVolume(type="volume", source="../x", target="/data")])


async def test_a_disk_that_cannot_be_held_is_refused_before_anything_is_made(bench: Bench) -> None:
    """The session's storage has no quotas."""
    with pytest.raises(NotSupported) as caught:
        await bench.run("true", resources=Resources(disk=ByteSize("64MiB")))
    assert caught.value.what == "$.resources.disk"
    assert "pquota" in caught.value.mend
    assert (await bench.executor.list()) == []


def test_which_storage_can_hold_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "2 1 8:2 / /var/lib rw - xfs /dev/sdb1 rw,attr2,noquota\n"
        "3 2 8:3 / /var/lib/docker rw - xfs /dev/sdc1 rw,attr2,prjquota\n"
    )
    monkeypatch.setattr("dms_executor.docker.disk.MOUNTS", str(mounts))
    xfs = json.loads('[["Backing Filesystem", "xfs"], ["Supports d_type", "true"]]')
    assert can_limit_disk("overlay2", xfs, "/var/lib/docker")
    assert not can_limit_disk("overlay2", xfs, "/var/lib/other")
    assert not can_limit_disk("overlay2", [["Backing Filesystem", "extfs"]], "/var/lib/docker")
    assert not can_limit_disk("vfs", [], "/var/lib/docker")
    assert can_limit_disk("btrfs", [], "/anywhere")


async def test_a_registry_that_the_policy_does_not_name(tmp_path: Path, rootfs: Path) -> None:
    async with opened(tmp_path / "state", rootfs, policy=Policy(registries=("registry.example",))) as bench:
        with pytest.raises(PolicyDenied, match="registries"):
            await bench.sh("echo never")
