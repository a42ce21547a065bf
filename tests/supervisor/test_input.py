"""The job's input in the shim: what clients give it, the hostile ones too."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dms_executor.errors import ExecutionNotRunning, StartFailed
from dms_executor.supervisor import ShimSpec, frames
from dms_executor.supervisor.attachment import attach
from dms_executor.supervisor.shim import Shim, create

from .conftest import Log, Words
from .test_control_socket import dial, hello

Job = Callable[..., ShimSpec]
ReadLog = Callable[[Path], Log]


async def going(folder: Path, spec: ShimSpec) -> Shim:
    shim = await create(folder, spec)
    await shim.go()
    return shim


async def killed(shim: Shim) -> None:
    async with asyncio.timeout(10):
        await shim.stop(signal.SIGKILL, 0)
        assert await shim.ended()


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def answered(client: socket.socket, kind: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> tuple[int, bytes]:
    """Type and payload of the one frame that answers."""
    socket.send_fds(client, [frames.pack(kind, payload)], fds)
    data = client.recv(2000)
    return data[4], data[8:]


async def test_a_descriptor_that_is_no_pipe_is_refused(folder: Path, job: Job, tmp_path: Path) -> None:
    shim = await going(folder, job("sleep", "60", input="pipe"))

    def attack() -> list[int]:
        answers = []
        (tmp_path / "file").write_bytes(b"x")
        for path, flags in ((tmp_path / "file", os.O_RDONLY), (tmp_path, os.O_RDONLY), ("/dev/zero", os.O_RDONLY)):
            fd = os.open(path, flags)
            with dial(folder) as client:
                answers.append(answered(client, frames.ATTACH, fds=(fd,))[0])
            os.close(fd)
        with pipe() as (reading, writing), dial(folder) as client:
            answers.append(answered(client, frames.ATTACH, fds=(writing,))[0])
            answers.append(answered(client, frames.ATTACH, fds=(reading, reading))[0])
            answers.append(answered(client, frames.ATTACH, fds=(reading,))[0])
            answers.append(answered(client, frames.ATTACH, fds=(reading,))[0])
        return answers

    refused = frames.ERROR
    assert await asyncio.to_thread(attack) == [refused] * 5 + [frames.ATTACHED, refused]
    await killed(shim)


async def test_a_client_cannot_make_the_shim_wait(folder: Path, job: Job) -> None:
    shim = await going(folder, job("sleep", "60", input="pipe"))

    def attack() -> bool:
        with pipe() as (reading, writing), dial(folder) as client:
            kind, _ = answered(client, frames.ATTACH, fds=(reading,))
            # Its own end of the same pipe blocks, and takes away what the shim was woken for.
            os.set_blocking(reading, True)
            for _ in range(200):
                os.write(writing, b"x")
                os.set_blocking(reading, False)
                with suppress(BlockingIOError):
                    os.read(reading, 100)
                os.set_blocking(reading, True)
            return kind == frames.ATTACHED and hello(client)

    assert await asyncio.to_thread(attack)
    await killed(shim)


async def test_a_client_that_keeps_its_end_is_forgotten_with_the_input(folder: Path, job: Job) -> None:
    shim = await going(folder, job("cat", input="pipe"))

    def attack() -> None:
        with pipe() as (reading, writing), dial(folder) as client, dial(folder) as other:
            assert answered(client, frames.ATTACH, fds=(reading,))[0] == frames.ATTACHED
            assert answered(other, frames.CLOSE_INPUT)[0] == frames.OK
            os.write(writing, b"too late")  # nobody reads it, and nobody is woken
            assert client.recv(2000)[4] == frames.ENDED

    await asyncio.to_thread(attack)
    assert await shim.ended()


async def test_sixty_four_inputs_and_no_more(folder: Path, job: Job, read_log: ReadLog, words: Words) -> None:
    # The job does not read before it is told to: no input is done, though all of their clients leave.
    script = f"trap 'exec cat' USR1; echo up >{words}; while :; do sleep 0.05; done"
    shim = await going(folder, job("sh", "-c", script, input="pipe"))
    assert await words.come() == "up"

    def crowd() -> list[int]:
        answers = []
        for _ in range(70):
            reading, writing = os.pipe()
            with dial(folder) as client:
                answers.append(answered(client, frames.ATTACH, fds=(reading,))[0])
                if answers[-1] == frames.ATTACHED:
                    os.write(writing, b"x" * (1 << 16))
            os.close(reading)
            os.close(writing)
        with dial(folder) as client:
            assert answered(client, frames.CLOSE_INPUT)[0] == frames.OK
        return answers

    answers = await asyncio.to_thread(crowd)
    # The first two's bytes are in the job's own pipe and in the shim.
    assert 63 <= answers.count(frames.ATTACHED) <= 66
    assert answers[-1] == frames.ERROR
    await shim.signal(signal.SIGUSR1)
    async with asyncio.timeout(20):
        assert await shim.ended()
    assert read_log(folder).data(1) == b"x" * (answers.count(frames.ATTACHED) << 16), "what was written counts"


async def test_who_goes_on_writing_cannot_keep_the_input_from_its_end(folder: Path, job: Job) -> None:
    shim = await going(folder, job("sh", "-c", "exec cat >/dev/null", input="pipe"))
    flood = await attach(folder)
    flooding = asyncio.create_task(flood.write(bytes(1 << 30)))
    other = await attach(folder)
    other.close_stdin()
    async with asyncio.timeout(20):
        assert await shim.ended()
        with pytest.raises(ExecutionNotRunning):
            await flooding
    await flood.aclose()
    await other.aclose()


async def test_an_input_whose_job_does_not_read_wakes_nobody(folder: Path, job: Job) -> None:
    shim = await going(folder, job("sleep", "60", input="pipe"))
    one = await attach(folder)
    writing = asyncio.create_task(one.write(bytes(1 << 22)))
    await asyncio.sleep(0.3)
    before = await asyncio.to_thread(_processor_time, shim.pid)
    await asyncio.sleep(1)
    assert await asyncio.to_thread(_processor_time, shim.pid) == before
    writing.cancel()
    await one.aclose()
    await killed(shim)


def _processor_time(pid: int) -> int:
    """In ticks: proc_pid_stat(5), fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_frames_for_an_input_that_is_not_there(folder: Path, job: Job) -> None:
    shim = await going(folder, job("sleep", "60"))

    def ask() -> None:
        with pipe() as (reading, _), dial(folder) as client:
            assert answered(client, frames.ATTACH, fds=(reading,)) == (frames.ATTACHED, struct.pack("<I", 0))
            assert answered(client, frames.CLOSE_INPUT)[0] == frames.OK
            kind, payload = answered(client, frames.RESIZE, struct.pack("<II", 80, 24))
            assert (kind, struct.unpack_from("<I", payload)[0]) == (frames.ERROR, errno.ENOTTY)

    await asyncio.to_thread(ask)
    await killed(shim)


