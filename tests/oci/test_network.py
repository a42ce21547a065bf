"""The network `user`: what a job reaches and what not, ports, and that nothing of it is left.

The host here is a network namespace of the test's own, with a server outside (tests/lan.py). The jobs' Python is this
machine's, since busybox has no UDP.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dms_executor.engine import Execution, Handle
from dms_executor.errors import InvalidRequest, NotSupported, ResourcesUnavailable
from dms_executor.policy import Policy
from dms_executor.processes import start_time
from dms_executor.types import PortMapping, StorageVolume

from .. import lan, runsc
from .conftest import Bench, Ran, opened
from .talk import PYTHON, SERVE, TALK, machines_python, needs_python, reply

pytestmark = needs_python


@pytest.fixture(scope="module", autouse=True)
def wire() -> Iterator[None]:
    lan.needed()
    with lan.host_and_outside():
        yield


@pytest.fixture(params=["crun", "runc", pytest.param("runsc", marks=runsc.needed)])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["pasta", "slirp4netns"])
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def bench(tmp_path: Path, busybox: Path, runtime: str, program: str) -> AsyncIterator[Bench]:
    (tmp_path / "state").mkdir(mode=0o700)
    settings = {"runtime": runsc.program(runtime), "network_program": program}
    async with opened(tmp_path / "state", busybox, Policy.trusted(), **settings) as ready:
        yield ready


def python(script: str, **fields: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The job that runs it: command and fields of the request."""
    mounts = [StorageVolume(source=source, target=target) for target, source in machines_python().items()]
    return (PYTHON, "-c", textwrap.dedent(script)), {"inputs": mounts, "network": "user", **fields}


async def run(bench: Bench, script: str, **fields: Any) -> Ran:
    cmd, more = python(script, **fields)
    return await bench.run(*cmd, **more)


@asynccontextmanager
async def serving(bench: Bench, *ports: PortMapping) -> AsyncIterator[tuple[Execution, Handle]]:
    """A job that serves; gone at the end, and nothing of it left."""
    cmd, more = python(SERVE, ports=list(ports))
    x, handle = await bench.started(*cmd, **more)
    try:
        await bench.said(x, b"serving")
        yield x, handle
    finally:
        await bench.engine.destroy(x, handle)
        assert bench.left(x) == []


async def test_a_job_reaches_outside_and_nothing_of_the_hosts_own(bench: Bench) -> None:
    script = (
        TALK
        + f"""
print(tcp("{lan.OUTSIDE}", {lan.PORT}), tcp("{lan.FAR}", {lan.PORT}), udp("{lan.OUTSIDE}", {lan.PORT}))
print(tcp("{lan.METADATA}", {lan.PORT}), udp("{lan.METADATA}", {lan.PORT}))
for address in ("127.0.0.1", "10.0.2.2", "10.0.2.3", "{lan.HOST}", "::1"):
    print(tcp(address, {lan.LOOPBACK_PORT}), udp(address, {lan.LOOPBACK_PORT}))
"""
    )
    ran = await run(bench, script)
    first, metadata, *closed = ran.stdout.splitlines()
    assert first == f"hello {lan.HOST} hello {lan.HOST} b'echo x'", ran.stderr
    assert len(closed) == 5
    assert [line for line in (metadata, *closed) if "hello" in line or "echo" in line] == []


async def test_outside_by_ipv6_and_by_no_address_of_the_hosts(bench: Bench, program: str) -> None:
    script = (
        TALK
        + f'''
print(tcp("{lan.OUTSIDE6}", {lan.PORT}))
print(open("/proc/net/if_inet6").read(), open("/proc/net/fib_trie").read(), open("/proc/net/ipv6_route").read())
'''
    )
    said, *addresses = (await run(bench, script)).stdout.splitlines()
    assert said == (f"hello {lan.HOST6}" if program == "pasta" else "OSError")
    assert [line for line in addresses if lan.HOST in line or "20010db8" in line] == []


