"""What a hostile job tries with system calls and files of the kernel's: each is refused, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dms_executor.errors import InvalidRequest, PolicyDenied
from dms_executor.oci import userns
from dms_executor.policy import Policy
from dms_executor.types import ByteSize, Resources, StorageVolume

from .conftest import Bench, opened

_PYTHON = Path("/usr/bin/python3")
_TRIES = Path(__file__).with_name("tries.py")
_HAS_PYTHON = _PYTHON.exists() and Path("/lib").is_symlink()
_REFUSED = {"EPERM", "EACCES", "ENOSYS", "EROFS", "ENOENT", "EXDEV", "ETXTBSY"}


@pytest.fixture(params=["auto", "off"])
async def hostile(tmp_path: Path, busybox: Path, runtime: str, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """The engine with and without user namespaces, for strangers; `given` can be read, `taken` written."""
    problem = await asyncio.to_thread(userns.problem_of_host)
    if request.param == "auto" and problem:
        pytest.skip(problem)
    for name in ("state", "given", "taken"):
        (tmp_path / name).mkdir(mode=0o755)
    policy = Policy(
        read_roots=(busybox, tmp_path / "given", "/usr", tmp_path / "root"), write_roots=(tmp_path / "taken",)
    )
    settings = {"runtime": runtime, "userns": request.param}
    async with opened(tmp_path / "state", busybox, policy, **settings) as ready:
        yield ready


def bind(source: Path, target: str, *, read_only: bool | None = None) -> StorageVolume:
    return StorageVolume(type="bind", source=str(source), target=target, read_only=read_only)


def _root_for_python(bench: Bench) -> Path:
    root = bench.state.parent / "root"
    subprocess.run(["cp", "-a", str(bench.busybox), str(root)], check=True)
    for name in ("lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "usr").mkdir(exist_ok=True)
    return root


async def test_system_calls_and_files_of_the_kernels(hostile: Bench, tmp_path: Path) -> None:
    if not _HAS_PYTHON:
        pytest.skip("no /usr/bin/python3 in a merged /usr")
    root = await asyncio.to_thread(_root_for_python, hostile)
    (tmp_path / "given" / "file").write_text("given")
    (tmp_path / "given" / "tries.py").write_bytes(_TRIES.read_bytes())
    before = await asyncio.to_thread(_host)
    ran = await hostile.run(
        *(str(_PYTHON), "-ISB", "/in/tries.py", "/out"),
        params={"image": f"rootfs:{root}"},
        resources=Resources(memory=ByteSize("128MiB"), pids=64),
        inputs=[bind(Path("/usr"), "/usr"), bind(tmp_path / "given", "/in")],
        outputs=[bind(tmp_path / "taken", "/out")],
    )
    answers = dict(line.rsplit(" ", 1) for line in ran.stdout.splitlines())
    assert answers.pop("set-user-id") == "1000", ran.stderr
    assert answers.pop("file capabilities") == "done"
    assert len(answers) > 60
    allowed = {name for name, answer in answers.items() if answer not in _REFUSED}
    assert allowed == set()
    assert await asyncio.to_thread(_host) == before
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["id"]
    assert stat.S_IMODE((tmp_path / "taken" / "id").stat().st_mode) == 0o755
    assert os.listxattr(tmp_path / "taken" / "id") == []


async def test_what_is_left_in_an_output_stays_what_it_is(hostile: Bench, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (secret / "key").write_text("secret")
    script = (
        f"cd /out; ln -s {secret} link; ln -s {secret}/key stdout; ln -s loop loop; mkfifo fifo; chmod 4777 fifo;"
        "echo one >file; ln file hard; ln -s / root; mkdir -p .hidden/$(printf 'new\nline'); mkdir locked;"
        "echo x >locked/in; chmod 0 locked; nc -lk -s local:/out/socket 2>/dev/null & sleep 0.2;"
        "mkdir -m 2777 group; exit 3"
    )
    x, handle = await hostile.started(
        *("sh", "-c", script), results_dir=str(tmp_path / "taken" / "results"), outputs=[StorageVolume(target="/out")]
    )
    ran = await asyncio.wait_for(hostile.ended(x, handle), 30)
    left = tmp_path / "taken" / "results" / "outputs" / "out"
    assert ran.exit.code == 3, ran.stderr
    kinds = {path.name: stat.S_IFMT(path.lstat().st_mode) for path in left.iterdir()}
    assert [name for name, kind in sorted(kinds.items()) if stat.S_ISLNK(kind)] == ["link", "loop", "root", "stdout"]
    assert stat.S_ISFIFO(kinds["fifo"])
    assert (left / "hard").stat().st_nlink == 2
    assert (left / "locked" / "in").read_text() == "x\n"
    assert (secret / "key").read_text() == "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o700


async def test_a_hard_link_keeps_a_file_within_its_mount(hostile: Bench, tmp_path: Path) -> None:
    # Both lie on one file system of the host; the mounts keep them apart.
    (tmp_path / "given" / "file").write_text("given")
    script = (
        "ln /in/file /out/linked; ln /etc/hosts /out/hosts; mv /in/file /out/; cd /out; ln /out/../in/file b; ls /out"
    )
    ran = await hostile.run(
        *("sh", "-c", script),
        inputs=[bind(tmp_path / "given", "/in")],
        outputs=[bind(tmp_path / "taken", "/out")],
    )
    assert set(ran.stdout.split()) <= {"file"}, ran.stdout  # a copy at most, which mv makes
    assert (tmp_path / "given" / "file").stat().st_nlink == 1
    assert (tmp_path / "given" / "file").read_text() == "given"


@pytest.mark.parametrize("kind", ["fifo", "socket"])
async def test_an_input_that_would_hold_who_opens_it(hostile: Bench, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "given" / "special"
    if kind == "fifo":
        os.mkfifo(place)
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(place))
    ran = await asyncio.wait_for(hostile.run("stat", "-c", "%F", "/in", inputs=[bind(place, "/in")]), 30)
    assert ran.stdout.strip() == kind
    with pytest.raises(InvalidRequest, match="regular file"):
        await hostile.created(hostile.execution("cat", stdin_file=str(place)))


async def test_an_output_swapped_for_a_symlink_while_the_job_runs(hostile: Bench, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "tool").write_text("x")
    (secret / "tool").chmod(0o4755)
    (tmp_path / "taken" / "out").mkdir()
    x, handle = await hostile.started("sh", "-c", "exit 0", outputs=[bind(tmp_path / "taken" / "out", "/out")])
    end = await hostile.engine.watch(x, handle)
    (tmp_path / "taken" / "out").rename(tmp_path / "taken" / "away")
    (tmp_path / "taken" / "out").symlink_to(secret)
    with pytest.raises(PolicyDenied):
        await hostile.engine.collect(x, handle, end)
    await hostile.engine.destroy(x, handle)
    assert stat.S_IMODE((secret / "tool").stat().st_mode) == 0o4755


def _host() -> dict[str, object]:
    status = Path("/dev/null").stat()
    return {
        "null": (status.st_mode, status.st_uid, status.st_gid),
        "name": socket.gethostname(),
        "core": Path("/proc/sys/kernel/core_pattern").read_text(),
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if not _of_a_test(line)],
    }


def _of_a_test(mount: str) -> bool:
    """What other tests, which run beside this one, mount in folders of their own; and their daemons."""
    return mount.split()[4].startswith(("/tmp/", "/dev/shm/", "/run/", "/var/tmp/"))