@pytest.mark.parametrize("size", [(0, 24), (80, 0), (65536, 24), (80, 2**32 - 1)])
async def test_no_size_of_a_terminal(folder: Path, init: str, job: Job, size: tuple[int, int]) -> None:
    spec = job("sleep", "60", input="terminal")
    shim = await going(folder, msgspec.structs.replace(spec, argv=[init, "-t", "80x24", "--", "sleep", "60"]))

    def ask() -> None:
        with dial(folder) as client:
            kind, payload = answered(client, frames.RESIZE, struct.pack("<II", *size))
            assert (kind, struct.unpack_from("<I", payload)[0]) == (frames.ERROR, errno.EINVAL)
            assert answered(client, frames.CLOSE_INPUT)[0] == frames.ERROR, "a terminal's input does not end"

    await asyncio.to_thread(ask)
    await killed(shim)


async def test_before_the_go_nobody_attaches(folder: Path, job: Job) -> None:
    shim = await create(folder, job("sleep", "60", input="pipe"))
    with pytest.raises(ExecutionNotRunning, match="does not run"):
        await attach(folder)
    shim.close()


@pytest.mark.parametrize("options", [{"report": False}, {"stdin": 0}])
async def test_a_terminal_that_nobody_could_make(folder: Path, job: Job, options: dict[str, Any]) -> None:
    with pytest.raises(StartFailed, match="terminal"):
        await create(folder, job("true", input="terminal", **options))


async def test_an_init_that_hands_over_no_terminal_is_a_failed_start(folder: Path, job: Job) -> None:
    script = (
        "import array, os, socket, time\n"
        "report = socket.socket(fileno=3)\n"
        "report.send(bytes(4) + b'\\x63' + bytes(3))\n"
        "fd = os.open('/dev/zero', os.O_RDONLY)\n"
        "socket.send_fds(report, [bytes(4) + b'\\x68' + bytes(3)], [fd])\n"
        "time.sleep(60)\n"
    )
    spec = msgspec.structs.replace(job("true", input="terminal"), argv=[sys.executable, "-c", script])
    shim = await create(folder, spec)
    async with asyncio.timeout(20):
        with pytest.raises(StartFailed, match="terminal did not arrive"):
            await shim.go()
        assert await shim.ended()
