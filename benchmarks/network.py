"""What the network `user` adds to a launch, and how much goes through it: a job beside bare pasta with the same flags.

usage: python benchmarks/network.py [ROUNDS]

As root. The outside is a network namespace made here, at a wire to another one in which all of this runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.networks import find_program
from dms_executor.oci import OciSpec
from dms_executor.types import StorageVolume
from roots import busybox_root

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests import lan

PYTHON = "/usr/bin/python3"
MIB = 256
SINK, SOURCE = 7100, 7101
CLIENT = f"""
import socket, time
def timed(port, send):
    with socket.create_connection(("{lan.OUTSIDE}", port)) as s:
        begun, left = time.perf_counter(), {MIB} << 20
        block = bytes(1 << 20)
        while left > 0:
            if send:
                s.sendall(block); left -= len(block)
            else:
                left -= len(s.recv(1 << 20)) or left
        if send:
            s.shutdown(socket.SHUT_WR); s.recv(1)
        return {MIB} / (time.perf_counter() - begun)
try:
    print(timed({SINK}, True), timed({SOURCE}, False))
except OSError:
    pass  # counted: an old pasta resets a connection now and then
"""


def serve() -> None:
    """A sink and a source outside, in threads of their own."""

    def at(port: int, talk: Callable[[socket.socket], object]) -> None:
        lan.enter(Path(f"/run/netns/dms-{os.getpid()}-o"))
        server = socket.create_server((lan.OUTSIDE, port))
        while True:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                talk(connection)

    def sink(connection: socket.socket) -> None:
        while connection.recv(1 << 20):
            pass
        connection.sendall(b"x")

    def source(connection: socket.socket) -> None:
        block = bytes(1 << 20)
        for _ in range(MIB):
            connection.sendall(block)

    for port, talk in ((SINK, sink), (SOURCE, source)):
        threading.Thread(target=at, args=(port, talk), daemon=True).start()
    time.sleep(0.2)


@contextlib.contextmanager
def bare(scratch: Path) -> Iterator[list[str]]:
    """A namespace with pasta at it, flags as the package has them; the words to run a command in it."""
    pin, ready = scratch / "pin", scratch / "ready"
    pin.touch()
    os.mkfifo(ready)
    subprocess.run(["unshare", "--net", "mount", "--bind", "/proc/self/ns/net", str(pin)], check=True)
    program = subprocess.Popen(find_program("pasta").argv(str(pin), str(ready), []), stderr=subprocess.DEVNULL)
    try:
        ready.read_bytes()
        yield ["nsenter", f"--net={pin}"]
    finally:
        program.kill()
        program.wait()
        subprocess.run(["umount", str(pin)], check=True)
        pin.unlink()
        ready.unlink()


async def job(executor: Executor, name: str, root: Path, network: str, *cmd: str) -> bytes:
    mounts = [StorageVolume(source=str(Path(f).resolve()), target=f) for f in ("/usr", "/lib", "/lib64")]
    spec = OciSpec(image=f"rootfs:{root}", cmd=list(cmd)).build()
    request = ExecutionRequest(job_id="b", execution_id=name, engine_spec=spec, network=network, inputs=mounts)
    result = await executor.run(request)
    assert result.exit_code == 0, result
    return result.stdout


async def measure(rounds: int, scratch: Path) -> None:
    root = busybox_root(scratch)
    launches: dict[str, list[float]] = {}
    rates: dict[str, list[list[float]]] = {"job": [], "bare pasta": []}
    settings = Settings(engines={"oci": {"network_program": "pasta"}})
    async with contextlib.AsyncExitStack() as stack:
        kinds = {}
        for program in ("pasta", "slirp4netns"):
            settings = Settings(engines={"oci": {"network_program": program}})
            opened = Executor.open(scratch / program, policy=Policy.trusted(), settings=settings)
            kinds[program] = await stack.enter_async_context(opened)
        for turn in range(rounds + 1):
            for what, program in (("none", "pasta"), ("user, pasta", "pasta"), ("user, slirp4netns", "slirp4netns")):
                begun = time.perf_counter()
                await job(kinds[program], f"{what[:4]}-{turn}", root, what.partition(",")[0], "/bin/true")
                if turn:  # the first warms up
                    launches.setdefault(what, []).append((time.perf_counter() - begun) * 1000)
            begun = time.perf_counter()
            with bare(scratch):
                pass
            launches.setdefault("bare pasta: up and down", []).append((time.perf_counter() - begun) * 1000)
        for turn in range(rounds + 1):
            for what in list(rates) if turn % 2 else reversed(list(rates)):  # who is first has no advantage
                if what == "job":
                    said = await job(kinds["pasta"], f"rate-{turn}", root, "user", PYTHON, "-c", CLIENT)
                else:
                    with bare(scratch) as inside:
                        said = subprocess.run([*inside, PYTHON, "-c", CLIENT], capture_output=True, check=True).stdout
                if turn:
                    rates[what].append([float(word) for word in said.split()])
    for what, times in launches.items():
        print(f"{what:26} {statistics.median(times):8.1f} ms")
    for what, both in rates.items():
        whole = [rate for rate in both if rate]
        out, back = (statistics.median(column) for column in zip(*whole, strict=True))
        print(f"{what:26} {out:8.0f} MiB/s out {back:8.0f} MiB/s in, {len(both) - len(whole)} of {len(both)} reset")
    pairs = [(ours, peer) for ours, peer in zip(rates["job"], rates["bare pasta"], strict=True) if ours and peer]
    for direction, way in enumerate(("out", "in")):
        ratios = sorted(ours[direction] / peer[direction] for ours, peer in pairs)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} pairs"
        print(f"job / bare pasta, {way}: {statistics.median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, lan.host_and_outside():
        serve()
        asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20, Path(folder)))
