"""Every workload by every contestant, in turn in one run, into `docs/benchmarks/`: table, JSON and plots.

usage: scripts/bench publish [--quick|--tiny] [--folder DIR] [--only NAME,...] [--minutes N]

Each workload is a process of its own with a bound on its time, and what was found is written after each: a contestant
or a workload that fails is named with its error, and the rest goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from contests import cancels, flights, launches, many, runs, starts
from daemon import dockerd, missing
from field import Field, Size, compiled, opened
from histories import histories, unpacked
from linework import latencies, throughputs
from published import Workload, summary, write
from roots import busybox_root

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
MIB = 1 << 20
SIZES = {
    "full": Size(30, ((1, 8), (4, 16), (16, 32), (64, 64)), 1000, 64 * MIB, 50, 10_000, 500, 2000),
    "quick": Size(8, ((1, 3), (16, 16)), 50, 16 * MIB, 20, 500, 30, 500),
    "tiny": Size(1, ((1, 1), (2, 2)), 2, MIB // 8, 5, 3, 2, 10),
}
WORKLOADS: dict[str, Callable[[Field], Awaitable[list[Workload]]]] = {
    "launch": launches,
    "flight": flights,
    "exec": runs,
    "cancel": cancels,
    "log": throughputs,
    "line": latencies,
    "start": starts,
    "image": unpacked,
    "many": many,
    "history": histories,
}
MINUTES = {"flight": 10.0, "history": 5.0, "many": 4.0}  # else 3; a workload that takes longer is ended and named


@contextlib.contextmanager
def daemon(scratch: Path, lacking: dict[str, str]) -> Iterator[list[str]]:
    """The client's words and the image, one after the other; none where no daemon comes up."""
    with contextlib.ExitStack() as stack:
        words: list[str] = []
        if why := missing():
            lacking["dockerd"] = why
        else:
            try:
                client, image = stack.enter_context(dockerd(busybox_root(scratch)))
                words = [*client, image]
            except (Exception, SystemExit) as error:  # noqa: BLE001 - it is named with its error
                lacking["dockerd"] = f"failed: {error}"
        yield words


def one(workload: str, size: str, scratch: Path, words: list[str], seconds: float) -> dict[str, Any]:
    """A workload in a process of its own: what it found, or its error."""
    answer = scratch / f"{workload}.json"
    command = [sys.executable, str(Path(__file__).resolve()), f"--{size}", "--workload", workload, "--scratch"]
    command += [str(scratch), "--daemon", json.dumps(words), "--seconds", str(seconds)]
    log = scratch / f"{workload}.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)
        try:
            child.wait(seconds)
            why = f"failed: {log.read_text(errors='replace').strip()[-400:]}"
        except subprocess.TimeoutExpired:
            why = f"ended after {seconds:.0f} s"
        finally:  # also where this process is told to end
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if answer.exists():
        found: dict[str, Any] = json.loads(answer.read_text())
        return found
    return {"workloads": [], "missing": {f"workload {workload}": why}}


async def measured(workload: str, size: str, scratch: Path, words: list[str], seconds: float) -> None:
    """In the child: writes what the workload found. On a slow machine there are fewer rounds of it."""
    folder = scratch / workload
    folder.mkdir(mode=0o711)
    (folder / "root").symlink_to(scratch / "root")
    async with opened(folder, SIZES[size], words[:-1], words[-1] if words else "") as field:
        field.deadline = time.monotonic() + seconds * 0.6
        found = await WORKLOADS[workload](field)
        text = json.dumps({"workloads": [summary(one) for one in found], "missing": field.missing})
        (scratch / f"{workload}.new").write_text(text)
        (scratch / f"{workload}.new").rename(scratch / f"{workload}.json")


def ended(scratch: Path) -> None:
    """Takes away the jobs of a workload that was ended."""
    for journal in scratch.glob("*/*/journal.db"):
        line = [sys.executable, "-m", "dms_executor.cli", "--state-dir", str(journal.parent), "cleanup", "--running"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


def publish(size: str, folder: Path, names: list[str], minutes: float) -> None:
    """The whole run. Writes after each workload."""
    began, deadline = time.monotonic(), time.monotonic() + minutes * 60
    found: list[dict[str, Any]] = []
    lacking: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="dms-bench-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        scratch.chmod(0o711)
        with contextlib.suppress(RuntimeError):  # the workloads that need it say so
            compiled(busybox_root(scratch))  # before the daemon takes the root as its image
        try:
            for workload in names:
                left = min(MINUTES.get(workload, 3.0) * 60, deadline - time.monotonic())
                if left <= 0:
                    lacking[f"workload {workload}"] = f"the {minutes:g} minutes were over"
                    continue
                since = time.monotonic()
                # One of its own for each: what a workload that was ended has left of its jobs is nobody else's load.
                with daemon(scratch, lacking) as words:
                    answer = one(workload, size, scratch, words, left)
                found += answer["workloads"]
                lacking.update(answer["missing"])
                write(folder, found, lacking, time.monotonic() - began)
                print(f"{workload}: {time.monotonic() - since:.0f} s", flush=True)
        finally:
            ended(scratch)
    write(folder, found, lacking, time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench publish")
    kinds = parser.add_mutually_exclusive_group()
    for size in SIZES:
        kinds.add_argument(f"--{size}", dest="size", action="store_const", const=size)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the results go")
    parser.add_argument("--only", help=f"workloads, with commas between them: {', '.join(WORKLOADS)}")
    parser.add_argument("--minutes", type=float, default=40.0, help="what is not begun by then is left out and named")
    parser.add_argument("--workload", choices=WORKLOADS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--daemon", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    size = given.size or "full"
    if given.workload:
        asyncio.run(measured(given.workload, size, given.scratch, json.loads(given.daemon), given.seconds))
        return
    names = given.only.split(",") if given.only else list(WORKLOADS)
    if unknown := [name for name in names if name not in WORKLOADS]:
        parser.error(f"no workload {unknown[0]}: {', '.join(WORKLOADS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was begun is taken away
    publish(size, given.folder, names, given.minutes)
    print((given.folder / "results.md").read_text())


if __name__ == "__main__":
    main()
