"""What a job does under a shim and what is on disk afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dms_executor.engine import Exit
from dms_executor.errors import StartFailed
from dms_executor.supervisor import ShimSpec, UsageSource
from dms_executor.supervisor.record import read_exit
from dms_executor.supervisor.shim import create

from .conftest import Words, gone

Job = Callable[..., ShimSpec]


async def run(folder: Path, spec: ShimSpec) -> Exit:
    shim = await create(folder, spec)
    try:
        await shim.go()
        async with asyncio.timeout(30):
            assert await shim.ended()
    finally:
        shim.close()
    ended = await asyncio.to_thread(read_exit, folder)
    assert ended is not None
    return ended


async def test_both_streams_are_kept_byte_for_byte(folder: Path, job: Job, read_log: Any) -> None:
    ended = await run(folder, job("sh", "-c", r"printf 'a\0\377\nb'; printf 'c\n\376' >&2"))
    log = read_log(folder)
    assert log.data(1) == b"a\0\xff\nb"
    assert log.data(2) == b"c\n\xfe"
    assert log.whole
    assert (ended.code, ended.signal, ended.killed, ended.error) == (0, None, False, "")


@pytest.mark.parametrize("code", [0, 3, 125, 126, 127, 137, 255])
async def test_exit_codes_are_the_jobs_own(folder: Path, job: Job, code: int) -> None:
    ended = await run(folder, job("sh", "-c", f"exit {code}"))
    assert (ended.code, ended.signal, ended.lost) == (code, None, None)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
async def test_a_signal_is_told_from_an_exit_code(folder: Path, job: Job, signum: int) -> None:
    ended = await run(folder, job("sh", "-c", f"kill -{int(signum)} $$"))
    assert (ended.code, ended.signal, ended.killed) == (128 + signum, signum, False)


async def test_times_are_in_order(folder: Path, job: Job) -> None:
    ended = await run(folder, job("sleep", "0.05"))
    assert ended.started_at is not None
    assert 0.04 < (ended.finished_at - ended.started_at).total_seconds() < 5


async def test_a_missing_command_is_start_failed_and_recorded(folder: Path, job: Job) -> None:
    shim = await create(folder, job("no-such-command"))
    with pytest.raises(StartFailed, match="no-such-command: No such file or directory"):
        await shim.go()
    assert await shim.ended()
    ended = await asyncio.to_thread(read_exit, folder)
    assert ended is not None
    assert (ended.code, ended.started_at) == (None, None)
    assert "no-such-command" in ended.error


async def test_a_script_without_interpreter_line_is_not_handed_to_sh(folder: Path, job: Job, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo hi\n")
    script.chmod(0o755)
    shim = await create(folder, job(str(script)))
    with pytest.raises(StartFailed, match="Exec format error"):
        await shim.go()
    shim.close()


async def test_a_missing_runtime_is_start_failed(folder: Path) -> None:
    spec = ShimSpec(argv=["/no/such/runtime"], environment={}, log_cap=1 << 20, segment=1 << 18)
    shim = await create(folder, spec)
    with pytest.raises(StartFailed, match="/no/such/runtime"):
        await shim.go()
    assert await shim.ended()


async def test_a_runtime_that_fails_is_start_failed_and_its_words_are_kept(folder: Path, read_log: Any) -> None:
    spec = ShimSpec(argv=["/bin/sh", "-c", "echo broken >&2; exit 7"], environment={}, log_cap=1 << 20, segment=1 << 18)
    shim = await create(folder, spec)
    with pytest.raises(StartFailed, match="runtime exited with 7"):
        await shim.go()
    assert await shim.ended()
    assert read_log(folder).data(2) == b"broken\n"


async def test_a_detached_job_is_followed_after_its_launcher_left(folder: Path, detached: Job, read_log: Any) -> None:
    ended = await run(folder, detached("echo pid $$; setsid sleep 60 & exit 4"))
    assert ended.code == 4
    assert read_log(folder).data(1) == b"pid 2\n"


async def test_a_detached_job_without_report_is_found_by_its_pid_file(folder: Path) -> None:
    argv = ["/bin/sh", "-c", f'sh -c "sleep 0.1; exit 6" & echo $! > "{folder}/pid"; exit 0']
    ended = await run(folder, ShimSpec(argv=argv, environment={}, report=False, log_cap=1 << 20, segment=1 << 18))
    assert ended.code == 6


async def test_without_report_and_pid_file_the_command_is_the_job(folder: Path) -> None:
    spec = ShimSpec(
        argv=["/bin/sh", "-c", "exit 9"], environment={}, report=False, pidfile="", log_cap=1 << 20, segment=1 << 18
    )
    assert (await run(folder, spec)).code == 9


async def test_a_pid_file_cannot_point_the_shim_at_a_stranger(folder: Path) -> None:
    argv = ["/bin/sh", "-c", f'echo {os.getpid()} > "{folder}/pid"']
    spec = ShimSpec(argv=argv, environment={}, report=False, log_cap=1 << 20, segment=1 << 18)
    shim = await create(folder, spec)
    with pytest.raises(StartFailed, match="pid file"):
        await shim.go()
    assert await shim.ended()


async def test_what_left_the_session_is_gone_with_the_job(folder: Path, job: Job, words: Words) -> None:
    held, told = os.pipe()
    spec = job("sh", "-c", f"setsid sh -c 'echo $$ > {words}; exec sleep 60' & read line", stdin=held)
    shim = await create(folder, spec)
    os.close(held)
    await shim.go()
    pid = int(await words.come())
    os.close(told)
    assert await shim.ended()
    assert await asyncio.to_thread(gone, pid, 0)


async def test_output_held_open_by_a_stranger_does_not_hold_the_result(
    folder: Path, job: Job, words: Words, read_log: Any
) -> None:
    """The writer is no descendant: it opens the job's stdout through /proc, so nothing kills it with the job."""
    held, told = os.pipe()
    shim = await create(folder, job("sh", "-c", f"echo $$ > {words}; echo hi; read line", drain=0.2, stdin=held))
    os.close(held)
    await shim.go()
    stranger = await asyncio.to_thread(os.open, f"/proc/{await words.come()}/fd/1", os.O_WRONLY)
    try:
        os.close(told)
        async with asyncio.timeout(5):
            assert await shim.ended()
    finally:
        os.close(stranger)
    assert read_log(folder).data(1) == b"hi\n"
    assert read_log(folder).whole


