"""A user namespace for each job: ids of its own, owners kept, ranges never given twice."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dms_executor import Executor, Settings
from dms_executor.errors import EngineUnavailable, NotSupported
from dms_executor.images.users import User
from dms_executor.oci import OciSpec, idranges, userns
from dms_executor.policy import Policy
from dms_executor.types import ByteSize, ExecutionRequest, Resources, StorageVolume

from .conftest import Bench, opened

pytestmark = pytest.mark.skipif(bool(userns.problem_of_host()), reason=userns.problem_of_host())


def _output(folder: Path) -> list[StorageVolume]:
    return [StorageVolume(type="bind", source=str(folder), target="/out")]


async def test_its_map_and_two_jobs_have_two_ranges(bench: Bench) -> None:
    jobs = [await bench.started("sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map; sleep 0.3") for _ in range(2)]
    firsts = set()
    for x, handle in jobs:
        ran = await bench.ended(x, handle)
        first, _, count = handle.engine_ids["userns"].partition("+")
        assert ran.stdout.split() == ["0", first, count] * 2
        assert int(first) >= idranges.FIRST
        firsts.add(first)
        assert not Path(idranges.FOLDER, first).exists()
    assert len(firsts) == 2


@pytest.mark.parametrize("resources", [Resources(), Resources(disk=ByteSize("16MiB"))])
async def test_owners_are_the_same_inside_as_outside(bench: Bench, resources: Resources, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("in")
    os.chown(tmp_path / "in" / "file", 1000, 1001)
    (tmp_path / "out").mkdir()
    script = (
        "stat -c %u:%g / /bin/busybox /in/file /etc/hosts; cd /out; echo 1 >root; echo 2 >app; chown app:app app;"
        "cp /bin/busybox setuid; chown 1000 setuid; chmod 4755 setuid; touch /here; stat -c %u /here"
    )
    ran = await bench.run(
        *("sh", "-c", script),
        resources=resources,
        inputs=[StorageVolume(type="bind", source=str(tmp_path / "in"), target="/in")],
        outputs=_output(tmp_path / "out"),
    )
    assert ran.stdout.split() == ["0:0", "0:0", "1000:1001", "0:0", "0"], ran.stderr
    found = {path.name: path.stat() for path in (tmp_path / "out").iterdir()}
    assert {name: (each.st_uid, each.st_gid) for name, each in found.items()} == {
        "root": (0, 0),
        "app": (1000, 1001),
        "setuid": (1000, 0),
    }
    assert stat.S_IMODE(found["setuid"].st_mode) == 0o755


async def test_the_root_of_an_image_belongs_to_its_user(bench: Bench, tmp_path: Path) -> None:
    root = tmp_path / "root"
    await asyncio.to_thread(subprocess.run, ["cp", "-a", str(bench.busybox), str(root)], check=True)
    os.chown(root, 1000, 1001)
    (root / "home").mkdir()
    os.chown(root / "home", 1000, 1001)
    script = "stat -c %u / /home; echo a >/home/a; echo b >/b; stat -c %u /home/a /b"
    ran = await bench.run("sh", "-c", script, params={"image": f"rootfs:{root}", "user": "app"})
    assert ran.stdout.split() == ["1000"] * 4, ran.stderr
    assert list((root / "home").iterdir()) == []
    assert not (root / "b").exists()


async def test_a_file_of_an_id_that_no_job_has(bench: Bench, tmp_path: Path) -> None:
    root = tmp_path / "root"
    await asyncio.to_thread(subprocess.run, ["cp", "-a", str(bench.busybox), str(root)], check=True)
    (root / "far").write_text("far\n")
    os.chown(root / "far", 70000, 70000)
    script = "stat -c %u:%g /far; cat /far; echo x >/far || echo kept; chown 0 /far || echo kept; cat /far"
    ran = await bench.run("sh", "-c", script, params={"image": f"rootfs:{root}"})
    assert ran.stdout.split() == ["65534:65534", "far", "kept", "kept", "far"]
    assert (ran.handle.loosened, (root / "far").read_text()) == ([], "far\n")


async def test_from_outside_it_is_nobody_of_the_host(bench: Bench) -> None:
    x, handle = await bench.started("sleep", "100")
    # os.walk passes over what goes away under it; Path.glob does not.
    groups = [level for level, _, _ in os.walk("/sys/fs/cgroup") if level.endswith(f"/{x.token}")]
    pids = {pid for group in groups for pid in Path(group, "cgroup.procs").read_text().split()}
    ids = {tuple(Path(f"/proc/{pid}/status").read_text().partition("Uid:\t")[2].split()[:4]) for pid in pids}
    assert ids == {(_first(handle.engine_ids),) * 4}
    await bench.engine.stop(x, handle, 9, 0)
    await bench.ended(x, handle)


@pytest.mark.parametrize("user", ["root", "app"])
async def test_its_streams_can_be_opened_once_more(bench: Bench, user: str, tmp_path: Path) -> None:
    (tmp_path / "stdin").write_text("told\n")
    (tmp_path / "stdin").chmod(0o644)
    script = "echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdin"
    ran = await bench.run("sh", "-c", script, stdin_file=str(tmp_path / "stdin"), params={"user": user})
    assert (ran.stdout, ran.stderr) == ("out\ntold\n", "err\n")


async def test_a_private_stdin_can_be_opened_by_its_root(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "stdin").write_text("told\n")
    (tmp_path / "stdin").chmod(0o600)
    ran = await bench.run("cat", "/dev/stdin", stdin_file=str(tmp_path / "stdin"))
    assert ran.stdout == "told\n"


@pytest.mark.parametrize("init", [True, False])
async def test_in_the_hosts_network(bench: Bench, init: bool) -> None:
    script = (
        "cat /proc/self/uid_map; [ -e /sys/class/net/lo ] && echo lo; : 2>/dev/null >/sys/kernel/profiling && echo no"
    )
    ran = await bench.run("sh", "-c", f"{script}; true", network="host", init=init)
    assert ran.stdout.split() == ["0", _first(ran.handle.engine_ids), "65536", "lo"]


def _first(ids: dict[str, str]) -> str:
    return ids["userns"].partition("+")[0]


async def test_everything_at_once(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    ran = await bench.run(
        *("sh", "-c", "id -u; cat; echo x >/out/x; echo y >/tmp/vol/y && cat /tmp/vol/y; echo z >/z"),
        stdin=b"piped\n",
        outputs=_output(tmp_path / "out"),
        inputs=[StorageVolume(type="tmpfs", target="/tmp/vol", size=ByteSize("1MiB"))],
        params={"read_only_root": True},
        init=False,
    )
    assert ran.stdout == "0\npiped\ny\n"
    assert "Read-only" in ran.stderr
    assert (tmp_path / "out" / "x").stat().st_uid == 0


async def test_off(tmp_path: Path, busybox: Path, runtime: str) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    async with opened(tmp_path / "state", busybox, Policy.trusted(), runtime=runtime, userns="off") as bench:
        assert "userns" not in (await bench.engine.probe()).capabilities
        ran = await bench.run("cat", "/proc/self/uid_map")
    assert ran.stdout.split() == Path("/proc/self/uid_map").read_text().split()
    assert ran.handle.engine_ids["userns"] == "host"
    assert ran.handle.loosened == []


@pytest.mark.parametrize("setting", ["auto", "required"])
async def test_a_user_that_has_no_id_in_the_range(tmp_path: Path, busybox: Path, runtime: str, setting: str) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    async with opened(tmp_path / "state", busybox, Policy.trusted(), runtime=runtime, userns=setting) as bench:
        assert "userns" in (await bench.engine.probe()).capabilities
        if setting == "auto":
            ran = await bench.run("id", "-u", params={"user": "70000"})
            assert ran.stdout == "70000\n"
            assert ran.handle.loosened == ["userns: the user's id 70000 is not below 65536"]
            return
        x = bench.execution("id", params={"user": "70000"})
        with pytest.raises(NotSupported, match="70000"):
            await bench.created(x)
        await bench.engine.destroy(x, None)


@pytest.mark.parametrize("setting", ["auto", "required"])
async def test_a_volume_that_cannot_be_id_mapped(tmp_path: Path, busybox: Path, runtime: str, setting: str) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    inputs = [StorageVolume(type="bind", source="/proc/sys/kernel", target="/in")]  # procfs has no id-mapped mounts
    async with opened(tmp_path / "state", busybox, Policy.trusted(), runtime=runtime, userns=setting) as bench:
        x = bench.execution("cat", "/in/ostype", inputs=inputs)
        if setting == "required":
            with pytest.raises(NotSupported, match="cannot id-map volumes/0"):
                await bench.created(x)
            await bench.engine.destroy(x, None)
            return
        _, handle = await bench.created(x)
        await bench.engine.start(x, handle)
        ran = await bench.ended(x, handle)
    assert ran.stdout == "Linux\n"
    assert ran.handle.loosened == ["userns: cannot id-map volumes/0: Invalid argument"]


async def test_a_host_that_cannot(tmp_path: Path, busybox: Path, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dms_executor.oci.host.problem_of_host", lambda: "user namespaces are switched off")
    (tmp_path / "state").mkdir(mode=0o700)
    async with opened(tmp_path / "state", busybox, Policy.trusted(), runtime=runtime, userns="required") as bench:
        with pytest.raises(EngineUnavailable, match="switched off") as caught:
            await bench.engine.validate(bench.execution("true").request)
        assert "userns" in caught.value.mend
        probe = await bench.engine.probe()
        assert (probe.usable, probe.mend) == (False, caught.value.mend)
        assert "switched off" in (probe.problem or "")
    async with opened(tmp_path / "state", busybox, Policy.trusted(), runtime=runtime, userns="auto") as bench:
        ran = await bench.run("cat", "/proc/self/uid_map")
        assert ran.stdout.split() == Path("/proc/self/uid_map").read_text().split()
        probe = await bench.engine.probe()
    assert ran.handle.loosened == ["userns: user namespaces are switched off"]
    assert (probe.usable, "userns" in probe.capabilities) == (True, False)
    assert "no job has a user namespace: user namespaces are switched off" in probe.mend


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of ranges of this test alone, with three in all."""
    monkeypatch.setattr(idranges, "FOLDER", str(tmp_path / "ids"))
    monkeypatch.setattr(idranges, "RANGES", 3)
    return tmp_path / "ids"


