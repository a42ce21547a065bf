"""Section 8: the network `user` and published ports, as far as they can be tried in any place."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest

from ...types import PortMapping
from ..bench import Bench
from ..line import line
from ..shell import ShellSubject

__all__ = [
    "test_a_job_with_a_network_does_not_reach_the_hosts_loopback",
    "test_a_published_port_reaches_the_job",
    "test_chosen_ports_are_told_and_never_given_twice",
]

_PORT = 8080
_SERVE = f"command -v nc >&2 || exit 1; while true; do printf hi | nc -l -p {_PORT}; done"


@line("8", needs={"container", "shell", "ports"})
async def test_a_published_port_reaches_the_job(bench: Bench) -> None:
    request = _request(bench, _SERVE, ports=[PortMapping(container_port=_PORT)])
    await bench.executor.start(request)
    (port,) = (await bench.executor.inspect(request.execution_id)).ports
    assert (port.host_ip, port.container_port, port.protocol) == ("127.0.0.1", _PORT, "tcp")
    said = await _said(bench, request.execution_id, port.host_port)
    assert said == b"hi"
    await bench.executor.cancel(request.execution_id, grace=0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port.host_port)


@line("8", needs={"container", "shell", "ports"})
async def test_chosen_ports_are_told_and_never_given_twice(bench: Bench) -> None:
    requests = [_request(bench, "sleep 1000", ports=[PortMapping(container_port=_PORT)] * 2) for _ in range(3)]
    await asyncio.gather(*(bench.executor.start(request) for request in requests))
    given = [p.host_port for request in requests for p in (await bench.executor.inspect(request.execution_id)).ports]
    assert len(set(given)) == 6, given
    assert 0 not in given
    for request in requests:
        await bench.executor.cancel(request.execution_id, grace=0)
    for number in given:
        # Free again: whoever asks for it gets it.
        with socket.create_server(("127.0.0.1", number)):
            pass


@line("8", needs={"container", "shell", "network_user"})
async def test_a_job_with_a_network_does_not_reach_the_hosts_loopback(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        number = server.getsockname()[1]
        script = f"""command -v nc >&2 || exit 1
            for address in 127.0.0.1 $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); do
              nc -w 2 $address {number} </dev/null & pid=$!; sleep 2; kill $pid 2>&-
            done; exit 0"""
        result = await bench.executor.run(_request(bench, script, network="user"))
        assert result.status == "success", result
        with pytest.raises(BlockingIOError):
            server.accept()


def _request(bench: Bench, script: str, **fields: Any) -> Any:
    subject = bench.subject
    if not isinstance(subject, ShellSubject):
        pytest.fail("a subject with the traits container and shell is a ShellSubject")
    return bench.request(spec=subject.command("sh", "-c", script), **{"network": subject.network, **fields})


async def _said(bench: Bench, execution_id: str, number: int) -> bytes:
    """What the job says there, once it listens."""
    async with asyncio.timeout(20):
        while True:
            if await bench.executor.get_status(execution_id) != "running":
                pytest.fail(f"it does not serve: {await bench.executor.wait(execution_id)}")
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", number)
                try:
                    if said := await reader.read(2):
                        return said
                finally:
                    writer.close()
            await asyncio.sleep(0.05)
