"""`echo hi` end to end in a microVM: microsandbox beside Firecracker and QEMU by this package, cold and warm, in turn.

Theirs is `msb run` of a root tree, which their wheel brings with its own kernel; ours is `Executor.run` of the same
tree in a process that stays, and `dms-executor run`, which pays for a Python that begins. The root tree lies on ext4,
which microsandbox asks of it. It takes a KVM that boots Linux:
`DMS_EXECUTOR_MSB=.../microsandbox/_bundled scripts/host python benchmarks/microsandbox.py`.

usage: python benchmarks/microsandbox.py [ROUNDS [KERNEL_ARGS]]   (DMS_EXECUTOR_FIRECRACKER, DMS_EXECUTOR_MSB)
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from dms_executor import ExecutionRequest, Executor, Policy, Settings
from dms_executor.firecracker import FirecrackerSpec
from dms_executor.microvm import warm
from dms_executor.qemu import QemuSpec
from dms_executor.types import SpecConfig
from roots import busybox_root

_SPECS: dict[str, Any] = {"firecracker": FirecrackerSpec, "qemu": QemuSpec}
_COLD, _WARM = 0.7, 0.15  # the aims: at most so many times theirs


def theirs(bundle: Path, home: Path, root: Path) -> float:
    """Seconds of `msb run`."""
    library = next((bundle / "lib").glob("libkrunfw.so*"))
    env = {
        **os.environ,
        "HOME": str(home),
        "MSB_PATH": str(bundle / "bin" / "msb"),
        "MSB_LIBKRUNFW_PATH": str(library),
    }
    words = [env["MSB_PATH"], "run", "--no-tty", "--no-stdin", str(root), "--", "echo", "hi"]
    began = time.perf_counter()
    done = subprocess.run(words, env=env, capture_output=True, timeout=600, check=False)
    took = time.perf_counter() - began
    if done.returncode != 0 or done.stdout.split() != [b"hi"]:
        raise SystemExit(f"msb ended with {done.returncode} and said {done.stdout!r}, {done.stderr!r}")
    return took


async def ours(state: Path, policy: Policy, engine: dict[str, Any], spec: SpecConfig, name: str) -> float:
    """Seconds of `run`, from a process that has looked at its host."""
    kind = spec.type or ""
    async with Executor.open(state, policy=policy, settings=Settings(engines={kind: engine})) as executor:
        await executor.probe(kind)
        began = time.perf_counter()
        result = await executor.run(ExecutionRequest(job_id="bench", execution_id=name, engine_spec=spec))
        took = time.perf_counter() - began
        if (result.exit_code, result.stdout) != (0, b"hi\n"):
            raise SystemExit(f"{name}: {result}")
        return took


def by_command(state: Path, settings: Path, kind: str, root: Path) -> float:
    """Seconds of `dms-executor run`."""
    words = [
        str(Path(sys.executable).with_name("dms-executor")),
        "--settings",
        str(settings),
        "--state-dir",
        str(state),
    ]
    words += ["run", "--engine", kind, f"rootfs:{root}", "echo", "hi"]
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, timeout=600, check=False)
    took = time.perf_counter() - began
    if done.returncode != 0 or done.stdout != b"hi\n":
        raise SystemExit(f"dms-executor ended with {done.returncode} and said {done.stdout!r}, {done.stderr!r}")
    return took


async def main(rounds: int, kernel_args: str) -> None:
    warm._DEADLINE = 600.0  # however slow an emulated host boots: no start is measured that makes a snapshot
    bundle = Path(os.environ.get("DMS_EXECUTOR_MSB") or sys.exit("DMS_EXECUTOR_MSB names no folder with bin/msb"))
    engines: dict[str, dict[str, Any]] = {}
    if program := os.environ.get("DMS_EXECUTOR_FIRECRACKER") or shutil.which("firecracker"):
        jailer = str(Path(program).with_name("jailer"))
        engines["firecracker"] = {"program": program, "jailer": jailer, "kernel_args": kernel_args}
    if shutil.which("qemu-system-x86_64"):
        engines["qemu"] = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        root, home = busybox_root(Path(folder) / "root"), Path(folder) / "home"
        home.mkdir()
        policy, state = Policy(read_roots=(root,), missing_defaults="record"), Path(folder) / "state"
        specs = {kind: _SPECS[kind](image=f"rootfs:{root}", cmd=["echo", "hi"]).build() for kind in engines}
        settings = Path(folder) / "settings.json"
        settings.write_bytes(msgspec.json.encode({"engines": engines}))
        print(f"the first of msb: {theirs(bundle, home, root):.2f} s", flush=True)
        for kind, engine in engines.items():  # kernel, initrd, root image and snapshot are made
            first = await ours(state, policy, engine, specs[kind], f"{kind}-first")
            print(f"the first of {kind}, with all that is made once: {first:.2f} s", flush=True)
        found: dict[str, list[float]] = {}
        for number in range(rounds):
            found.setdefault("msb", []).append(theirs(bundle, home, root))
            for kind, engine in engines.items():
                for way, more in (("cold", {"warm": False}), ("warm", {})):
                    took = await ours(state, policy, {**engine, **more}, specs[kind], f"{kind}-{way}-{number}")
                    found.setdefault(f"{kind} {way}", []).append(took)
                found.setdefault(f"{kind} command", []).append(by_command(state, settings, kind, root))
            print(", ".join(f"{name} {took[-1]:.2f} s" for name, took in found.items()), flush=True)
    for name, took in found.items():
        ratio = statistics.median(mine / msb for mine, msb in zip(took, found["msb"], strict=True))
        aim = f" (aim {_COLD})" if name.endswith("cold") else f" (aim {_WARM})" if name.endswith("warm") else ""
        print(f"{name}: median {statistics.median(took):.2f} s, {ratio:.2f} times msb{aim}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2] if len(sys.argv) > 2 else ""))
