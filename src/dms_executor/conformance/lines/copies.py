"""Sections 2 and 12: copies into a job and out of it, by the rules of `docker cp`; whatever a job does to its tree."""

from __future__ import annotations

import asyncio
import os
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import IO

import pytest

from ...errors import CopyFailed, ExecutionNotRunning, InvalidRequest
from ...types import StorageVolume
from ..bench import Bench
from ..line import line
from ..steps import Forever, Say, Shell

_NEEDS = {"copy", "shell", "container"}
_SIZE = 3 << 20
_STAMP = 1_000_000_000_250_000_000  # ns


async def _idle(bench: Bench, script: str = ":", **fields: object) -> str:
    return await bench.start(Shell(script), Say("ready"), Forever(), until="ready", **fields)


def _tree(folder: Path) -> Path:
    """One of each kind, with what could get lost on the way."""
    top = folder / "tree"
    (top / "sub/empty").mkdir(parents=True)
    (top / "sub/empty").chmod(0o1751)
    (top / "plain").write_bytes(bytes(range(256)) * 40)
    (top / "plain").chmod(0o640)
    os.link(top / "plain", top / "sub/again")
    (top / "link").symlink_to("/etc/passwd")
    (top / "dangling").symlink_to("nowhere")
    Path(os.fsdecode(os.fsencode(top) + b"/n\xff\n '\"")).write_text("any bytes")
    (top / ("long" * 60)).write_text("long")
    with (top / "sparse").open("wb") as file:
        file.seek(_SIZE)
        file.write(b"end")
        file.truncate(2 * _SIZE)
    os.utime(top / "plain", ns=(_STAMP, _STAMP))
    os.utime(top / "link", ns=(_STAMP, _STAMP), follow_symlinks=False)
    os.utime(top / "sub", ns=(_STAMP, _STAMP))
    return top


def _seen(top: Path) -> dict[bytes, tuple[object, ...]]:
    """All of a tree that a copy keeps."""
    found: dict[bytes, tuple[object, ...]] = {}
    root = os.fsencode(top)
    for folder, names, files in os.walk(root):
        for path in [folder, *(os.path.join(folder, name) for name in [*names, *files])]:  # noqa: PTH118
            status = os.lstat(path)
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            links = status.st_nlink if not stat.S_ISDIR(status.st_mode) else 0
            found[path[len(root) :]] = (stat.filemode(status.st_mode), content, links, status.st_mtime_ns)
    return found


@line("12", needs=_NEEDS)
async def test_a_tree_comes_back_as_it_went_in(bench: Bench) -> None:
    top = _tree(bench.folder)
    execution_id = await _idle(bench)
    await bench.executor.copy_in(execution_id, top, "/tmp/new")
    await bench.executor.copy_out(execution_id, "/tmp/new", str(bench.folder / "back"))
    assert _seen(bench.folder / "back") == _seen(top)
    sparse = (bench.folder / "back/sparse").stat()
    assert sparse.st_blocks * 512 < _SIZE, "the hole was filled"


@line("12", needs=_NEEDS)
async def test_what_comes_in_is_the_jobs_roots(bench: Bench) -> None:
    top = _tree(bench.folder)
    os.chown(top / "plain", 1234, 1234) if os.geteuid() == 0 else None
    owners = "find /tmp/new | while read f; do stat -c '%u:%g' \"$f\"; done | sort -u"
    script = f"until test -e /tmp/new/done; do sleep 0.1; done; {owners}"
    execution_id = await bench.start(Say("ready"), Shell(script), until="ready")
    await bench.executor.copy_in(execution_id, top, "/tmp/new")
    (bench.folder / "done").touch()
    await bench.executor.copy_in(execution_id, bench.folder / "done", "/tmp/new")
    assert (await bench.executor.wait(execution_id)).stdout == b"ready\n0:0\n"


@line("12", needs=_NEEDS)
async def test_what_comes_out_is_the_callers_and_makes_nobody_its_owner(bench: Bench) -> None:
    execution_id = await _idle(bench, "cd /tmp; mkdir t; echo x > t/f; chown 1000:1000 t/f; chmod 6755 t/f t")
    await bench.executor.copy_out(execution_id, "/tmp/t", str(bench.folder / "t"))
    for name in ("t", "t/f"):
        status = (bench.folder / name).stat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
        assert stat.S_IMODE(status.st_mode) == 0o755


