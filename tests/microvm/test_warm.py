"""Snapshots of booted guests: made once, kept within bounds, given up where they fail. No guest boots here."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from dms_executor.cgroups import detect
from dms_executor.errors import StartFailed
from dms_executor.images import ImageConfig
from dms_executor.microvm import warm
from dms_executor.microvm.booting import booted
from dms_executor.microvm.launch import Monitor
from dms_executor.microvm.plan import Plan
from dms_executor.microvm.settings import VmSettings, vm_memory
from dms_executor.microvm.warm import Template, Templates
from dms_executor.qemu.command import Machine
from dms_executor.qemu.host import Host
from dms_executor.qemu.template import template_of
from dms_executor.types import Progress

_DEADLINE = 60.0


class Taker:
    """Counts how often a snapshot was taken, and writes `data` each time."""

    def __init__(self, data: bytes = b"state", error: Exception | None = None) -> None:
        self.times = 0
        self._data = data
        self._error = error

    async def __call__(self, fd: int, folder: Path) -> None:
        self.times += 1
        assert await asyncio.to_thread(folder.is_dir)
        if self._error is not None:
            raise self._error
        await asyncio.to_thread(os.write, fd, self._data)


def _report(progress: Progress) -> None:
    assert progress.what


async def test_two_that_begin_at_once_take_it_once(tmp_path: Path) -> None:
    take = Taker()
    template = Template(key="shape", take=take)
    here, there = Templates(tmp_path, "qemu"), Templates(tmp_path, "qemu")
    found = await asyncio.gather(here.of(template, _report), there.of(template, _report))
    assert found == [str(tmp_path / "shape")] * 2
    assert take.times == 1
    assert [path.name for path in tmp_path.iterdir()] == ["shape"]
    assert (tmp_path / "shape").stat().st_mode & 0o777 == 0o600


async def test_of_many_shapes_at_once_few_are_made_at_once(tmp_path: Path) -> None:
    (tmp_path / "warm").mkdir(mode=0o755)
    now, most = 0, 0

    async def take(fd: int, folder: Path) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(20):
            await asyncio.sleep(0)
        now -= 1

    templates = Templates(tmp_path / "warm", "qemu")
    found = await asyncio.gather(*(templates.of(Template(key=f"k{n}", take=take), _report) for n in range(6)))
    assert len({*found} - {None}) == 6
    assert 1 <= most <= 2
    assert (tmp_path / "warm").stat().st_mode & 0o777 == 0o700, "others read what the guests have in memory"


async def test_one_that_cannot_be_made_is_said_once_and_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    take = Taker(error=StartFailed("no room"))
    template = Template(key="shape", take=take)
    templates = Templates(tmp_path, "qemu")
    assert await templates.of(template, _report) is None
    assert await templates.of(template, _report) is None
    assert take.times == 1
    assert [record.message for record in caplog.records] == [
        "no snapshot of a booted guest can be made, jobs boot: no room"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["shape.refused"]


async def test_a_job_that_had_to_boot_throws_its_snapshot_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    templates, take, folder = Templates(tmp_path / "warm", "qemu"), Taker(), tmp_path / "execution"
    folder.mkdir()
    path = await templates.of(Template(key="shape", take=take), _report)
    assert path is not None
    await templates.look(path, folder, "id")
    assert Path(path).exists()
    (folder / "cold").write_text("load of migration failed")
    await templates.look(path, folder, "id")
    assert not Path(path).exists()
    assert "load of migration failed" in caplog.text
    assert await templates.of(Template(key="shape", take=take), _report) is None


async def test_the_least_recently_used_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_MOST", 2)
    monkeypatch.setattr(warm, "_uptime", time.time)
    templates, take = Templates(tmp_path, "qemu"), Taker()
    for number, key in enumerate("abc"):
        await templates.of(Template(key=key, take=take), _report)
        os.utime(tmp_path / key, (1000 + number, 1000 + number))
    await templates.of(Template(key="b", take=take), _report)  # used now
    await templates.of(Template(key="d", take=take), _report)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "d"]


async def test_what_a_killed_maker_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "other.making").touch()
    (tmp_path / "other.work").mkdir()
    (tmp_path / "shape.making").touch(0o600)
    (tmp_path / "shape.making").write_bytes(b"half")
    (tmp_path / "shape.work").mkdir()
    (tmp_path / "shape.work" / "console").touch()
    path = await Templates(tmp_path, "qemu").of(Template(key="shape", take=Taker(b"whole")), _report)
    assert path is not None
    assert Path(path).read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["shape"]


async def test_one_of_an_earlier_boot_goes_and_a_refusal_from_the_future_does_not_count(tmp_path: Path) -> None:
    templates, take = Templates(tmp_path, "qemu"), Taker()
    await templates.of(Template(key="old", take=take), _report)
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    os.utime(tmp_path / "old", (booted - 60, booted - 60))
    (tmp_path / "new.refused").touch()
    os.utime(tmp_path / "new.refused", (time.time() + 5000, time.time() + 5000))
    assert await templates.of(Template(key="new", take=take), _report) == str(tmp_path / "new")
    assert not (tmp_path / "old").exists()


class Held(Taker):
    """A making that waits for `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self, fd: int, folder: Path) -> None:
        self.begun.set()
        await self.go.wait()
        await super().__call__(fd, folder)


async def test_a_making_outlives_the_job_that_asked_for_it(tmp_path: Path) -> None:
    take, templates = Held(), Templates(tmp_path, "qemu")
    template = Template(key="shape", take=take)
    job = asyncio.ensure_future(templates.of(template, _report))
    await take.begun.wait()
    job.cancel()
    await asyncio.wait([job])
    assert job.cancelled()
    assert await templates.of(template, _report, 0.01) is None, "a job with little time waits for it no longer"
    take.go.set()
    assert await templates.of(template, _report) == str(tmp_path / "shape")
    assert take.times == 1


async def test_a_making_ends_with_its_executor(tmp_path: Path) -> None:
    take, templates = Held(), Templates(tmp_path, "qemu")
    job = asyncio.ensure_future(templates.of(Template(key="shape", take=take), _report))
    await take.begun.wait()
    await templates.close()
    assert await job is None
    assert list(tmp_path.iterdir()) == []


async def test_a_maker_that_stands_still_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "_DEADLINE", 0.2)
    with (tmp_path / "shape.making").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        templates, take = Templates(tmp_path, "qemu"), Taker()
        assert await templates.of(Template(key="shape", take=take), _report) is None
        await templates.close()
        assert not (tmp_path / "shape.refused").exists()
        (tmp_path / "shape.work").mkdir()
        await templates.collect(0)
        assert (tmp_path / "shape.work").exists(), "its maker lives"
    await templates.collect(0)
    assert take.times == 0
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_or_a_file_that_others_may_write_to_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    take, folder = Taker(), tmp_path / "warm"
    path = await Templates(folder, "qemu").of(Template(key="shape", take=take), _report)
    assert path is not None
    fd = warm.open_snapshot(path)
    assert fd is not None
    os.close(fd)
    Path(path).chmod(0o620)
    assert warm.open_snapshot(path) is None
    folder.chmod(0o770)
    assert await Templates(folder, "qemu").of(Template(key="other", take=take), _report) is None
    assert "alone may write to" in caplog.text
    assert await Templates(folder, "qemu").collect(0) == 0
    assert [path.name for path in folder.iterdir()] == ["shape"]


async def test_a_folder_that_is_none_and_an_error_that_is_nobodys_cost_no_job(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert await Templates(tmp_path / "file", "qemu").of(Template(key="shape", take=Taker()), _report) is None
    take = Taker(error=ValueError("no frame"))
    assert await Templates(tmp_path, "qemu").of(Template(key="shape", take=take), _report) is None
    await Templates(tmp_path / "file", "qemu").look(str(tmp_path / "file" / "shape"), tmp_path / "file", "id")


async def test_what_lies_in_the_users_folder_stays(tmp_path: Path) -> None:
    for name in ("old", "half.making", "letter.txt"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / "thesis.work").mkdir()
    templates = Templates(warm.own_folder(str(tmp_path), tmp_path / "cache"), "qemu")
    path = await templates.of(Template(key="shape", take=Taker()), _report)
    assert path == str(tmp_path / "dms-executor-warm" / "shape")
    await templates.collect(0)
    assert not Path(path).exists()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"old", "half.making", "letter.txt", "thesis.work", "dms-executor-warm"}


async def test_one_used_lately_is_not_given_up_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_MOST", 2)
    templates, take = Templates(tmp_path, "qemu"), Taker()
    for key in "abc":
        await templates.of(Template(key=key, take=take), _report)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


_MAKER = """
import asyncio, sys
from pathlib import Path
from dms_executor.microvm.booting import booted
from dms_executor.microvm.launch import Monitor

async def main(folder):
    monitor = Monitor(argv=[sys.executable, "-S", "-c", sys.argv[2]])
    async with booted(folder, folder, monitor):
        print((folder / "pid").read_text(), flush=True)
        await asyncio.sleep(1000)

asyncio.run(main(Path(sys.argv[1])))
"""
_GREETS = """
import os, struct, time
open("pid", "w").write(str(os.getpid()))
for _ in range(2):
    os.write(3, struct.pack("<IBBHI", 4, 128, 0, 0, 1))
    os.read(3, 8)
time.sleep(1000)
"""


async def test_a_guest_dies_with_a_maker_that_is_killed(tmp_path: Path) -> None:
    maker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _MAKER, str(tmp_path), _GREETS, stdout=asyncio.subprocess.PIPE
    )
    assert maker.stdout is not None
    monitor = os.pidfd_open(int(await asyncio.wait_for(maker.stdout.readline(), _DEADLINE)))
    try:
        maker.send_signal(signal.SIGKILL)
        await maker.wait()
        gone = await asyncio.to_thread(select.select, [monitor], [], [], _DEADLINE)
        assert gone[0], "the monitor outlived its maker"
    finally:
        os.close(monitor)


async def test_why_a_guest_did_not_boot_is_said(tmp_path: Path) -> None:
    monitor = Monitor(argv=[sys.executable, "-S", "-c", "import sys; sys.exit('no such machine')"])
    with pytest.raises(StartFailed, match="no such machine"):
        async with booted(tmp_path, tmp_path, monitor):
            pass


def test_another_kernel_or_shape_is_another_snapshot(tmp_path: Path) -> None:
    kernel, program = tmp_path / "vmlinux", tmp_path / "qemu"
    kernel.write_bytes(b"kernel")
    program.touch()
    plan = Plan(image=ImageConfig(), kernel=str(kernel), initrd=str(tmp_path / "state" / "digest"))
    host = Host(program=str(program), accelerator="tcg", why="", cgroups=detect())
    machine = Machine(program=str(program), accelerator="tcg", memory=512 << 20, cpu=None, cpus=2, tsc_khz=1)

    def key(of: Machine = machine, writable: tuple[bool, ...] = (False,), has_network: bool = False) -> str:
        return template_of(of, host, plan, writable, has_network, tmp_path / "state").key

    other = Machine(program=str(program), accelerator="tcg", memory=640 << 20, cpu=None, cpus=2, tsc_khz=1)
    again = Machine(program=str(program), accelerator="tcg", memory=512 << 20, cpu=None, cpus=2, tsc_khz=2)
    first = key()
    assert key(again) == first, "a rate that is measured anew in each process is no other shape"
    kernel.with_name("new").write_bytes(b"mended")
    kernel.with_name("new").rename(kernel)
    keys = [first, key(), key(other), key(writable=(False, True)), key(writable=(False, False)), key(has_network=True)]
    assert len(set(keys)) == len(keys)


def test_jobs_of_nearly_the_same_size_have_guests_of_one_shape() -> None:
    settings = VmSettings(memory=512)
    assert vm_memory(None, settings) == 512 << 20
    assert vm_memory(4 << 20, settings) == vm_memory(128 << 20, settings) == 128 << 20
    assert vm_memory((128 << 20) + 1, settings) == 256 << 20
