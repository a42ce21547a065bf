"""What hostile requests, images and jobs try; what a job sees of itself is in test_isolation.py."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dms_executor.errors import ExecutorError, InvalidRequest, PolicyDenied, ResourcesUnavailable, StartFailed
from dms_executor.policy import Policy
from dms_executor.types import StorageVolume

from .conftest import Bench, opened


@pytest.fixture
async def strict(tmp_path: Path, busybox: Path, runtime: str) -> AsyncIterator[Bench]:
    """The engine under a policy that lets a stranger read `given` and write `taken`."""
    for name in ("state", "given", "taken", "secret"):
        (tmp_path / name).mkdir(mode=0o700)
    (tmp_path / "secret" / "key").write_text("secret")
    policy = Policy(read_roots=(busybox, tmp_path / "given"), write_roots=(tmp_path / "taken",))
    async with opened(tmp_path / "state", busybox, policy, runtime=runtime) as ready:
        yield ready


def bind(source: Path, target: str, *, read_only: bool | None = None) -> StorageVolume:
    return StorageVolume(type="bind", source=str(source), target=target, read_only=read_only)


def image(bench: Bench, name: str, links: dict[str, str]) -> dict[str, str]:
    """Params of an image that is busybox with symlinks of the stranger's."""
    root = bench.state.parent / "given" / name
    root.mkdir(parents=True)
    (root / "bin").mkdir()
    os.link(bench.busybox / "bin" / "busybox", root / "bin" / "busybox")
    for applet in ("sh", "cat", "grep", "ls", "echo"):
        (root / "bin" / applet).symlink_to("busybox")
    for link, target in links.items():
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(target)
    root.chmod(0o755)
    return {"image": f"rootfs:{root}"}


def own_init(bench: Bench) -> Path:
    """A program that a stranger would like to run in the place of our init."""
    folder = bench.state.parent / "given" / "own"
    folder.mkdir(exist_ok=True)
    script = folder / ".dms-executor-init"
    script.write_text("#!/bin/sh\ngrep Seccomp: /proc/self/status\necho taken over\n")
    script.chmod(0o755)
    return folder


# What a job tries on its init and its host


async def test_the_init_is_out_of_reach(bench: Bench) -> None:
    script = (
        "cat /proc/1/environ; cat /proc/1/maps; readlink /proc/1/exe; echo x >/proc/1/mem; echo x >/proc/1/fd/3;"
        "echo x >&3; kill -9 1; kill -STOP 1; echo x >/dev/.dms-executor-init; exit 3"
    )
    ran = await bench.run("sh", "-c", script)
    assert (ran.exit.code, ran.exit.lost, ran.stdout) == (3, None, "")


async def test_the_init_killed_for_memory_is_no_lost_engine(bench: Bench) -> None:
    ran = await bench.run("sh", "-c", "echo 1000 >/proc/1/oom_score_adj; x=a; while :; do x=$x$x; done")
    assert (ran.exit.signal, ran.exit.lost) == (9, None)
    assert ran.exit.oom_kills > 0


async def test_a_job_makes_no_device_node(bench: Bench, tmp_path: Path) -> None:
    out = StorageVolume(type="bind", source=str(tmp_path / "out"), target="/out")
    ran = await bench.run("sh", "-c", "mknod /out/zero c 1 5; mknod /out/fifo p; ls /out", outputs=[out])
    assert ran.stdout.split() == ["fifo"]


async def test_stdin_file_cannot_be_written_to(strict: Bench, tmp_path: Path) -> None:
    # The link in /proc opens the file anew, with the job's own rights and the flags of the mount it was opened on.
    file = tmp_path / "given" / "stdin"
    file.write_text("original")
    script = "cat; echo taken >/proc/self/fd/0; echo taken >>/dev/stdin; chmod 666 /proc/self/fd/0"
    ran = await strict.run("sh", "-c", script, stdin_file=str(file))
    assert ran.stdout == "original"
    assert file.read_text() == "original"
    assert stat.S_IMODE(file.stat().st_mode) & 0o022 == 0


# What an image tries


@pytest.mark.parametrize(
    ("links", "source", "target"),
    [
        ({"d": "/dev"}, "own/.dms-executor-init", "/d/.dms-executor-init"),
        ({"a": "b", "b": "../../dev"}, "own", "/a"),
        ({"r": "/"}, "own", "/r"),
        ({"p": "/proc/sys"}, "own", "/p"),
        ({"s": "/x", "x": "/nosuch/../sys"}, "own", "/s/fs"),
        ({"p": "/proc/1/root"}, "own", "/p/tmp"),
    ],
)
async def test_a_target_that_leads_into_the_jobs_own(
    strict: Bench, links: dict[str, str], source: str, target: str
) -> None:
    own_init(strict)
    x = strict.execution(
        "echo",
        params=image(strict, "image", links),
        inputs=[bind(strict.state.parent / "given" / source, target)],
    )
    with pytest.raises(InvalidRequest, match="job's own"):
        await strict.created(x)
    await strict.engine.destroy(x, None)
    assert strict.left(x) == []


