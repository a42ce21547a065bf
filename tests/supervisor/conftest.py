"""Real shims, inits and jobs in a folder of the test's own; no container is needed for them."""

from __future__ import annotations

import asyncio
import os
import select
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from blockbuster import blockbuster_ctx

from dms_executor.supervisor import ShimSpec, binary, spawning


class Entry(NamedTuple):
    kind: int
    stamp: int
    data: bytes


class Segment(NamedTuple):
    number: int
    stdout_before: int
    stderr_before: int
    entries: list[Entry]


class Log(NamedTuple):
    segments: list[Segment]

    def data(self, kind: int) -> bytes:
        return b"".join(e.data for s in self.segments for e in s.entries if e.kind == kind)

    def lost(self, stream: int) -> int:
        gaps = [e.data for s in self.segments for e in s.entries if e.kind == 3]
        return sum(struct.unpack("<Q", gap[8:16])[0] for gap in gaps if gap[0] == stream)

    @property
    def whole(self) -> bool:
        return bool(self.segments) and bool(self.segments[-1].entries) and self.segments[-1].entries[-1].kind == 4


def read_log_folder(folder: Path) -> Log:
    segments = []
    for path in sorted((folder / "log").glob("[0-9]" * 10)):
        raw = path.read_bytes()
        assert raw[:8] == b"DMSLOG\x00\x01", f"{path.name} has no header"
        number, out, err = struct.unpack("<QQQ", raw[8:32])
        entries, at = [], 64
        while at < len(raw):
            length, kind, stamp = struct.unpack("<IB3xQ", raw[at : at + 16])
            assert at + 16 + length <= len(raw), f"torn entry in {path.name}"
            entries.append(Entry(kind, stamp, raw[at + 16 : at + 16 + length]))
            at += 16 + length
        segments.append(Segment(number, out, err, entries))
    return Log(segments)


@pytest.fixture(autouse=True, scope="session")
def _programs() -> None:
    """DMS_TEST_BIN: run the same tests with other builds, such as one with sanitizers."""
    other = os.environ.get("DMS_TEST_BIN")
    if other:
        binary._FOLDER = Path(other)


@pytest.fixture(autouse=True)
def _nothing_blocks(_programs: None) -> Iterator[None]:
    if not spawning._FOUND:
        spawning._FOUND.append(binary.shim_path())
    with blockbuster_ctx("dms_executor"):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "execution"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def init() -> str:
    return str(binary.init_path())


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends, or has ended, in time. Blocking."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    try:
        return bool(poll.poll(int(seconds * 1000)))
    finally:
        os.close(handle)


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended meanwhile
    return found


class Words:
    """A fifo that a job writes a line to when it is as far as a test wants it; no polling."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    async def come(self) -> str:
        async with asyncio.timeout(20):
            return (await asyncio.to_thread(self.path.read_text)).strip()


@pytest.fixture
def words(tmp_path: Path) -> Words:
    return Words(tmp_path / "words")


@pytest.fixture
def read_log() -> Callable[[Path], Log]:
    return read_log_folder


@pytest.fixture
def job(init: str) -> Callable[..., ShimSpec]:
    """A job that runs straight under the init, which stands for runtime and pid 1 at once."""

    def make(*command: str, **options: Any) -> ShimSpec:
        defaults: dict[str, Any] = {"log_cap": 1 << 30, "segment": 64 << 20, "grace": 5.0}
        return ShimSpec(argv=[init, "--", *command], environment={"PATH": "/usr/bin:/bin"}, **{**defaults, **options})

    return make


@pytest.fixture
def detached(init: str) -> Callable[..., ShimSpec]:
    """A job in a pid namespace whose launcher leaves it behind, as a runtime's detached mode does."""

    def make(script: str, **options: Any) -> ShimSpec:
        launch = f'unshare --pid --fork "{init}" -- sh -c "$JOB" & exit 0'
        defaults: dict[str, Any] = {"log_cap": 1 << 30, "segment": 64 << 20, "grace": 5.0}
        environment = {"PATH": "/usr/bin:/bin", "JOB": script}
        return ShimSpec(argv=["/bin/sh", "-c", launch], environment=environment, **{**defaults, **options})

    return make
