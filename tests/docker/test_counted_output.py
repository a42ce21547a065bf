"""The init of a container counts what its job writes, and what no daemon brought home is a gap of exactly that much."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor, LogStreamRequest, Policy, Settings, StorageVolume
from dms_executor.docker import DockerSpec
from dms_executor.docker.output import Position
from dms_executor.supervisor.binary import init_path
from dms_executor.supervisor.said import Report
from tests.dockerd import SESSION, Dockerd

from .session import opened

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace takes root")
_INSIDE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
_FULL = 300_000  # more than two pipes hold


@contextmanager
def running(
    report: Path, script: str, stdout: socket.socket | int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """A job under the init, its output in pipes that nobody reads yet."""
    report.touch()
    command = [*_INSIDE, str(init_path()), "-r", str(report), "-o", "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def waiting(source: socket.socket) -> int:
    """Bytes that are there to be read."""
    found = struct.unpack("i", fcntl.ioctl(source, termios.FIONREAD, bytes(4)))[0]
    return int(found)


def read(path: Path) -> Report:
    report = Report()
    report.take(path.read_bytes())
    return report


def over(path: Path) -> Report:
    """Once it is. Blocks."""
    deadline = time.monotonic() + 60
    while not (report := read(path)).is_over:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return report


def test_both_streams_pass_exact_and_are_counted(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8_000
    (tmp_path / "data").write_bytes(data)
    with running(tmp_path / "report", f"cat {tmp_path}/data; printf 'no newline' >&2; exit 3") as process:
        out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == (data, b"no newline", 3)
    report = read(tmp_path / "report")
    assert (report.wrote, os.waitstatus_to_exitcode(report.status or 0)) == ((len(data), 10), 3)


def test_a_job_is_over_though_nobody_has_taken_its_output(tmp_path: Path) -> None:
    """As without an init in between: what a pipe holds keeps nobody from ending. And it is not lost."""
    with running(tmp_path / "report", "head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2") as process:
        report = over(tmp_path / "report")
        assert report.wrote == (60_000, 60_000)
        out, err = process.communicate(timeout=60)
    assert (len(out), len(err), process.returncode) == (60_000, 60_000, 0)


def test_a_job_waits_for_whoever_takes_its_output(tmp_path: Path) -> None:
    with running(tmp_path / "report", f"head -c {_FULL} /dev/zero; touch {tmp_path}/done") as process:
        assert process.stdout is not None
        got = len(process.stdout.read(10_000))
        assert not (tmp_path / "done").exists()
        got += len(process.stdout.read())
    assert got == _FULL
    assert read(tmp_path / "report").wrote == (_FULL, 0)


def test_an_output_that_cannot_be_spliced_holds_up_no_signal(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
    fcntl.fcntl(theirs, fcntl.F_SETFL, fcntl.fcntl(theirs, fcntl.F_GETFL) | os.O_APPEND)  # which splice(2) refuses
    script = f"trap 'touch {tmp_path}/told; exit 5' TERM; cat /dev/zero & wait"
    with ours, running(tmp_path / "report", script, theirs) as process:
        theirs.close()
        deadline = time.monotonic() + 60
        while waiting(ours) < 8_000:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (init,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(init), signal.SIGTERM)
        while not (tmp_path / "told").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        got = 0
        while part := ours.recv(1 << 16):
            got += len(part)
        assert process.wait(60) == 5
    assert read(tmp_path / "report").wrote == (got, 0)


def test_what_a_job_leaves_is_gone_before_it_is_counted(tmp_path: Path) -> None:
    more = "setsid sh -c 'while echo more{0}; do touch {1}; done' &"
    marks = [tmp_path / "out", tmp_path / "err"]
    script = f"{more.format('', marks[0])} {more.format(' >&2', marks[1])}"
    script += f" until [ -e {marks[0]} ] && [ -e {marks[1]} ]; do sleep 0.02; done"
    with running(tmp_path / "report", script) as process:
        out, err = process.communicate(timeout=60)
    assert out
    assert err
    assert read(tmp_path / "report").wrote == (len(out), len(err))


def test_a_job_is_told_that_nobody_reads(tmp_path: Path) -> None:
    script = f"trap '' PIPE; while echo more; do :; done 2>/dev/null; touch {tmp_path}/told"
    with running(tmp_path / "report", script) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        over(tmp_path / "report")
    assert (tmp_path / "told").exists()


def test_a_position_knows_what_is_missing() -> None:
    position = Position()
    position.after("stdout", b"four", 0.0)
    assert position.missing((4, 0)) == {}
    assert position.missing((10, 3)) == {"stderr": 3, "stdout": 6}
    position.lose({"stdout": 6, "stderr": 1})
    again = Position(position.cursor)
    assert again.missing((10, 3)) == {"stderr": 2}
    assert again.missing((1, 1)) == {}
    assert Position(b"5 0 0 - 0 0").missing((7, 0)) == {"stdout": 2}, "a cursor of an earlier release"


async def test_what_a_terminal_shows_is_counted(tmp_path: Path, rootfs: Path) -> None:
    async with opened(tmp_path / "state", rootfs) as bench:
        result = await bench.run("sh", "-c", "echo a; echo b >&2; exit 4", tty=True)
    assert (result.exit_code, result.stdout) == (4, b"a\r\nb\r\n")


_LAST = 5_000
_SCRIPT = f"echo ready; while [ ! -e /in/go ]; do sleep 0.02; done; head -c {_LAST} /dev/zero; echo e >&2; exit 7"


def _reports(folder: Path) -> list[Path]:
    (folder / "in" / "go").touch()
    return list((folder / "state" / "executions").glob("*/docker/report"))


@pytest.mark.parametrize("daemon", [("--live-restore",)], indirect=True, ids=["live-restore"])
@pytest.mark.parametrize("who", ["who followed it", "who comes later"])
async def test_what_no_daemon_read_is_a_gap_of_that_much(daemon: Dockerd, tmp_path: Path, who: str) -> None:
    (tmp_path / "in").mkdir()
    settings = Settings(engines={"docker": {"socket": str(daemon.socket)}})
    volume = StorageVolume(source=str(tmp_path / "in"), target="/in")
    spec = DockerSpec(image=SESSION.image, cmd=["sh", "-c", _SCRIPT]).build()
    request = ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec, inputs=[volume])

    async def without_a_daemon() -> None:
        await asyncio.to_thread(daemon.stop, signal.SIGKILL)
        (report,) = await asyncio.to_thread(_reports, tmp_path)
        assert (await asyncio.to_thread(over, report)).wrote == (6 + _LAST, 2)

    async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=settings) as executor:
        await executor.start(request)
        async with await executor.get_log_stream(LogStreamRequest(execution_id="e", follow=True)) as stream:
            assert await anext(stream) == b"ready\n"
        if who == "who followed it":
            await without_a_daemon()
            await asyncio.to_thread(daemon.start)
            await executor.wait("e")
    if who == "who comes later":
        await without_a_daemon()
        await asyncio.to_thread(daemon.start)
    async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=settings) as executor:
        result = await executor.wait("e")
        assert (result.exit_code, result.reason, result.stdout) == (7, "exited", b"ready\n")
        async with await executor.get_log_stream(LogStreamRequest(execution_id="e")) as stream:
            assert await stream.read() == b"ready\n"
            assert stream.gaps == {"stdout": _LAST, "stderr": 2}