async def test_a_target_that_leads_elsewhere_in_the_image(strict: Bench) -> None:
    given = strict.state.parent / "given" / "data"
    given.mkdir(parents=True)
    (given / "file").write_text("given")
    params = image(strict, "image", {"var": "/real/var", "up": "../../../../real"})
    for target in ("/var/run", "/up/data"):
        ran = await strict.run("cat", f"{target}/file", params=params, inputs=[bind(given, target)])
        assert ran.stdout == "given"
    assert not (strict.state.parent / "real").exists()


async def test_a_target_through_a_symlink_of_another_volume(strict: Bench) -> None:
    own = own_init(strict)
    outer = strict.state.parent / "given" / "outer"
    outer.mkdir()
    (outer / "dev").symlink_to("/dev")
    x = strict.execution("true", inputs=[bind(outer, "/a"), bind(own, "/a/dev")])
    with pytest.raises(InvalidRequest, match="symlink"):
        await strict.created(x)
    await strict.engine.destroy(x, None)


@pytest.mark.parametrize("links", [{"dev": "/data", "proc": "/data", "sys": "/data"}, {"dev": "../../../tmp"}])
async def test_an_image_whose_own_folders_are_symlinks(strict: Bench, links: dict[str, str]) -> None:
    inputs = [bind(own_init(strict), "/data")]
    ran = await strict.run(
        "sh", "-c", "grep Seccomp: /proc/self/status", params=image(strict, "image", links), inputs=inputs
    )
    assert ran.stdout == "Seccomp:\t2\n"


@pytest.mark.parametrize("kind", ["folder", "device", "fifo", "bytes"])
async def test_a_hostile_passwd(strict: Bench, kind: str) -> None:
    params = image(strict, "image", {})
    passwd = strict.state.parent / "given" / "image" / "etc" / "passwd"
    passwd.parent.mkdir()
    if kind == "folder":
        passwd.mkdir()
    elif kind == "fifo":
        os.mkfifo(passwd)
    elif kind == "device":
        os.mknod(passwd, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    else:
        passwd.write_bytes(b"root:x:0:0:\xff\0\x85:/r\xff:/bin/sh\n")
    await strict.run(
        "echo", "hi", params=image(strict, "plain", {})
    )  # from now on a shim is kept ready for the next job
    before = len(os.listdir("/proc/self/fd"))
    x = strict.execution("echo", "hi", params=params)
    if kind == "fifo":
        with pytest.raises(StartFailed, match="FIFO"):
            await strict.created(x)
        await strict.engine.destroy(x, None)
        return
    _, handle = await strict.created(x)
    try:
        await strict.engine.start(x, handle)
    except StartFailed:  # runc reads it, too, in the container, and finds no user there
        await strict.engine.destroy(x, handle)
    else:
        assert (await strict.ended(x, handle)).stdout == "hi\n"
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("target", ["/etc", "/etc/passwd", "/etc/group"])
async def test_a_volume_that_would_hold_the_runtime(strict: Bench, target: str) -> None:
    etc = strict.state.parent / "given" / "etc"
    etc.mkdir()
    for name in ("passwd", "group"):
        os.mkfifo(etc / name)
    x = strict.execution("true", inputs=[bind(etc if target == "/etc" else etc / Path(target).name, target)])
    with pytest.raises(StartFailed, match="FIFO"):
        await asyncio.wait_for(strict.created(x), 30)
    await strict.engine.destroy(x, None)


async def test_a_device_node_of_the_image_is_out_of_reach(strict: Bench) -> None:
    params = image(strict, "image", {})
    root = strict.state.parent / "given" / "image"
    os.mknod(root / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 0))
    os.mknod(root / "mem", stat.S_IFCHR | 0o666, os.makedev(1, 1))
    ran = await strict.run("sh", "-c", "cat /disk; cat /mem; cat </dev/null >/disk", params=params)
    assert ran.stderr.count("not permitted") == 3