@line("12", needs=_NEEDS)
async def test_where_a_copy_goes(bench: Bench) -> None:
    execution_id = await _idle(bench, "mkdir -p /tmp/there/sub; echo old > /tmp/file")
    source = bench.folder / "source"
    source.mkdir()
    (source / "a").write_text("a")
    copy = bench.executor.copy_in
    await copy(execution_id, source / "a", "/tmp/renamed")
    await copy(execution_id, source / "a", "/tmp/there")
    await copy(execution_id, source / "a", "/tmp/file")
    await copy(execution_id, source, "/tmp/there")
    await copy(execution_id, source, "/tmp/new")
    await copy(execution_id, f"{source}/.", "/tmp/there/sub")
    await copy(execution_id, f"{source}/.", "/tmp/newer")
    out = bench.folder / "out"
    await bench.executor.copy_out(execution_id, "/tmp/.", str(out))
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert found == ["file", "new/a", "newer/a", "renamed", "there/a", "there/source/a", "there/sub/a"]
    assert (out / "file").read_text() == "a"


@line("12", needs=_NEEDS)
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("nosuch", "/tmp/x"),
        ("folder", "/etc/taken"),
        ("file", "/tmp/nosuch/"),
        ("file", "/nosuch/x"),
        ("file", "/etc/taken/x"),
        ("file", ""),
        ("", "/tmp"),
        ("fifo", "/tmp"),
    ],
)
async def test_a_copy_without_a_place_is_refused(bench: Bench, source: str, target: str) -> None:
    (bench.folder / "folder").mkdir()
    (bench.folder / "file").touch()
    os.mkfifo(bench.folder / "fifo")
    execution_id = await _idle(bench, "mkdir -p /etc; echo old > /etc/taken")
    with pytest.raises(InvalidRequest) as caught:
        await bench.executor.copy_in(execution_id, f"{bench.folder}/{source}" if source else "", target)
    assert caught.value.path in ("$.source", "$.target")
    assert caught.value.mend


@line("12", needs=_NEEDS)
async def test_what_is_not_in_the_job_cannot_be_copied_out(bench: Bench) -> None:
    execution_id = await _idle(bench, "mkfifo /tmp/fifo")
    for path in ("/nosuch", "/tmp/fifo", "/dev/null"):
        with pytest.raises(InvalidRequest):
            await bench.executor.copy_out(execution_id, path, str(bench.folder / "out"))
    assert not (bench.folder / "out").exists()


@line("12", needs=_NEEDS)
async def test_a_link_is_copied_and_followed_only_when_asked(bench: Bench) -> None:
    execution_id = await _idle(bench, "echo inside > /tmp/file; ln -s /tmp/file /tmp/link")
    await bench.executor.copy_out(execution_id, "/tmp/link", str(bench.folder / "link"))
    await bench.executor.copy_out(execution_id, "/tmp/link", str(bench.folder / "content"), follow=True)
    assert os.readlink(bench.folder / "link") == "/tmp/file"
    assert (bench.folder / "content").read_text() == "inside\n"


@line("12", needs=_NEEDS)
async def test_links_in_the_job_lead_nowhere_but_into_it(bench: Bench) -> None:
    secret = bench.folder / "secret"
    secret.write_text("of the host")
    script = f"ln -s {secret} /tmp/link; ln -s {bench.folder} /tmp/folder; ln -s ../../../../../../.. /tmp/up"
    execution_id = await _idle(bench, script)
    for path in ("/tmp/link", "/tmp/folder/secret", f"/tmp/up{secret}", f"/../../..{secret}"):
        with pytest.raises(InvalidRequest):
            await bench.executor.copy_out(execution_id, path, str(bench.folder / "out"), follow=True)
    with pytest.raises(InvalidRequest):
        await bench.executor.copy_in(execution_id, secret, "/tmp/folder/planted")
    await bench.executor.copy_in(execution_id, secret, "/tmp/up/tmp/inside")
    await bench.executor.copy_out(execution_id, "/tmp/inside", str(bench.folder / "inside"))
    assert (bench.folder / "inside").read_text() == "of the host"
    assert sorted(path.name for path in bench.folder.iterdir()) == ["inside", "secret", "state"]


