"""Networks of a root's Podman service, which come with rules of a firewall: the test's own, in a network namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.docker import PodmanSpec
from dms_executor.types import PortMapping
from tests.daemon import running
from tests.podmand import SESSION, Podman

_PLUGINS = Path("/usr/lib/cni")


class _Apart(Podman):
    """`network`: the name of its namespace."""

    def __init__(self, folder: Path, network: str) -> None:
        super().__init__(folder)
        self.network = network

    def executed(self, *argv: str) -> list[str]:
        """In that namespace."""
        return ["nsenter", f"--net=/run/netns/{self.network}", *argv]


@pytest.fixture
def service(rootfs: Path) -> Iterator[_Apart]:
    SESSION.needed()
    if not (_PLUGINS / "bridge").exists() or not shutil.which("iptables"):
        lacking = "no plugins for Podman's networks here: apt-get install containernetworking-plugins iptables"
        (pytest.fail if "podman" in os.environ.get("DMS_EXECUTOR_REQUIRE", "").split(",") else pytest.skip)(lacking)
    name = f"dms{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        with tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True) as folder:
            with running(_Apart(Path(folder), name)) as ready:
                ready.take(rootfs, SESSION.image)
                yield ready
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


async def test_a_bridge_publishes_and_a_network_of_the_services_is_taken(service: _Apart, tmp_path: Path) -> None:
    service.client("network", "create", "--internal", "--subnet", "198.19.255.0/24", "own")
    script = "ip -4 -o address show dev eth0; while true; do printf hi | nc -l -p 80; done"
    serving = PodmanSpec(image=SESSION.image, cmd=["sh", "-c", script]).build()
    inside = PodmanSpec(image=SESSION.image, cmd=["ip", "-4", "-o", "address", "show", "dev", "eth0"]).build()
    settings = Settings(engines={"podman": {"socket": str(service.socket)}})
    async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=settings) as executor:
        ports = [PortMapping(container_port=80)]
        request = ExecutionRequest(
            job_id="j", execution_id="serving", engine_spec=serving, network="bridge", ports=ports
        )
        await executor.start(request)
        (port,) = (await executor.inspect("serving")).ports
        asked = f"until busybox nc 127.0.0.1 {port.host_port} </dev/null | grep hi; do :; done"
        said = subprocess.run(service.executed("sh", "-c", asked), capture_output=True, timeout=60, check=True)
        assert said.stdout == b"hi\n"
        await executor.cancel("serving", grace=0)
        request = ExecutionRequest(job_id="j", execution_id="inside", engine_spec=inside, network="own")
        assert b" 198.19.255." in (await executor.run(request)).stdout
        for name in ("serving", "inside"):
            await executor.remove(name, force=True)
    assert service.containers() == []