@pytest.mark.parametrize("kind", ["fifo", "device"])
async def test_an_archive_that_is_no_file(bench: Bench, tmp_path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(tmp_path / "archive")
    else:
        os.mknod(tmp_path / "archive", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    x = bench.execution("true", params={"image": f"oci-archive:{tmp_path}/archive"})
    with pytest.raises(InvalidRequest, match="regular file"):
        await bench.engine.validate(x.request)


# What a request's paths try


@pytest.mark.parametrize("source", ["link", "relative", "folder/../../secret", "link/key"])
async def test_a_source_out_of_the_root(strict: Bench, tmp_path: Path, source: str) -> None:
    given = tmp_path / "given"
    (given / "link").symlink_to(tmp_path / "secret")
    (given / "relative").symlink_to("../secret")
    (given / "folder").mkdir()
    x = strict.execution("true", inputs=[bind(given / source, "/in")])
    with pytest.raises(PolicyDenied, match="leads out"):
        await strict.engine.validate(x.request)


async def test_a_source_that_is_swapped_all_the_time(strict: Bench, tmp_path: Path) -> None:
    given = tmp_path / "given" / "flip"
    given.mkdir()
    (given / "mine").touch()
    flipping = asyncio.Event()
    flips = asyncio.ensure_future(asyncio.to_thread(_flip, given, tmp_path / "secret", flipping))
    try:
        for _ in range(20):
            x = strict.execution("ls", "/in", inputs=[bind(given, "/in")])
            try:
                _, handle = await strict.created(x)
                await strict.engine.start(x, handle)
            except ExecutorError:
                await strict.engine.destroy(x, None)
                continue
            assert (await strict.ended(x, handle)).stdout == "mine\n"
    finally:
        flipping.set()
        await flips


async def test_the_state_folder_by_a_mount_beneath_what_is_granted(strict: Bench, tmp_path: Path) -> None:
    place = tmp_path / "given" / "deep" / "mounted"
    place.mkdir(parents=True)
    await asyncio.to_thread(subprocess.run, ["mount", "--bind", str(tmp_path), str(place)], check=True)
    try:
        for source in (tmp_path / "given", place / "state", place / "state" / "executions", place / "given"):
            x = strict.execution("true", inputs=[bind(source, "/in")])
            if source == place / "given":  # the very folder that is granted, which holds the mount no second time
                await strict.engine.validate(x.request)
                continue
            with pytest.raises(PolicyDenied, match="any policy"):
                await strict.engine.validate(x.request)
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "--lazy", str(place)], check=True)


async def test_special_files_as_inputs_give_no_access(strict: Bench, tmp_path: Path) -> None:
    device = tmp_path / "given" / "device"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    ran = await strict.run("head", "-c", "1", "/in", inputs=[bind(device, "/in")])
    assert "ermi" in ran.stderr
    with pytest.raises(InvalidRequest, match="regular file"):
        await strict.created(strict.execution("cat", stdin_file=str(device)))


async def test_results_that_another_job_tampers_with(strict: Bench, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    target = tmp_path / "secret" / "written"
    for script, error in (
        ("mv /out/results /out/gone; ln -s ../secret /out/results", PolicyDenied),
        ("rmdir /out/results/outputs; ln -s /etc /out/results/outputs", ResourcesUnavailable),
        (f"cd /out/results; ln -s {target} stdout; ln -s {target} .stdout.tmp", None),
    ):
        x, handle = await strict.started("sh", "-c", "read line; echo hi", results_dir=str(taken / "results"))
        await strict.run("sh", "-c", script, inputs=[bind(taken, "/out", read_only=False)])
        end = await strict.engine.watch(x, handle)
        if error is None:
            await strict.engine.collect(x, handle, end)
            assert (taken / "results" / "stdout").read_text() == "hi\n"
            assert not (taken / "results" / "stdout").is_symlink()
        else:
            with pytest.raises(error):
                await strict.engine.collect(x, handle, end)
        await strict.engine.destroy(x, handle)
        await asyncio.to_thread(_clean, taken)
    assert not target.exists()


async def test_secrets_are_gone_once_the_job_runs(bench: Bench, tmp_path: Path) -> None:
    # By the shim's own doing: the caller may die right after its go.
    x = bench.execution("sleep", "10", secret_environment={"TOKEN": "hush-hush"})
    _, handle = await bench.created(x)
    shim = await bench.engine._keeping.known(x)
    assert shim is not None
    await shim.go()
    found = [
        path
        for path in (tmp_path / "state").rglob("*")
        if path.is_file() and not path.is_symlink() and b"hush-hush" in path.read_bytes()
    ]
    assert found == []
    assert stat.S_IMODE(x.folder.stat().st_mode) == 0o700
    await bench.engine.stop(x, handle, 9, 0)
    await bench.ended(x, handle)


def _flip(place: Path, secret: Path, done: asyncio.Event) -> None:
    away = place.with_name("away")
    while not done.is_set():
        place.rename(away)
        place.symlink_to(secret)
        place.unlink()
        away.rename(place)


def _clean(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_symlink():
            entry.unlink()
        else:
            shutil.rmtree(entry)
