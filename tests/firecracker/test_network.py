"""The network `user` of a machine that has but a tap device: what a guest reaches and what not, and its ports.

Firecracker and its guest are stand-ins; namespace, network program, tap device and what forwards between them are real
(tests/firecracker/wire.py). The host is a network namespace of the test's own, with a server outside (tests/lan.py).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dms_executor import ExecutionRequest, Executor, LogStreamRequest, PortMapping
from dms_executor.errors import NotSupported
from dms_executor.firecracker import FirecrackerSpec
from dms_executor.policy import Policy
from dms_executor.processes import start_time
from dms_executor.types import Settings
from tests import kernels, lan
from tests.oci.talk import PYTHON, SERVE, TALK, needs_python, reply

pytestmark = [
    kernels.needed,
    needs_python,
    pytest.mark.skipif(os.geteuid() != 0, reason="the engine firecracker takes root so far"),
]


@pytest.fixture(scope="module", autouse=True)
def wire() -> Iterator[None]:
    lan.needed()
    with lan.host_and_outside():
        yield


@pytest.fixture(params=["pasta", "slirp4netns"])
async def executor(
    request: pytest.FixtureRequest, state: Path, rootfs: Path, stood_in: Callable[[bool], dict[str, Any]]
) -> AsyncIterator[Executor]:
    engine = stood_in(True) | {"network_program": request.param}
    policy = Policy(read_roots=(rootfs,))
    async with Executor.open(state, policy=policy, settings=Settings(engines={"firecracker": engine})) as opened:
        yield opened


def python(rootfs: Path, script: str, **fields: Any) -> ExecutionRequest:
    # The guest that stands in runs this machine's own programs.
    spec = FirecrackerSpec(image=f"rootfs:{rootfs}", cmd=[PYTHON, "-c", script]).build()
    name = f"e{os.urandom(6).hex()}"
    return ExecutionRequest(job_id="job", execution_id=name, engine_spec=spec, network="user", **fields)


_REACH = f"""{TALK}
print(tcp("{lan.OUTSIDE}", {lan.PORT}), tcp("{lan.FAR}", {lan.PORT}), udp("{lan.OUTSIDE}", {lan.PORT}, b"x" * 2000)[:8])
print(tcp("{lan.METADATA}", {lan.PORT}), udp("{lan.METADATA}", {lan.PORT}))
for address in ("127.0.0.1", "10.0.2.2", "10.0.2.3", "{lan.HOST}"):
    print(tcp(address, {lan.LOOPBACK_PORT}), udp(address, {lan.LOOPBACK_PORT}))
"""


async def test_a_guest_reaches_outside_and_nothing_of_the_hosts_own(executor: Executor, rootfs: Path) -> None:
    result = await executor.run(python(rootfs, _REACH))
    assert result.exit_code == 0, result
    first, *closed = (result.stdout or b"").decode().splitlines()
    # The datagram is larger than an Ethernet's frame.
    assert first == f"hello {lan.HOST} hello {lan.HOST} b'echo xxx'"
    assert len(closed) == 5
    assert [line for line in closed if "hello" in line or "echo" in line] == []


async def test_published_ports_lead_into_the_guest(executor: Executor, rootfs: Path, state: Path) -> None:
    ports = [PortMapping(container_port=80), PortMapping(container_port=80, host_ip="0.0.0.0")]
    ports.append(PortMapping(container_port=8085, host_ip=lan.HOST, protocol="udp"))
    request = python(rootfs, SERVE, ports=ports)
    await executor.start(request)
    name = request.execution_id
    async with await executor.get_log_stream(LogStreamRequest(execution_id=name, follow=True)) as stream:
        async for chunk in stream:
            if b"serving" in chunk:
                break
    tcp, everywhere, udp = (await executor.inspect(name)).ports
    (words,) = [(await asyncio.to_thread(path.read_text)).split() for path in state.glob("executions/*/network.pid")]
    # Before the guest has said a word to anybody.
    assert await asyncio.to_thread(reply, "127.0.0.1", tcp.host_port, "tcp") == b"job"
    assert await asyncio.to_thread(reply, lan.HOST, everywhere.host_port, "tcp") == b"job"
    assert await asyncio.to_thread(reply, lan.HOST, udp.host_port, "udp") == b"job hi"
    stats = await executor.stats(name)
    assert 100 < (stats.network_received_bytes or 0) < 10_000
    assert 100 < (stats.network_sent_bytes or 0) < 10_000
    await executor.cancel(name, grace=0)
    await executor.remove(name)
    assert start_time(int(words[1])) is None
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(reply, "127.0.0.1", tcp.host_port, "tcp")


async def test_a_network_that_cannot_be_is_refused_with_its_mend(
    state: Path, rootfs: Path, stood_in: Callable[[bool], dict[str, Any]]
) -> None:
    engine = stood_in(True) | {"network_program": "/nonexistent/pasta"}
    policy = Policy(read_roots=(rootfs,))
    async with Executor.open(state, policy=policy, settings=Settings(engines={"firecracker": engine})) as opened:
        with pytest.raises(NotSupported, match="passt"):
            await opened.run(python(rootfs, ""))
        with pytest.raises(NotSupported, match="IPv6"):
            await opened.run(python(rootfs, "", ports=[PortMapping(container_port=80, host_ip="::1")]))
