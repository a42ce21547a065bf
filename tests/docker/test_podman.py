"""What is Podman's own: its socket, its log file, and a service that goes away while jobs run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dms_executor import ExecutionRequest, Executor, LogStreamRequest, Policy, Settings, StorageVolume
from dms_executor.docker import PodmanSpec
from dms_executor.docker.address import podman_path
from dms_executor.docker.client import ApiError, Client
from dms_executor.docker.logfile import read_log
from dms_executor.docker.state import look_at
from dms_executor.engine import Chunk
from dms_executor.errors import EngineUnavailable, NotSupported
from dms_executor.logs.inotify import Watcher
from tests.daemon import running
from tests.podmand import SESSION, Podman


def test_the_socket_is_found_as_podmans_client_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTAINER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/docker.sock")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert podman_path(None) == "/run/podman/podman.sock"
    own = tmp_path / "podman" / "podman.sock"
    own.parent.mkdir()
    own.touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert podman_path(None) == str(own)
    monkeypatch.setenv("CONTAINER_HOST", "unix:///run/mine.sock")
    assert podman_path(None) == "/run/mine.sock"
    assert podman_path("/run/named.sock") == "/run/named.sock"
    monkeypatch.setenv("CONTAINER_HOST", "ssh://root@192.0.2.1/run/podman/podman.sock")
    with pytest.raises(EngineUnavailable, match="not this host's"):
        podman_path(None)


def _line(second: int, stream: str, flag: str, data: bytes) -> bytes:
    return b"2026-11-28T05:05:%02d.374467731+00:00 %b %b %b\n" % (second, stream.encode(), flag.encode(), data)


async def _read(path: Path, after: bytes | None = None) -> list[Chunk]:
    over = asyncio.Event()
    over.set()
    async with Watcher() as watcher:
        return [chunk async for chunk in read_log(path, after, watcher, over)]


async def test_a_log_file_is_read_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "ctr.log"
    path.write_bytes(
        _line(1, "stdout", "F", b"\xff\xfe x\r")
        + _line(1, "stdout", "P", b"no newline ")
        + _line(2, "stderr", "F", b"")
        + _line(3, "stdout", "P", b"prompt> ")
    )
    chunks = await _read(path)
    assert [(chunk.stream, chunk.data) for chunk in chunks] == [
        ("stdout", b"\xff\xfe x\r\nno newline "),
        ("stderr", b"\n"),
        ("stdout", b"prompt> "),
    ]
    assert [chunk.time.second for chunk in chunks] == [1, 2, 3]
    for number, chunk in enumerate(chunks):
        assert await _read(path, chunk.cursor) == chunks[number + 1 :], "the cursor repeats or misses something"


async def test_a_log_file_that_was_replaced_meanwhile_is_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "ctr.log"
    path.write_bytes(_line(1, "stdout", "F", b"old"))
    cursor = (await _read(path))[0].cursor
    path.write_bytes(_line(2, "stdout", "F", b"new") + _line(3, "stdout", "F", b"newer"))
    (chunk,) = await _read(path, cursor)
    assert (chunk.data, chunk.lost) == (b"new\nnewer\n", {"stdout": 1, "stderr": 1})


async def test_a_log_file_that_is_replaced_while_it_is_followed_is_read_out_first(tmp_path: Path) -> None:
    path, over = tmp_path / "ctr.log", asyncio.Event()
    path.write_bytes(_line(1, "stdout", "F", b"0"))
    async with Watcher() as watcher, asyncio.timeout(30):
        following = read_log(path, None, watcher, over)
        assert (await anext(following)).data == b"0\n"
        with path.open("ab") as file:
            file.write(_line(2, "stdout", "P", b"1,"))
        new = tmp_path / "ctr.log.tmp"
        new.write_bytes(_line(3, "stdout", "F", b"2"))
        new.rename(path)
        over.set()
        rest = [chunk async for chunk in following]
    assert [(chunk.data, chunk.lost) for chunk in rest] == [(b"1,", {}), (b"2\n", {})]


class _Answers(Client):
    """A service that answers so, in turn."""

    def __init__(self, *answers: ApiError | dict[str, Any]) -> None:
        super().__init__("/nowhere")
        self._answers = list(answers)

    async def get(self, path: str, *, deadline: float = 0.0, **query: str) -> Any:
        answer = self._answers.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer


async def test_a_container_whose_process_ends_as_it_is_looked_at_is_looked_at_again() -> None:
    passing = ApiError("read /proc/28779/cgroup: no such process", status=500)
    found = await look_at(_Answers(passing, passing, {"Id": "c", "State": {"Status": "exited"}}), "c")
    assert found is not None
    assert found.has_ended
    gone = ApiError("no container with ID c found in database: no such container", status=500)
    assert await look_at(_Answers(passing, gone), "c") is None
    with pytest.raises(ApiError, match="disk"):
        await look_at(_Answers(ApiError("disk full", status=500)), "c")


@pytest.fixture
def service(rootfs: Path) -> Iterator[Podman]:
    """One of the test's own, to be killed."""
    SESSION.needed()
    with tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True) as folder:
        with running(Podman(Path(folder))) as ready:
            ready.take(rootfs, SESSION.image)
            yield ready


