"""What the init writes into a pod's log, and what is read out of it again: here without a pod."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from dms_executor.engine import Chunk
from dms_executor.kubernetes.handed import handed
from dms_executor.kubernetes.lines import TAIL, Lines, since
from dms_executor.kubernetes.spec import KubernetesSpec
from dms_executor.supervisor.binary import init_path
from dms_executor.types import ExecutionRequest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace takes root")

_INSIDE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def logged(tmp_path: Path, *argv: str) -> tuple[bytes, bytes, int]:
    """The log, the report and the exit code of a command under the init."""
    report = tmp_path / "report"
    report.touch()
    command = [*_INSIDE, str(init_path()), "-l", str(report), "--", *argv]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=False)
    return done.stdout, report.read_bytes(), done.returncode


def text(chunks: list[Chunk], stream: str) -> bytes:
    return b"".join(chunk.data for chunk in chunks if chunk.stream == stream)


async def test_both_streams_come_apart_and_exact(tmp_path: Path) -> None:
    data = bytes(range(256)) * 400
    (tmp_path / "data").write_bytes(data)
    script = f"cat {tmp_path}/data; printf 'no newline' >&2; exit 3"
    log, report, code = await asyncio.to_thread(logged, tmp_path, "sh", "-c", script)
    lines = Lines()
    chunks = list(lines.take(log))
    assert (text(chunks, "stdout"), text(chunks, "stderr"), code) == (data, b"no newline", 3)
    assert max(map(len, log.split(b"\n"))) < 16 << 10  # where a runtime cuts a line
    assert os.waitstatus_to_exitcode(lines.report.status or 0) == 3
    assert report.count(b"\n") == 5  # born, started, usage, wrote, exited
    assert lines.report.wrote == (len(data), 10)
    assert len(report) < 4096  # what a kubelet reads of it


async def test_a_log_that_comes_in_any_pieces_is_read_alike(tmp_path: Path) -> None:
    log, _, _ = await asyncio.to_thread(logged, tmp_path, "sh", "-c", "echo a; echo b >&2; echo c")
    lines = Lines()
    chunks = [chunk for at in range(len(log)) for chunk in lines.take(log[at : at + 1])]
    assert (text(chunks, "stdout"), text(chunks, "stderr")) == (b"a\nc\n", b"b\n")


async def test_a_cursor_goes_on_where_it_stopped(tmp_path: Path) -> None:
    script = "for i in 1 2 3 4 5; do echo $i; done; printf e >&2"
    log, _, _ = await asyncio.to_thread(logged, tmp_path, "sh", "-c", script)
    chunks = list(Lines().take(log))
    for number, chunk in enumerate(chunks):
        again = list(Lines(chunk.cursor).take(log))
        assert [each.data for each in again] == [each.data for each in chunks[number + 1 :]]
        assert since(chunk.cursor).endswith("Z")
    assert since(None) == ""


async def test_what_a_node_threw_away_is_a_gap(tmp_path: Path) -> None:
    log, _, _ = await asyncio.to_thread(logged, tmp_path, "sh", "-c", "head -c 100000 /dev/zero; echo end >&2")
    whole = log.split(b"\n")
    outs = [number for number, line in enumerate(whole) if line.startswith(b"o ")]
    dropped = next(iter(Lines().take(whole[outs[0]] + b"\n"))).data
    rest = b"\n".join(line for number, line in enumerate(whole) if number != outs[0])
    chunks = list(Lines().take(rest))
    assert chunks[0].lost == {"stdout": len(dropped)}
    assert len(dropped) + len(text(chunks, "stdout")) == 100000


def test_a_cursor_goes_back_with_the_clock() -> None:
    lines = Lines()
    chunks = list(lines.take(b"o 0 7000000000 YQ==\no 1 3000000000 Yg==\n"))
    assert [chunk.data for chunk in chunks] == [b"a", b"b"]
    assert since(lines.cursor) == "1970-01-01T00:00:01Z"


def test_a_line_of_somebody_else_is_no_output() -> None:
    lines = Lines()
    assert list(lines.take(b"exec failed: no such file\no x y z\n")) == []
    assert lines.strange == "o x y z"


async def test_the_end_of_a_log_says_all_that_a_result_is_made_of(tmp_path: Path) -> None:
    script = "head -c 200000 /dev/zero; exit 5"
    log, _, _ = await asyncio.to_thread(logged, tmp_path, "sh", "-c", script)
    lines = Lines()
    for _ in lines.take(b"\n".join(log.split(b"\n")[-TAIL - 1 :])):
        pass
    whole = Lines()
    for _ in whole.take(log):
        pass
    assert lines.report == whole.report
    assert (lines.report.status, lines.report.wrote) == (5 << 8, (200000, 0))


async def test_a_missing_command_is_the_reports(tmp_path: Path) -> None:
    log, _, code = await asyncio.to_thread(logged, tmp_path, "/no/such/command")
    lines = Lines()
    assert list(lines.take(log)) == []
    assert (lines.report.errno, code) == (2, 127)
    assert "/no/such/command" in lines.report.error


_WAITING = """
mkdir room; : > report
{init} -l report -w -h $PWD/room -- sh -c 'cat; echo "$SECRET"; exit 7' > log &
pid=$!
trap 'kill -CONT $pid' CONT  # it is the first process here, which is signalled
until grep -q '^r' log; do :; done
{init} -g $PWD/room < handed || exit 90
while wait $pid; code=$?; [ $code -gt 128 ]; do :; done
ls room
exit $code
"""


async def test_a_job_is_handed_its_secrets_and_input_with_its_go(tmp_path: Path) -> None:
    spec = KubernetesSpec(image="i", cmd=["x"]).build()
    request = ExecutionRequest(
        job_id="j", execution_id="e", engine_spec=spec, secret_environment={"SECRET": "s=1\n2"}, stdin=b"in\0put\n"
    )
    (tmp_path / "handed").write_bytes(handed(request))
    command = [*_INSIDE, "sh", "-c", _WAITING.format(init=init_path())]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, stdout=subprocess.PIPE, timeout=60, check=False
    )
    chunks = list(Lines().take((tmp_path / "log").read_bytes()))
    assert text(chunks, "stdout") == b"in\0put\ns=1\n2\n"
    assert done.stdout == b""  # nothing of it is left in the folder
    assert done.returncode == 7


async def test_the_grace_of_a_stop_is_kept_inside(tmp_path: Path) -> None:
    script = f"""trap '' TERM; echo ready; {init_path()} -k 15 50; while :; do sleep 1000; done"""
    log, _, code = await asyncio.to_thread(logged, tmp_path, "sh", "-c", script)
    lines = Lines()
    assert text(list(lines.take(log)), "stdout") == b"ready\n"
    assert code == 128 + 9
    assert os.WTERMSIG(lines.report.status or 0) == 9


async def test_a_job_in_the_background_holds_no_end_up(tmp_path: Path) -> None:
    log, _, code = await asyncio.to_thread(logged, tmp_path, "sh", "-c", "sleep 1000 & echo done")
    assert text(list(Lines().take(log)), "stdout") == b"done\n"
    assert code == 0