async def test_no_raw_frames_around_the_closed_routes(bench: Bench) -> None:
    script = """
import socket
for family, kind in ((socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_INET, socket.SOCK_RAW)):
    try:
        socket.socket(family, kind, 1)
        print("open")
    except PermissionError:
        print("closed")
"""
    assert (await run(bench, script)).stdout.split() == ["closed", "closed"]


async def test_names_are_asked_of_the_hosts_own_server(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dms_executor.networks.resolving._host_file",
        lambda path: b"nameserver 127.0.0.53\nsearch example.org\noptions ndots:2\n",
    )
    script = """
import socket
for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname"):
    print(open(name).read(), end="")
print(socket.gethostbyname(socket.gethostname()))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
socket.create_server(("0.0.0.0", 80))
"""
    ran = await run(bench, script, params={"hostname": "probe"})
    assert ran.exit.code == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[:3] == ["nameserver 10.0.2.3", "search example.org", "options ndots:2"]
    assert "10.0.2.100\tprobe" in lines
    assert lines[-2:] == ["probe", "10.0.2.100"]


async def test_a_published_port_reaches_the_job(bench: Bench) -> None:
    ports = [
        PortMapping(container_port=80),
        PortMapping(container_port=80, host_ip="127.0.0.2", host_port=8081),
        PortMapping(container_port=80, host_ip="0.0.0.0"),
    ]
    async with serving(bench, *ports) as (_, handle):
        await reached(handle)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(reply, "127.0.0.1", handle.ports[0].host_port, "tcp")


async def reached(handle: Handle) -> None:
    assert [(p.container_port, p.host_ip, p.protocol) for p in handle.ports] == [
        (80, "127.0.0.1", "tcp"),
        (80, "127.0.0.2", "tcp"),
        (80, "0.0.0.0", "tcp"),
    ]
    tcp, named, everywhere = (p.host_port for p in handle.ports)
    assert named == 8081
    assert await asyncio.to_thread(reply, "127.0.0.1", tcp, "tcp") == b"job"
    assert await asyncio.to_thread(reply, "127.0.0.2", 8081, "tcp") == b"job"
    assert await asyncio.to_thread(reply, lan.HOST, everywhere, "tcp") == b"job"
    with pytest.raises(ConnectionRefusedError):
        # On the address that was asked for, and on no other.
        await asyncio.to_thread(reply, lan.HOST, tcp, "tcp")


async def test_datagrams(tmp_path: Path, busybox: Path) -> None:
    """On loopback an old pasta answers by the job's own number only, slirp4netns not at all: it is said."""
    (tmp_path / "state").mkdir(mode=0o700)
    wanted = [PortMapping(container_port=8085, protocol="udp"), PortMapping(container_port=8085, protocol="udp")]
    wanted[1] = msgspec.structs.replace(wanted[1], host_ip=lan.HOST)
    async with opened(tmp_path / "state", busybox, Policy.trusted(), network_program="pasta") as bench:
        async with serving(bench, *wanted) as (_, handle):
            for port in handle.ports:
                assert await asyncio.to_thread(reply, port.host_ip, port.host_port, "udp") == b"job hi"
    async with opened(tmp_path / "state", busybox, Policy.trusted(), network_program="slirp4netns") as bench:
        async with serving(bench, wanted[1]) as (_, handle):
            assert await asyncio.to_thread(reply, lan.HOST, handle.ports[0].host_port, "udp") == b"job hi"
        with pytest.raises(NotSupported, match="passt"):
            await bench.engine.validate(bench.execution("true", network="user", ports=wanted).request)