async def test_jobs_and_their_output_go_on_without_the_service(service: Podman, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    settings = Settings(engines={"podman": {"socket": str(service.socket)}})
    script = "echo ready; i=0; while [ ! -e /in/go ]; do i=$((i+1)); echo $i; sleep 0.05; done; echo last $i; exit 7"
    job = PodmanSpec(image=SESSION.image, cmd=["sh", "-c", script]).build()
    volume = StorageVolume(source=str(tmp_path / "in"), target="/in")
    async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=settings) as executor:
        names = ["e0", "e1"]
        for name in names:
            request = ExecutionRequest(job_id="j", execution_id=name, engine_spec=job, inputs=[volume])
            await executor.start(request)
            # Where its log lies is the service's to say, once; from then on nobody needs that.
            async with await executor.get_log_stream(LogStreamRequest(execution_id=name, follow=True)) as stream:
                assert await anext(aiter(stream))
        await asyncio.to_thread(service.stop, signal.SIGKILL)
        async with await executor.get_log_stream(LogStreamRequest(execution_id="e0", follow=True)) as stream:
            heard = b""
            async for chunk in stream:
                heard += chunk
                if b"\n5\n" in heard:
                    break
        assert await executor.get_status("e0") == "running"
        await asyncio.to_thread(service.start)
        (tmp_path / "in" / "go").touch()
        for name in names:
            result = await executor.wait(name)
            assert (result.exit_code, result.reason) == (7, "exited"), result
            numbers = result.stdout.decode().split("\n")
            last = int(numbers[-2].split()[1])
            assert numbers == ["ready", *map(str, range(1, last + 1)), f"last {last}", ""]
        await executor.cleanup()
    assert service.containers() == []


class _Lingering(Podman):
    """As the service is where nobody has set it otherwise."""

    delay = 300

    def clear(self) -> None:
        """The conmons of further commands outlive their container by as much."""
        super().clear()
        for pid in self.conmons():
            os.kill(pid, signal.SIGKILL)

    def conmons(self) -> list[int]:
        """Those of this service."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if self._has(path)]

    def _has(self, cmdline: Path) -> bool:
        with contextlib.suppress(OSError):
            words = cmdline.read_bytes()
            return words.startswith(b"/usr/bin/conmon\0") and bytes(self.folder) in words
        return False


async def test_a_conmon_that_stays_for_each_command_is_in_nobodys_way(tmp_path: Path, rootfs: Path) -> None:
    SESSION.needed()
    job = PodmanSpec(image=SESSION.image, cmd=["sh", "-c", "trap 'exit 5' TERM; sleep 1000 & wait"]).build()
    with tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True) as folder:
        with running(_Lingering(Path(folder))) as service:
            service.take(rootfs, SESSION.image)
            settings = Settings(engines={"podman": {"socket": str(service.socket)}})
            async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=settings) as executor:
                await executor.start(ExecutionRequest(job_id="j", execution_id="e", engine_spec=job))
                assert (await executor.exec("e", ["sh", "-c", "exit 3"])).exit_code == 3
                # It runs once its first line is taken.
                script = "read word; kill -9 $PPID; exec sleep 1000"
                killed = await executor.exec("e", ["sh", "-c", script], stdin=b"go\n")
                assert killed.exit_code == 137
                assert len(service.conmons()) > 2, "they do not stay any more: docs/docker.md says otherwise"
                await executor.cancel("e")
                assert (await executor.wait("e")).exit_code == 5
                await executor.remove("e")
            assert service.containers() == []


async def test_a_path_that_would_be_another_option_is_refused(tmp_path: Path, rootfs: Path) -> None:
    SESSION.needed()
    source = tmp_path / "a,readonly=false"
    source.mkdir()
    job = PodmanSpec(image=SESSION.with_image(rootfs), cmd=["true"]).build()
    volume = StorageVolume(source=str(source), target="/in")
    request = ExecutionRequest(job_id="j", execution_id="e", engine_spec=job, inputs=[volume])
    settings = Settings(engines={"podman": {"socket": str(SESSION.daemon().socket)}})
    async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=settings) as executor:
        with pytest.raises(NotSupported, match=r"\$\.inputs\[0\]\.source"):
            await executor.run(request)