def test_what_a_vanished_executor_left_is_swept(folder: Path) -> None:
    held = idranges.allocate("g/held", lambda group: False)
    for group in ("g/gone", "g/alive"):
        os.close(idranges.allocate(group, lambda group: True).fd)
    assert idranges.sweep(lambda group: group == "g/alive") == 1
    assert {file.read_text() for file in folder.iterdir()} == {"g/held", "g/alive"}
    os.close(held.fd)
    assert idranges.sweep(lambda group: False) == 2
    assert list(folder.iterdir()) == []


async def test_a_survey_sweeps(bench: Bench, folder: Path) -> None:
    x, handle = await bench.started("sleep", "100")
    left = await asyncio.to_thread(idranges.allocate, "dms-executor/of-a-folder-removed-by-hand", lambda group: False)
    os.close(left.fd)
    assert len(list(folder.iterdir())) == 2
    assert x.token in await bench.engine.survey()
    assert [file.name for file in folder.iterdir()] == [_first(handle.engine_ids)]
    await bench.engine.stop(x, handle, 9, 0)
    await bench.ended(x, handle)
    assert list(folder.iterdir()) == []


async def test_cleanup_sweeps_though_nothing_is_open(tmp_path: Path, busybox: Path, runtime: str, folder: Path) -> None:
    spec = OciSpec(image=f"rootfs:{busybox}", cmd=["true"]).build()
    settings = Settings(engines={"oci": {"runtime": runtime}})
    async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=settings) as executor:
        await executor.run(ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec))
    left = await asyncio.to_thread(idranges.allocate, "dms-executor/gone", lambda group: False)
    os.close(left.fd)
    async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=settings) as executor:
        await executor.cleanup()
        assert (await executor.inspect("e")).engine_ids["userns"].endswith("+65536")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("release", "problem"), [("5.18.19-amd64", "5.19"), ("4.9.0", "5.19"), ("5.19.0", ""), ("6.1.0-x", "")]
)
def test_old_kernels(monkeypatch: pytest.MonkeyPatch, release: str, problem: str) -> None:
    real = os.uname()
    names = (real.sysname, real.nodename, release, real.version, real.machine)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(names))
    found = userns.problem_of_host()
    assert (problem in found) if problem else found == ""


