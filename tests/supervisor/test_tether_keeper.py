"""Helper commands that cannot outlive their caller, and keepers that do."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dms_executor.errors import InvalidRequest, StartFailed
from dms_executor.supervisor import keeper, spawning, tether

from .conftest import Words, gone


async def test_a_command_gives_code_and_both_streams() -> None:
    done = await tether.run(["/bin/sh", "-c", "echo out; echo err >&2; exit 7"], environment={}, deadline=10)
    assert (done.code, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


async def test_a_signal_is_128_and_more() -> None:
    done = await tether.run(["/bin/sh", "-c", "kill -9 $$"], environment={}, deadline=10)
    assert done.code == 137


async def test_environment_is_the_chosen_one_with_the_c_locale() -> None:
    done = await tether.run(["/usr/bin/env"], environment={"A": "b", "PATH": "/bin"}, deadline=10)
    assert sorted(done.stdout.split()) == [b"A=b", b"LC_ALL=C", b"PATH=/bin"]


async def test_input_is_given_or_empty() -> None:
    assert (await tether.run(["/bin/cat"], environment={}, deadline=10)).stdout == b""
    data = os.urandom(300_000)
    assert (await tether.run(["/bin/cat"], environment={}, deadline=10, stdin=data)).stdout == data


async def test_only_the_end_of_stderr_is_kept() -> None:
    script = "head -c 1000000 /dev/zero >&2; echo end >&2"
    done = await tether.run(["/bin/sh", "-c", script], environment={}, deadline=10)
    assert done.stderr.endswith(b"end\n")
    assert len(done.stderr) < 200_000


async def test_a_missing_command_is_127_with_a_reason() -> None:
    done = await tether.run(["/no/such/command"], environment={}, deadline=10)
    assert done.code == 127
    assert "No such file" in done.complaint


async def test_a_relative_command_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        await tether.run(["sh"], environment={}, deadline=10)


def _script(words: Words) -> list[str]:
    return ["/bin/sh", "-c", f"sleep 60 & echo $! > {words}; wait"]


async def test_a_deadline_kills_the_whole_group(words: Words) -> None:
    said = asyncio.create_task(words.come())
    with pytest.raises(StartFailed, match=r"within 0\.3 s"):
        await tether.run(_script(words), environment={}, deadline=0.3)
    assert await asyncio.to_thread(gone, int(await said))


async def test_a_cancellation_kills_the_whole_group(words: Words) -> None:
    task = asyncio.create_task(tether.run(_script(words), environment={}, deadline=60))
    pid = int(await words.come())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(gone, pid)


async def test_the_callers_death_kills_the_whole_group(words: Words) -> None:
    program = (
        "import asyncio, sys\nfrom dms_executor.supervisor import tether\n"
        "asyncio.run(tether.run(sys.argv[1:], environment={}, deadline=60))"
    )
    caller = await asyncio.to_thread(subprocess.Popen, [sys.executable, "-c", program, *_script(words)])
    pid = int(await words.come())
    caller.kill()
    await asyncio.to_thread(caller.wait)
    assert await asyncio.to_thread(gone, pid)


async def test_a_keeper_acts_at_its_time(tmp_path: Path, words: Words) -> None:
    before = time.monotonic()
    await keeper.spawn(tmp_path, 0.3, ["/bin/sh", "-c", f"echo $X; echo now > {words}"], {"X": "kept"})
    assert await words.come() == "now"
    assert time.monotonic() - before >= 0.3
    assert (tmp_path / "keeper.log").read_text() == "kept\n"


async def test_a_keeper_can_be_stopped(tmp_path: Path) -> None:
    kept = await keeper.spawn(None, 0.5, ["/bin/touch", str(tmp_path / "acted")], {})
    handle = os.pidfd_open(kept.pid)
    await keeper.stop(keeper.Keeper(pid=kept.pid, start_time=kept.start_time + 1))
    await keeper.stop(kept)
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(handle, lambda: ended.done() or ended.set_result(None))
    async with asyncio.timeout(5):
        await ended
    asyncio.get_running_loop().remove_reader(handle)
    os.close(handle)
    assert not (tmp_path / "acted").exists()
    await keeper.stop(kept)


async def test_a_keeper_outlives_its_callers_session(tmp_path: Path) -> None:
    kept = await keeper.spawn(None, 60, ["/bin/true"], {})
    assert os.getsid(kept.pid) != os.getsid(0)
    os.kill(kept.pid, signal.SIGHUP)
    await keeper.stop(kept)


async def test_a_keeper_whose_caller_is_gone_does_not_stay() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    held, alive = os.pipe()
    pid = spawning.spawn(
        await spawning.spawned_shim(), ["dms-shim", "keeper", "60", "/bin/true"], {}, {0: theirs.fileno(), 1: alive}
    )
    os.close(alive)
    theirs.close()
    spawning.forget(pid)
    async with asyncio.timeout(10):
        assert await asyncio.to_thread(os.read, held, 1) == b"", "nobody holds the pipe any more"
    os.close(held)
