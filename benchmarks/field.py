"""The field of one run: the root tree, this package on each engine, the daemon, and who takes no part and why."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import subprocess
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from compare import SETTLE, Run, Times
from dms_executor import ExecutionRequest, Executor, Policy, Settings, SpecConfig
from dms_executor.docker import DockerSpec
from dms_executor.oci import OciSpec
from roots import busybox_root

__all__ = ["PROGRAMS", "RUNTIMES", "Field", "Ours", "Size", "opened"]

RUNTIMES = ("crun", "runc")
EACH = 60.0  # seconds that one piece of work may take before its contestant is out

PROGRAMS = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
/* lines BYTES: lines of 100 bytes, 64 KiB at once, as stdio would. clock COUNT: each 5 ms a line with its time, of
   CLOCK_MONOTONIC in ns. obey: "up", and then it ends by TERM, also as the first of its namespace. */
static void leave(int signal) { _exit(signal == SIGTERM ? 0 : 1); }
int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "lines")) {
        static char block[65500];
        long long left = atoll(argv[2]);
        memset(block, 'x', sizeof block);
        for (unsigned i = 99; i < sizeof block; i += 100) block[i] = '\n';
        while (left > 0) {
            ssize_t n = write(1, block, left < (long long)sizeof block ? (size_t)left : sizeof block);
            if (n <= 0) return 1;
            left -= n;
        }
        return 0;
    }
    if (argc > 2 && !strcmp(argv[1], "clock")) {
        for (int i = atoi(argv[2]); i > 0; i--) {
            struct timespec now, pause = {0, 5000000};
            char line[40];
            nanosleep(&pause, NULL);
            clock_gettime(CLOCK_MONOTONIC, &now);
            int n = snprintf(line, sizeof line, "%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
            if (write(1, line, n) != n) return 1;
        }
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "obey")) {
        signal(SIGTERM, leave);
        if (write(1, "up\n", 3) != 3) return 1;
        for (;;) pause();
    }
    return 2;
}
"""


class Size(NamedTuple):
    """How much of each workload is done."""

    rounds: int
    flights: tuple[tuple[int, int], ...]  # how many at once, of how many
    sleepers: int
    log_bytes: int
    lines: int
    finished: int
    running: int
    files: int  # of the image


class Ours(NamedTuple):
    """This package on one engine."""

    name: str
    executor: Executor
    state: Path
    spec: Callable[[list[str]], SpecConfig]

    def request(self, name: str, command: list[str]) -> ExecutionRequest:
        return ExecutionRequest(job_id="bench", execution_id=name, engine_spec=self.spec(command))


class Field:
    """`client` and `image`: the words that call the daemon's client, and the root as its image; empty without one."""

    def __init__(self, scratch: Path, size: Size, client: list[str], image: str, stack: contextlib.AsyncExitStack):
        self.scratch, self.size, self.client, self.image, self.stack = scratch, size, client, image, stack
        self.root = busybox_root(scratch).resolve()
        self.missing: dict[str, str] = {}
        self.patience = EACH
        self.deadline = math.inf  # of the monotonic clock: then a workload goes on with one round of what is left
        self.ours: list[Ours] = []
        self._names = iter(range(10**9))

    def name(self) -> str:
        """Of an execution, never used before."""
        return f"b-{next(self._names)}"

    def out(self, contestant: str, why: BaseException | str) -> None:
        """It takes no part any more."""
        if isinstance(why, BaseException):
            said = "".join(traceback.format_exception_only(why)).strip().replace("\n", " ")
            why = f"failed: {said[:300]}"
        self.missing[contestant] = why

    def late(self) -> bool:
        """Whether the time of the workload is nearly over."""
        return time.monotonic() > self.deadline

    async def add(self, name: str, make: Callable[[], Awaitable[dict[str, Run]]], to: dict[str, Run]) -> None:
        """The contestants that `make` gives; where it fails they are named with its error."""
        try:
            to.update(await asyncio.wait_for(make(), self.patience))
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            self.out(name, error)

    async def in_turn(self, contestants: Mapping[str, Run], rounds: int) -> Times:
        """Each once a round, A B C A B C. Who fails is out, and the rest goes on. Milliseconds.

        Once it is late no further round begins, where there is one.
        """
        warm = 0 if self.size.rounds == 1 else 1 if rounds < 10 else 2
        times: Times = {name: [] for name in contestants}
        for number in range(rounds + warm):
            if number > warm and self.late():
                break
            for name in list(times):
                try:
                    took = await asyncio.wait_for(contestants[name](), self.patience)
                except Exception as error:  # noqa: BLE001 - it is named with its error
                    self.out(name, error)
                    del times[name]
                    continue
                await asyncio.sleep(SETTLE)
                if number >= warm:
                    times[name].append(took * 1e3)
        return times


def executor_names(client: list[str]) -> dict[str, tuple[dict[str, dict[str, str]], str]]:
    """This package's contestants: the engines' settings, and what must be installed."""
    found = {f"ours, {runtime}": ({"oci": {"runtime": runtime}}, runtime) for runtime in RUNTIMES}
    found["ours, docker"] = ({"docker": {"socket": client[-1].removeprefix("unix://") if client else ""}}, "docker")
    return found


@contextlib.asynccontextmanager
async def opened(scratch: Path, size: Size, client: list[str], image: str) -> AsyncIterator[Field]:
    """The field, with an executor of ours for each engine that is here."""
    # Whoever calls a blocking client has as many threads as jobs in flight.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(80))
    async with contextlib.AsyncExitStack() as stack:
        field = Field(scratch, size, client, image, stack)
        root = f"rootfs:{field.root}"
        for name, (engines, program) in executor_names(client).items():
            if program == "docker" and not client:
                field.out(name, "there is no daemon")
            elif program != "docker" and shutil.which(program) is None:
                field.out(name, f"{program} is not installed")
            else:
                state = scratch / f"state-{program}"
                settings = Settings(engines=engines)
                executor = await stack.enter_async_context(
                    Executor.open(state, policy=Policy.trusted(), settings=settings)
                )

                def spec(command: list[str], docker: bool = program == "docker") -> SpecConfig:
                    if docker:
                        return DockerSpec(image=image, cmd=command).build()
                    return OciSpec(image=root, cmd=command).build()

                field.ours.append(Ours(name, executor, state, spec))
        yield field


def compiled(root: Path) -> None:
    """The jobs' program `bench`, static, into the root. Raises RuntimeError where no compiler is."""
    target = root / "bin" / "bench"
    if not target.exists():
        words = ["cc", "-O2", "-static", "-x", "c", "-", "-o", str(target)]
        done = subprocess.run(words, input=PROGRAMS.encode(), capture_output=True)
        if done.returncode:
            raise RuntimeError(f"the jobs' program does not compile: {done.stderr.decode(errors='replace')[:300]}")