async def test_a_port_that_is_in_use_is_told_before_anything_runs(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        cmd, more = python("", ports=[PortMapping(container_port=80, host_port=port)])
        x = bench.execution(*cmd, **more)
        with pytest.raises(ResourcesUnavailable, match=rf"\$\.ports\[0\].*{port}"):
            await bench.created(x)
        await bench.engine.destroy(x, None)
        assert bench.left(x) == []


async def test_no_port_is_given_twice(bench: Bench) -> None:
    cmd, more = python("", ports=[PortMapping(container_port=80)] * 3)
    executions = [bench.execution(*cmd, **more) for _ in range(6)]
    made = await asyncio.gather(*(bench.created(x) for x in executions))
    given = [(p.protocol, p.host_port) for _, handle in made for p in handle.ports]
    assert len(given) == len(set(given)) == 18
    for x, (_, handle) in zip(executions, made, strict=True):
        await bench.engine.destroy(x, handle)


async def test_of_two_that_want_the_same_port_one_gets_it(bench: Bench) -> None:
    cmd, more = python("", ports=[PortMapping(container_port=80, host_port=8090)])
    executions = [bench.execution(*cmd, **more) for _ in range(3)]
    made = await asyncio.gather(*(bench.created(x) for x in executions), return_exceptions=True)
    errors = [end for end in made if isinstance(end, BaseException)]
    assert [type(error) for error in errors] == [ResourcesUnavailable] * 2
    for x in executions:
        await bench.engine.destroy(x, None)


async def program_of(bench: Bench, x: Execution) -> int:
    text = await asyncio.to_thread((x.folder / "network.pid").read_text)
    return int(text.split()[1])


async def gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while await asyncio.to_thread(start_time, pid) is not None:
            await asyncio.sleep(0.01)


async def test_the_program_dies_with_the_shim(bench: Bench) -> None:
    async with serving(bench, PortMapping(container_port=80)) as (x, handle):
        pid = await program_of(bench, x)
        os.kill(int(handle.engine_ids["shim"]), signal.SIGKILL)
        await gone(pid)
        assert (await bench.engine.watch(x, handle)).lost


async def test_a_job_outlives_its_network_program(bench: Bench) -> None:
    async with serving(bench, PortMapping(container_port=80)) as (x, handle):
        pid = await program_of(bench, x)
        os.kill(pid, signal.SIGKILL)
        await gone(pid)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(reply, "127.0.0.1", handle.ports[0].host_port, "tcp")
        async with asyncio.timeout(10):
            while not (x.folder / "shim.log").exists():
                await asyncio.sleep(0.01)
        assert "goes on without a network" in (x.folder / "shim.log").read_text()
        await bench.engine.stop(x, handle, 9, 0)
        assert (await bench.engine.watch(x, handle)).signal == 9


async def test_stats_count_what_went_through(bench: Bench) -> None:
    script = (
        TALK
        + f"""
udp("{lan.OUTSIDE}", {lan.PORT}, b"x" * 1000)
print("sent", flush=True)
import time
time.sleep(1000)
"""
    )
    cmd, more = python(script)
    x, handle = await bench.started(*cmd, **more)
    await bench.said(x, b"sent")
    stats = await bench.engine.stats(x, handle)
    assert 1000 < (stats.network_sent_bytes or 0) < 10_000
    assert 1000 < (stats.network_received_bytes or 0) < 10_000
    await bench.engine.destroy(x, handle)


@pytest.mark.parametrize("runtime", ["crun", "runc"], indirect=True)  # runsc takes no such job
async def test_without_our_init(bench: Bench) -> None:
    script = TALK + f'print(tcp("{lan.OUTSIDE}", {lan.PORT}))'
    assert (await run(bench, script, init=False)).stdout == f"hello {lan.HOST}\n"


async def test_what_cannot_be(tmp_path: Path, busybox: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    lacking = opened(tmp_path / "state", busybox, Policy.trusted(), network_program="/nonexistent/pasta")
    async with lacking as bench:
        with pytest.raises(NotSupported, match="passt"):
            await bench.engine.validate(bench.execution("true", network="user").request)
    twice = [PortMapping(container_port=80, host_port=8080), PortMapping(container_port=81, host_port=8080)]
    async with opened(tmp_path / "state", busybox, Policy.trusted()) as bench:
        for fields in (
            {"ports": [PortMapping(container_port=80)]},
            {"network": "user", "ports": [PortMapping(container_port=80, host_ip="localhost")]},
            {"network": "user", "ports": twice},
        ):
            with pytest.raises(InvalidRequest):
                await bench.engine.validate(bench.execution("true", **fields).request)