def test_a_range_is_given_once(folder: Path) -> None:
    held = [idranges.allocate(f"g/{number}", lambda group: False) for number in range(3)]
    assert len({each.first for each in held}) == 3
    with pytest.raises(Exception, match="all ranges of ids are taken"):
        idranges.allocate("g/late", lambda group: False)
    idranges.release("g/0", held[0].first)
    assert len(list(folder.iterdir())) == 3  # it is held
    os.close(held[0].fd)
    again = idranges.allocate("g/late", lambda group: False)
    assert again.first == held[0].first
    for each in (*held[1:], again):
        os.close(each.fd)
    idranges.release("g/1", None)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.usefixtures("folder")
def test_a_range_whose_job_outlived_its_shim_is_not_given() -> None:
    for number in range(3):
        os.close(idranges.allocate(f"g/{number}", lambda group: True).fd)
    taken = idranges.allocate("g/new", lambda group: group != "g/1")
    os.close(taken.fd)
    with pytest.raises(Exception, match="all ranges of ids are taken"):
        idranges.allocate("g/newer", lambda group: True)


_ALLOCATE = """
import sys
from dms_executor.oci import idranges
idranges.FOLDER, idranges.RANGES = sys.argv[1], 40
print(*(idranges.allocate(f"{sys.argv[2]}/{n}", lambda group: False).first for n in range(20)), flush=True)
sys.stdin.read()
"""


def test_two_processes_at_once_and_killed(folder: Path) -> None:
    argv = [sys.executable, "-c", _ALLOCATE, str(folder)]
    processes = [
        subprocess.Popen([*argv, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in "ab"
    ]
    firsts = [first for each in processes for first in (each.stdout.readline() if each.stdout else "").split()]
    assert len(firsts) == len(set(firsts)) == 40
    for each in processes:
        each.kill()
        each.communicate()
    late = [idranges.allocate(f"c/{number}", lambda group: False) for number in range(3)]
    for held in late:
        os.close(held.fd)


@pytest.mark.parametrize("user", [User(uid=65536), User(gid=65536), User(groups=[1, 70000])])
def test_ids_that_no_range_has(user: User) -> None:
    userns.check_user(User(uid=65535, gid=65535, groups=[65535]))
    with pytest.raises(userns.Unmapped):
        userns.check_user(user)
