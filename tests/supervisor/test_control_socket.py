"""Clients of the control socket, the hostile ones too."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from dms_executor.errors import ResourcesUnavailable
from dms_executor.supervisor import ShimSpec, frames
from dms_executor.supervisor.shim import connect, create

Job = Callable[..., ShimSpec]


def dial(folder: Path) -> socket.socket:
    at = os.open(folder, os.O_PATH)
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"/proc/self/fd/{at}/control")
        connection.settimeout(5)
        return connection
    finally:
        os.close(at)


def hello(connection: socket.socket) -> bool:
    try:
        connection.sendall(frames.pack(frames.HELLO, struct.pack("<I", frames.VERSION)))
        return len(connection.recv(100)) == 36
    except OSError:
        return False


MALFORMED = {
    "too long": struct.pack("<IBBH", 2**32 - 1, frames.STOP, 0, 0) + b"x" * 40,
    "wrong size": struct.pack("<IBBH", 3, frames.SIGNAL, 0, 0) + b"xxx",
    "unknown type": struct.pack("<IBBH", 0, 200, 0, 0),
    "flags": struct.pack("<IBBH", 4, frames.HELLO, 1, 0) + b"\1\0\0\0",
    "channel": struct.pack("<IBBH", 4, frames.HELLO, 0, 7) + b"\1\0\0\0",
    "an init's frame": struct.pack("<IBBH", 4, 98, 0, 0) + b"\0\0\0\0",
    "go from a client": frames.pack(frames.GO),
    "a shim's frame": frames.pack(frames.ENDED),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_frame_costs_only_its_connection(folder: Path, job: Job, data: bytes) -> None:
    shim = await create(folder, job("sleep", "60"))
    await shim.go()

    def attack() -> bytes:
        with dial(folder) as bad:
            bad.sendall(data)
            try:
                return bad.recv(100)
            except ConnectionResetError:
                return b""

    assert await asyncio.to_thread(attack) == b""
    other = await connect(folder)
    assert other is not None
    await other.stop(signal.SIGKILL, 0)
    assert await shim.ended()


async def test_random_bytes_do_no_harm(folder: Path, job: Job) -> None:
    shim = await create(folder, job("sleep", "60"))
    await shim.go()
    chance = random.Random(1)

    def attack() -> None:
        for _ in range(200):
            with dial(folder) as bad:
                bad.send(chance.randbytes(chance.randrange(1, 300)))

    await asyncio.to_thread(attack)
    await shim.stop(signal.SIGKILL, 0)
    assert await shim.ended()


async def test_a_frame_may_come_byte_by_byte(folder: Path, job: Job) -> None:
    shim = await create(folder, job("sleep", "60"))
    await shim.go()

    def slowly() -> bytes:
        with dial(folder) as client:
            for byte in frames.pack(frames.HELLO, struct.pack("<I", 1)):
                client.send(bytes([byte]))
            return client.recv(100)

    assert (await asyncio.to_thread(slowly))[4] == frames.STATE
    await shim.stop(signal.SIGKILL, 0)
    assert await shim.ended()


async def test_sixty_four_clients_are_served_and_more_are_turned_away(folder: Path, job: Job) -> None:
    shim = await create(folder, job("sleep", "60"))
    await shim.go()

    def crowd() -> tuple[int, list[socket.socket]]:
        clients = [dial(folder) for _ in range(70)]
        return sum(hello(client) for client in clients), clients

    served, clients = await asyncio.to_thread(crowd)
    assert served == 64
    for client in clients:
        client.close()
    await asyncio.sleep(0.05)
    again = await connect(folder)
    assert again is not None
    await again.stop(signal.SIGKILL, 0)
    assert await shim.ended()


async def test_a_client_that_does_not_read_is_never_waited_for(folder: Path, job: Job) -> None:
    shim = await create(folder, job("sleep", "60"))
    await shim.go()

    def flood() -> socket.socket:
        client = dial(folder)
        client.setblocking(False)
        question = frames.pack(frames.HELLO, struct.pack("<I", 1))
        try:
            for _ in range(100_000):
                client.send(question)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            pass
        return client

    deaf = await asyncio.to_thread(flood)
    await shim.stop(signal.SIGKILL, 0)
    async with asyncio.timeout(5):
        assert await shim.ended()
    deaf.close()


async def test_a_long_path_is_no_obstacle(tmp_path: Path, job: Job) -> None:
    folder = tmp_path / ("d" * 120) / ("e" * 120)
    folder.mkdir(parents=True)
    shim = await create(folder, job("sleep", "60"))
    await shim.go()
    other = await connect(folder)
    assert other is not None
    await other.stop(signal.SIGKILL, 0)
    assert await shim.ended()


async def test_nobody_listens_in_an_empty_folder(tmp_path: Path) -> None:
    assert await connect(tmp_path) is None
    assert await connect(tmp_path / "absent") is None


async def test_running_out_of_descriptors_says_what_to_do(folder: Path, job: Job) -> None:
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    spec = job("true")
    held = [os.dup(0) for _ in range(3)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, old[1]))
    try:
        with pytest.raises(ResourcesUnavailable, match="ulimit -n"):
            await create(folder, spec)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
        for fd in held:
            os.close(fd)


async def test_a_large_configuration_arrives_whole(folder: Path, job: Job) -> None:
    environment = {f"V{i}": "x" * 1000 for i in range(900)}
    spec = job("sh", "-c", "exit 0")
    shim = await create(folder, ShimSpec(argv=spec.argv, environment=environment, log_cap=1 << 20, segment=1 << 18))
    await shim.go()
    assert await shim.ended()