@line("12", needs=_NEEDS)
async def test_a_job_that_swaps_its_folders_leads_no_copy_out_of_itself(bench: Bench) -> None:
    secret = bench.folder / "host"
    secret.mkdir()
    (secret / "key").write_text("of the host")
    swap = (
        f"mkdir -p /tmp/t/d /tmp/x{secret}; echo mine > /tmp/t/d/key; cd /tmp/t; "
        f"while :; do mv d e; ln -s {secret} d; rm d; mv e d; done"
    )
    execution_id = await bench.start(Say("ready"), Shell(swap), until="ready")
    (bench.folder / "in").mkdir()
    (bench.folder / "in/d").mkdir()
    (bench.folder / "in/d/planted").write_text("x")
    for turn in range(12):
        target = bench.folder / f"out{turn}"
        try:
            await bench.executor.copy_out(execution_id, "/tmp/t", str(target))
            await bench.executor.copy_in(execution_id, f"{bench.folder}/in/.", "/tmp/t")
        except (CopyFailed, InvalidRequest):
            continue  # it changed under our feet, and says so
        for key in target.rglob("key"):
            assert key.is_symlink() or key.read_text() == "mine\n"
    assert [path.name for path in secret.iterdir()] == ["key"]


@line("12", needs=_NEEDS)
async def test_special_files_of_a_tree_are_left_out_and_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    execution_id = await _idle(bench, "mkdir /tmp/t; mkfifo /tmp/t/fifo; echo x > /tmp/t/file")
    await bench.executor.copy_out(execution_id, "/tmp/t", str(bench.folder / "t"))
    assert [path.name for path in (bench.folder / "t").iterdir()] == ["file"]
    (told,) = [record for record in caplog.records if "left out" in record.getMessage()]
    assert "t/fifo" in told.getMessage()
    assert told.execution_id == execution_id  # type: ignore[attr-defined]


@line("12", needs=_NEEDS)
async def test_a_file_that_grows_for_ever_is_copied_as_it_was(bench: Bench) -> None:
    execution_id = await bench.start(Say("ready"), Shell("yes > /tmp/grows"), until="ready", timeout=30)
    await bench.executor.copy_out(execution_id, "/tmp/grows", str(bench.folder / "grown"))
    assert set((bench.folder / "grown").read_bytes()) <= set(b"y\n")


@line("12", needs=_NEEDS)
async def test_a_tree_that_no_path_reaches_to_the_bottom_of_is_copied(bench: Bench) -> None:
    half = "d/" * 1100  # twice of that is longer than a path may be
    make = f"mkdir -p /tmp/deep/{half} /tmp/more/{half}; echo x > /tmp/more/{half}f; mv /tmp/more /tmp/deep/{half}d"
    execution_id = await _idle(bench, make)
    await bench.executor.copy_out(execution_id, "/tmp/deep", str(bench.folder / "deep"))
    await bench.executor.copy_in(execution_id, bench.folder / "deep", "/tmp/again")
    assert await asyncio.to_thread(_depth, bench.folder / "deep") == 2201


