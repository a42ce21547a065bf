"""Callers that die, and several of them: ports are told by whoever adopts, and nothing is left (tests/lan.py)."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dms_executor import Executor, Policy, Settings
from dms_executor.processes import start_time

from .. import lan

CALLER = """
import asyncio, sys
from dms_executor import Executor, ExecutionRequest, Policy, Settings
from dms_executor.oci import OciSpec
from dms_executor.oci.engine import OciEngine
from dms_executor.types import PortMapping

state, root, runtime, name, port, how = sys.argv[1:]

if how == "created":
    # The moment between create and start, held for the test.
    async def start(self, x, h):
        print("ready", flush=True)
        await asyncio.sleep(1000)
    OciEngine.start = start

async def main():
    settings = Settings(engines={"oci": {"runtime": runtime}})
    async with Executor.open(state, policy=Policy.trusted(), settings=settings) as executor:
        spec = OciSpec(image="rootfs:" + root, cmd=["httpd", "-f", "-p", "80", "-h", "/etc"]).build()
        ports = [PortMapping(container_port=80, host_port=int(port))]
        request = ExecutionRequest(
            job_id="j", execution_id=name, engine_spec=spec, network="user", ports=ports)
        try:
            await executor.start(request)
        except Exception as error:
            print(type(error).__name__, flush=True)
            return
        print((await executor.inspect(name)).ports[0].host_port, flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture(scope="module", autouse=True)
def wire() -> Iterator[None]:
    lan.needed()
    with lan.host_and_outside():
        yield


class Callers:
    """Processes with an executor each."""

    def __init__(self, folder: Path, root: Path, runtime: str) -> None:
        self.folder, self._root, self._runtime = folder, root, runtime
        self._begun: list[subprocess.Popen[str]] = []

    def begin(self, state: str, name: str, port: int, how: str = "started") -> subprocess.Popen[str]:
        arguments = [str(self.folder / state), str(self._root), self._runtime, name, str(port), how]
        process = subprocess.Popen([sys.executable, "-c", CALLER, *arguments], stdout=subprocess.PIPE, text=True)
        self._begun.append(process)
        return process

    def programs(self) -> list[int]:
        return [int(path.read_text().split()[1]) for path in self.folder.glob("*/executions/*/network.pid")]

    async def clear(self) -> None:
        for process in self._begun:
            process.kill()
            process.communicate()
        for state in self.folder.iterdir():
            async with Executor.open(state, policy=Policy.trusted()) as executor:
                await executor.cleanup(running=True)


@pytest.fixture
def callers(tmp_path: Path, busybox: Path, runtime: str) -> Iterator[Callers]:
    (tmp_path / "states").mkdir()
    made = Callers(tmp_path / "states", busybox, runtime)
    yield made
    asyncio.run(made.clear())


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"GET /passwd HTTP/1.0\r\n\r\n")
            return client.recv(100).startswith(b"HTTP/1.")
    except OSError:
        return False


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def waited(what: str, done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


async def test_who_adopts_a_job_tells_its_ports(callers: Callers) -> None:
    caller = callers.begin("a", "web", 0)
    port = int(await asyncio.to_thread(told, caller))
    caller.kill()
    await asyncio.to_thread(caller.wait)
    async with Executor.open(callers.folder / "a", policy=Policy.trusted(), settings=Settings()) as executor:
        info = await executor.inspect("web")
        assert (info.status, [p.host_port for p in info.ports]) == ("running", [port])
        await asyncio.to_thread(waited, "it does not answer", lambda: answers(port))
        (pid,) = callers.programs()
        await executor.cancel("web", grace=0)
        assert await asyncio.to_thread(start_time, pid) is None
        assert not await asyncio.to_thread(answers, port)


async def test_a_caller_that_dies_before_the_go_leaves_nothing(callers: Callers) -> None:
    caller = callers.begin("a", "web", 8123, "created")
    assert await asyncio.to_thread(told, caller) == "ready"
    (pid,) = callers.programs()
    caller.kill()
    await asyncio.to_thread(waited, "the network program lives on", lambda: start_time(pid) is None)
    with socket.create_server(("127.0.0.1", 8123)):
        pass
    async with Executor.open(callers.folder / "a", policy=Policy.trusted()) as executor:
        info = await executor.inspect("web")
        assert (info.status, info.reason) == ("failed", "start_failed")
    assert callers.programs() == []


async def test_of_two_executors_one_gets_the_port_and_the_chosen_ones_differ(callers: Callers) -> None:
    same = [callers.begin(state, "web", 8124) for state in ("a", "b")]
    chosen = [callers.begin(state, "any", 0) for state in ("c", "d")]
    assert sorted([await asyncio.to_thread(told, caller) for caller in same]) == ["8124", "ResourcesUnavailable"]
    given = {await asyncio.to_thread(told, caller) for caller in chosen}
    assert len(given) == 2
    assert all(number.isdecimal() for number in given)


async def test_destroy_ends_a_program_that_outlived_its_shim(callers: Callers) -> None:
    """As with a kernel or security module that takes the parent-death signal away: the file alone leads to it."""
    await asyncio.to_thread(told, callers.begin("a", "web", 0))
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        (file,) = (callers.folder / "a").glob("executions/*/network.pid")
        boot = file.read_text().split()[0]
        began = await asyncio.to_thread(start_time, stranger.pid)
        file.write_text(f"{boot} {stranger.pid} {began}\n")
        async with Executor.open(callers.folder / "a", policy=Policy.trusted()) as executor:
            await executor.cancel("web", grace=0)
            await executor.remove("web")
        assert await asyncio.to_thread(stranger.wait, 20) == -9
    finally:
        stranger.kill()
        await asyncio.to_thread(stranger.wait)