async def test_a_start_that_hangs_has_its_own_deadline(folder: Path) -> None:
    # The runtime of a job whose image holds it: it neither ends nor lets the init speak.
    spec = ShimSpec(argv=["/bin/sleep", "1000"], environment={}, log_cap=1 << 30, segment=64 << 20, start=0.2)
    shim = await create(folder, spec)
    with pytest.raises(StartFailed, match="did not start: Connection timed out"):
        await shim.go()
    async with asyncio.timeout(10):
        assert await shim.ended()
    shim.close()
    ended = await asyncio.to_thread(read_exit, folder)
    assert ended is not None
    assert (ended.code, ended.started_at) == (None, None)


async def test_stdin_is_empty_unless_given(folder: Path, job: Job, read_log: Any) -> None:
    await run(folder, job("sh", "-c", "cat; echo end"))
    assert read_log(folder).data(1) == b"end\n"


async def test_descriptors_are_passed_in_order_and_no_others(folder: Path, job: Job, read_log: Any) -> None:
    first, second = os.memfd_create("first"), os.memfd_create("second")
    os.write(first, b"one")
    os.write(second, b"two")
    os.lseek(first, 0, 0)
    os.lseek(second, 0, 0)
    await run(folder, job("sh", "-c", "cat <&4; cat <&5; ls /proc/self/fd | tr '\\n' ' '", passed=[first, second]))
    os.close(first)
    os.close(second)
    assert read_log(folder).data(1) == b"onetwo0 1 2 3 4 5 "


async def test_usage_is_read_at_the_end(folder: Path, job: Job, tmp_path: Path) -> None:
    (tmp_path / "io.stat").write_text("8:0 rbytes=100 wbytes=7 rios=3\n8:16 rbytes=11 wbytes=1\n")
    (tmp_path / "events").write_text("low 0\noom 5\noom_kill 2\noom_group_kill 9\n")
    (tmp_path / "peak").write_text("4096\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1500\nuser_usec 9\n")
    sources = [
        UsageSource(key="io_read", path=f"{tmp_path}/io.stat", field="rbytes"),
        UsageSource(key="io_write", path=f"{tmp_path}/absent", field="wbytes"),
        UsageSource(key="oom_kills", path=f"{tmp_path}/events", field="oom_kill"),
        UsageSource(key="memory_peak", path=f"{tmp_path}/peak"),
        UsageSource(key="cpu_us", path=f"{tmp_path}/cpu.stat", field="usage_usec"),
    ]
    usage = (await run(folder, job("true", usage=sources))).usage
    assert (usage.io_read_bytes, usage.io_write_bytes, usage.oom_kills) == (111, None, 2)
    assert (usage.peak_memory_bytes, usage.cpu_seconds) == (4096, 0.0015)