def _depth(top: Path) -> int:
    """Counts, and takes away what tools that walk by path could not."""
    levels = 0
    fd = os.open(top, os.O_RDONLY)
    while True:
        try:
            inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        except FileNotFoundError:
            break
        os.close(fd)
        fd, levels = inner, levels + 1
    os.unlink("f", dir_fd=fd)
    for _ in range(levels):
        above = os.open("..", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = above
        os.rmdir("d", dir_fd=fd)
    os.close(fd)
    return levels


@line("12", needs=_NEEDS | {"volumes"})
async def test_a_read_only_input_takes_no_copy(bench: Bench) -> None:
    (bench.folder / "given").mkdir()
    (bench.folder / "file").touch()
    volume = StorageVolume(source=str(bench.folder / "given"), target="/given")
    execution_id = await _idle(bench, inputs=[volume])
    with pytest.raises(CopyFailed, match="Read-only"):
        await bench.executor.copy_in(execution_id, bench.folder / "file", "/given")
    assert list((bench.folder / "given").iterdir()) == []


@line("12", needs=_NEEDS | {"pause", "copy_paused"})
async def test_a_paused_job_can_be_copied_from(bench: Bench) -> None:
    execution_id = await _idle(bench, "echo x > /tmp/f")
    await bench.executor.pause(execution_id)
    await bench.executor.copy_out(execution_id, "/tmp/f", str(bench.folder / "f"))
    assert (bench.folder / "f").read_text() == "x\n"
    await bench.executor.cancel(execution_id, grace=1)


@line("5", needs=_NEEDS | {"pause"}, lacks={"copy_paused"})
async def test_a_copy_of_a_paused_job_is_refused(bench: Bench) -> None:
    execution_id = await _idle(bench, "echo x > /tmp/f")
    await bench.executor.pause(execution_id)
    (bench.folder / "f").touch()
    for copy in (
        bench.executor.copy_out(execution_id, "/tmp/f", str(bench.folder / "out")),
        bench.executor.copy_in(execution_id, bench.folder / "f", "/tmp/g"),
    ):
        with pytest.raises(ExecutionNotRunning) as caught:
            await copy
        assert caught.value.status == "paused"
        assert caught.value.mend
    assert not (bench.folder / "out").exists()
    await bench.executor.cancel(execution_id, grace=1)


@line("5", needs={"copy"})
async def test_a_copy_to_one_that_does_not_run_is_refused(bench: Bench) -> None:
    result = await bench.run()
    (bench.folder / "f").touch()
    with pytest.raises(ExecutionNotRunning) as caught:
        await bench.executor.copy_in(result.execution_id, bench.folder / "f", "/tmp/f")
    assert caught.value.status == "success"
    with pytest.raises(ExecutionNotRunning):
        await bench.executor.copy_out(result.execution_id, "/etc", str(bench.folder / "out"))


def _hostile(file: IO[bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind, link in (
            ("/absolute", tarfile.REGTYPE, ""),
            ("out", tarfile.SYMTYPE, "/etc"),
            ("null", tarfile.CHRTYPE, ""),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, link
            archive.addfile(entry)
    file.seek(0)


@line("12", needs=_NEEDS)
async def test_a_tar_stream_goes_in_and_comes_out(bench: Bench) -> None:
    execution_id = await _idle(bench, "mkdir /tmp/t /tmp/u; echo x > /tmp/u/f")
    with tempfile.TemporaryFile() as file:
        _hostile(file)
        await bench.executor.copy_in(execution_id, file.fileno(), "/tmp/t")
    with tempfile.TemporaryFile() as file:
        await bench.executor.copy_out(execution_id, "/tmp/t", file.fileno())
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            assert sorted(archive.getnames()) == ["t", "t/absolute", "t/out"]


@line("12", needs=_NEEDS)
@pytest.mark.parametrize("name", ["../up", "a/../../up", "out/planted"])
async def test_a_tar_stream_that_leads_out_is_refused(bench: Bench, name: str) -> None:
    execution_id = await _idle(bench, "mkdir /tmp/t; ln -s / /tmp/t/out")
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(name))
        file.seek(0)
        with pytest.raises(CopyFailed):
            await bench.executor.copy_in(execution_id, file.fileno(), "/tmp/t")
    with pytest.raises(InvalidRequest):
        await bench.executor.copy_out(execution_id, f"/{Path(name).name}", str(bench.folder / "x"))


@line("12", needs=_NEEDS)
async def test_a_cancelled_copy_ends_and_the_job_goes_on(bench: Bench) -> None:
    execution_id = await _idle(bench, "mkdir /tmp/t")
    stream, sink = os.pipe()
    try:
        copying = asyncio.ensure_future(bench.executor.copy_in(execution_id, stream, "/tmp/t"))
        await asyncio.sleep(0.3)  # nothing tells a caller that the stream is waited for
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
    finally:
        os.close(stream)
        os.close(sink)
    assert await bench.executor.get_status(execution_id) == "running"
