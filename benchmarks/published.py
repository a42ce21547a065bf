"""What one run of the benchmarks found, as Markdown to read and JSON to compare: with the machine and all versions."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from compare import Times

__all__ = ["Rates", "Workload", "ratio", "write"]

_PROGRAMS = ("crun", "runc", "dockerd", "podman")
_PACKAGES = ("dms-executor", "docker", "aiodocker")


class Workload(NamedTuple):
    """`what` says in a sentence what is done. `ours`: those of the contestants whose ratios to the others are given."""

    name: str
    what: str
    times: Times
    ours: list[str]


class Rates(NamedTuple):
    """Jobs per second, by how many are in flight and then by contestant."""

    name: str
    what: str
    rates: dict[int, dict[str, float]]


def ratio(times: Times, name: str, peer: str) -> float:
    """The median of the ratios, round by round."""
    return statistics.median(ours / bare for ours, bare in zip(times[name], times[peer], strict=True))


def write(folder: Path, workloads: list[Workload], rates: list[Rates], missing: dict[str, str]) -> None:
    """`results.json` and `results.md`. `missing`: the contestants that took no part, each with the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "measured": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": _machine(),
        "versions": _versions(),
        "missing": missing,
        "workloads": [_summary(workload) for workload in workloads],
        "rates": [
            {"name": name, "what": what, "unit": "1/s", "in_flight": {str(n): of for n, of in table.items()}}
            for name, what, table in rates
        ],
    }
    (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "results.md").write_text("\n".join(_markdown(found)) + "\n")


def _summary(workload: Workload) -> dict[str, Any]:
    times = workload.times
    return {
        "name": workload.name,
        "what": workload.what,
        "unit": "ms",
        "ours": workload.ours,
        "contestants": {
            name: {
                "median": round(statistics.median(values), 2),
                "p90": round(statistics.quantiles(values, n=10)[-1], 2),
                "ratios": {ours: round(ratio(times, ours, name), 3) for ours in workload.ours if ours != name},
                "times": [round(value, 3) for value in values],
            }
            for name, values in times.items()
        },
    }


def _markdown(found: dict[str, Any]) -> list[str]:
    lines = [f"# Measured {found['measured']}", ""]
    lines += ["Written by `scripts/bench all`; the times of each round are in `results.json`. A ratio is the median of"]
    lines += ["the ratios of each round, in which every contestant had its turn; below 1 ours is faster.", ""]
    for workload in found["workloads"]:
        contestants, ours = workload["contestants"], workload["ours"]
        lines += [f"## {workload['name']}", "", workload["what"], ""]
        lines += ["| | median, ms | p90, ms | " + " | ".join(f"{name} / this" for name in ours) + " |"]
        lines += ["|---" * (3 + len(ours)) + "|"]
        for name, of in contestants.items():
            ratios = [f"{of['ratios'][other]:.2f}" if other in of["ratios"] else "" for other in ours]
            lines += [f"| {name} | {of['median']:.1f} | {of['p90']:.1f} | " + " | ".join(ratios) + " |"]
        lines += [""]
    for table in found["rates"]:
        levels = table["in_flight"]
        lines += [f"## {table['name']}", "", table["what"], ""]
        lines += ["| in flight | " + " | ".join(levels) + " |", "|---" * (1 + len(levels)) + "|"]
        for name in next(iter(levels.values())):
            lines += [f"| {name} | " + " | ".join(f"{of[name]:.1f}" for of in levels.values()) + " |"]
        lines += [""]
    lines += ["## Conditions", ""]
    lines += [f"- {what}: {value}" for what, value in found["machine"].items()]
    lines += [f"- {program}: {version}" for program, version in found["versions"].items()]
    lines += [f"- missing: {name}, {why}" for name, why in found["missing"].items()]
    return lines


def _machine() -> dict[str, str]:
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = named[0].partition(":")[2].strip() if named else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    hybrid = Path("/sys/fs/cgroup/unified").is_dir()
    return {
        "processors": f"{os.cpu_count()} of {model}",
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release().partition("-")[0],
        "control groups": "version 2" if unified else "hybrid" if hybrid else "version 1",
        "Python": platform.python_version(),
        "load when it was over": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def _versions() -> dict[str, str]:
    found = {}
    for program in _PROGRAMS:
        if path := shutil.which(program):
            found[program] = subprocess.run([path, "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