async def test_no_device_used_is_nothing_read(folder: Path, job: Job, tmp_path: Path) -> None:
    (tmp_path / "io.stat").write_text("")
    sources = [
        UsageSource(key="io_read", path=f"{tmp_path}/io.stat", field="rbytes"),
        UsageSource(key="io_write", path=f"{tmp_path}/io.stat", field="wbytes"),
        UsageSource(key="memory_peak", path=f"{tmp_path}/io.stat"),
    ]
    usage = (await run(folder, job("true", usage=sources))).usage
    assert (usage.io_read_bytes, usage.io_write_bytes, usage.peak_memory_bytes) == (0, 0, None)


async def test_folders_are_removed_at_the_end(folder: Path, job: Job, tmp_path: Path) -> None:
    doomed = tmp_path / "cgroup" / "job"
    doomed.mkdir(parents=True)
    shim = await create(folder, job("true", rmdirs=[str(doomed), str(doomed.parent)]))
    await shim.go()
    assert await shim.ended()
    assert await asyncio.to_thread(gone, shim.pid)
    assert not doomed.parent.exists()
    assert sorted(os.listdir(folder)) == ["exit", "going", "log"]


async def test_everything_is_private(folder: Path, job: Job) -> None:
    shim = await create(folder, job("sleep", "60"))
    await shim.go()
    modes = await asyncio.to_thread(lambda: {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*")})
    assert modes["log"] == 0o700
    assert {modes["control"], modes["0000000001"], modes["exit.tmp"]} == {0o600}
    await shim.stop(signal.SIGKILL, 0)
    assert await shim.ended()


async def test_durable_records_are_the_same(folder: Path, job: Job, read_log: Any) -> None:
    ended = await run(folder, job("sh", "-c", "echo hi; exit 2", sync=True))
    assert ended.code == 2
    assert read_log(folder).data(1) == b"hi\n"


RETURN, LOAD, EQUAL = 0x06, 0x20, 0x15  # linux/bpf_common.h
ALLOW, EPERM_ERROR = 0x7FFF0000, 0x00050001  # linux/seccomp.h
MKDIR = {"x86_64": 83, "aarch64": 34}  # mkdir, mkdirat


def _filter(*instructions: tuple[int, int, int, int]) -> int:
    fd = os.memfd_create("filter")
    os.write(fd, b"".join(struct.pack("HBBI", *instruction) for instruction in instructions))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


async def test_the_init_installs_a_compiled_seccomp_filter(
    folder: Path, init: str, job: Job, tmp_path: Path, read_log: Any
) -> None:
    number = MKDIR[os.uname().machine]
    fd = _filter((LOAD, 0, 0, 0), (EQUAL, 0, 1, number), (RETURN, 0, 0, EPERM_ERROR), (RETURN, 0, 0, ALLOW))
    script = f"mkdir {tmp_path}/made 2>&1 | grep -o 'not permitted'; ls /proc/self/fd | wc -l"
    spec = job("sh", "-c", script, passed=[fd])
    await run(folder, msgspec.structs.replace(spec, argv=[init, "-s", "4", "--", *spec.argv[2:]]))
    os.close(fd)
    assert read_log(folder).data(1) == b"not permitted\n4\n"


async def test_a_bad_seccomp_filter_is_start_failed(folder: Path, init: str, job: Job) -> None:
    fd = _filter((RETURN, 0, 0, ALLOW), (0xFFFF, 9, 9, 9))
    shim = await create(folder, msgspec.structs.replace(job("true"), argv=[init, "-s", "4", "--", "true"], passed=[fd]))
    os.close(fd)
    with pytest.raises(StartFailed, match="cannot install the seccomp filter"):
        await shim.go()
    assert await shim.ended()
