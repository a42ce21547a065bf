"""Launch to result of `echo hi` for an ordinary user: this package against the bare runtime in the same namespace.

The bare side enters a user namespace of the same map by the same two programs (`dms-shim userns`), mounts its overlay
and runs the runtime there. In turn, each round a pair; the ratio is that of the pairs. Where root measures, an ordinary
user is made for it and taken away.

usage: python benchmarks/rootless.py [ROUNDS [RUNTIME...]]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bare import Bare
from dms_executor import Executor, Policy, Settings
from dms_executor.oci.rootless import find_rootless
from launch import SETTLE, WARM, bundle_of, ours
from roots import busybox_root

FILTERED, PLAIN = "bare, which compiles its filter", "bare, without any filter"
BOUND = 1.3  # to FILTERED; the other one is told beside it
HERE = Path(__file__).resolve()


async def measure(runtime: str, rounds: int, scratch: Path) -> None:
    rootfs = busybox_root(scratch)
    state = scratch / f"state-{runtime}"
    enter = find_rootless().inside([])
    # As the engine calls it where no control group is delegated.
    options = ("--cgroup-manager", "disabled") if runtime == "crun" else ()
    settings = Settings(engines={"oci": {"runtime": runtime}})
    async with Executor.open(state, policy=Policy.trusted(), settings=settings) as executor:
        peers = {}
        for name, init in ((FILTERED, False), (PLAIN, True)):
            config = await bundle_of(executor, state, rootfs, scratch / f"{runtime}-{init}", init=init)
            peers[name] = Bare(runtime, rootfs, config, scratch, options, enter)
        times: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
        for number in range(rounds + WARM):
            sample = {"ours": await ours(executor, rootfs, number)}
            for name, peer in peers.items():
                await asyncio.sleep(SETTLE)
                sample[name] = peer.run()
            await asyncio.sleep(SETTLE)
            if number >= WARM:
                for name, took in sample.items():
                    times[name].append(took * 1e3)
    report(runtime, times)


def report(runtime: str, times: dict[str, list[float]]) -> None:
    for name, values in times.items():
        tenths = statistics.quantiles(values, n=10)
        median = statistics.median(values)
        print(f"{runtime} {name:32} median {median:5.1f} ms  p10 {tenths[0]:5.1f}  p90 {tenths[-1]:5.1f}")
    for name in (FILTERED, PLAIN):
        pairs = [mine / other for mine, other in zip(times["ours"], times[name], strict=True)]
        bound = f" (bound {BOUND})" if name == FILTERED else ""
        print(f"{runtime} ours / {name}: {statistics.median(pairs):.2f}{bound}")
    print(flush=True)


@contextlib.contextmanager
def somebody() -> Iterator[str]:
    """An ordinary user with ranges of ids, for as long as this lasts."""
    name = f"dms-bench-{os.getpid()}"
    subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", name], check=True)
    try:
        if f"{name}:" not in Path("/etc/subuid").read_text():
            ranges = f"{300_000_000}-{300_065_535}"
            subprocess.run(["usermod", "--add-subuids", ranges, "--add-subgids", ranges, name], check=True)
        yield name
    finally:
        subprocess.run(["userdel", name], check=True)


def interpreter(become: list[str]) -> str:
    """One that this user may execute: a virtual environment's may lie in root's own folder."""
    for path in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        if subprocess.run([*become, "test", "-x", path], check=False).returncode == 0:
            return path
    raise SystemExit("no interpreter of this version that an ordinary user may execute")


def as_somebody() -> int:
    with somebody() as name, tempfile.TemporaryDirectory(prefix="dms-bench-", ignore_cleanup_errors=True) as scratch:
        shutil.chown(scratch, name, name)
        become = ["setpriv", "--reuid", name, "--regid", name, "--init-groups"]
        environment = {"PATH": os.environ["PATH"], "HOME": scratch, "TMPDIR": scratch}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent.parent / "src"), *filter(None, sys.path)])
        command = [*become, interpreter(become), str(HERE), *sys.argv[1:]]
        return subprocess.run(command, env=environment, cwd=scratch, check=False).returncode


async def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory(prefix="dms-bench-", ignore_cleanup_errors=True) as scratch:
        for runtime in sys.argv[2:] or ["crun", "runc"]:
            await measure(runtime, rounds, Path(scratch))


if __name__ == "__main__":
    if os.geteuid() == 0:
        sys.exit(as_somebody())
    asyncio.run(main())
