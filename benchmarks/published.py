"""What one run of the benchmarks found, as Markdown to read, JSON to compare and plots: with machine and versions."""

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

from aims import met
from plot import bars

__all__ = ["Workload", "ratio", "summary", "write"]

_PROGRAMS = ("crun", "runc", "dockerd", "podman", "umoci")
_PACKAGES = ("dms-executor", "docker", "aiodocker")
_OURS = ("ours", "dms-executor run", "import dms_executor")


class Workload(NamedTuple):
    """`key` names it in files; `what` says in a sentence what is done.

    `values` are of each contestant, in the order of the rounds, in `unit`; less is better, unless `higher`.
    """

    key: str
    name: str
    what: str
    values: dict[str, list[float]]
    unit: str = "ms"
    higher: bool = False


def ratio(values: dict[str, list[float]], name: str, peer: str) -> float:
    """The median of the ratios, round by round; the rounds that only one has are left out."""
    return statistics.median(ours / bare for ours, bare in zip(values[name], values[peer], strict=False))


def summary(workload: Workload) -> dict[str, Any]:
    """It as JSON has it."""
    values = {name: of for name, of in workload.values.items() if of}
    ours = [name for name in values if name.startswith(_OURS)]
    return {
        **{"key": workload.key, "name": workload.name, "what": workload.what, "unit": workload.unit},
        "better": "higher" if workload.higher else "lower",
        "ours": ours,
        "contestants": {
            name: {
                "median": round(statistics.median(of), 3),
                "p90": round(_p90(of), 3),
                "ratios": {other: round(ratio(values, other, name), 3) for other in ours if other != name},
                "values": [round(value, 3) for value in of],
            }
            for name, of in values.items()
        },
    }


def _p90(values: list[float]) -> float:
    return statistics.quantiles(values, n=10, method="inclusive")[-1] if len(values) > 1 else values[0]


def write(folder: Path, workloads: list[dict[str, Any]], missing: dict[str, str], took: float = 0.0) -> None:
    """`results.json`, `results.md` and a plot of each workload. `missing`: who took no part, each with the reason."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "measured": datetime.now(UTC).isoformat(timespec="minutes"),
        "seconds": round(took),
        "machine": _machine(),
        "versions": _versions(),
        "missing": missing,
        "workloads": workloads,
    }
    for workload in workloads:
        (folder / f"{workload['key']}.svg").write_text(bars(workload))
    (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "results.md").write_text("\n".join(_markdown(found)) + "\n")


def _markdown(found: dict[str, Any]) -> list[str]:
    lines = [f"# Measured {found['measured']}", ""]
    lines += [
        "Written by `scripts/bench publish`; each round's figures are in `results.json`. Every contestant has its"
    ]
    lines += [
        "turn in each round. A ratio is the median of the ratios of the rounds, ours to the contestant of the line."
    ]
    lines += ["", "## Aims", "", "| aim | seen | |", "|---|---|---|"]
    lines += [f"| {what} | {seen} | {verdict} |" for what, seen, verdict in met(found["workloads"])]
    lines += [""]
    for workload in found["workloads"]:
        contestants, ours, unit = workload["contestants"], workload["ours"], workload["unit"]
        lines += [f"## {workload['name']}", "", f"{workload['what']} More is better." if _more(workload) else ""]
        lines[-1] = lines[-1] or workload["what"]
        lines += ["", f"![{workload['name']}]({workload['key']}.svg)", ""]
        lines += [f"| | median, {unit} | p90, {unit} | " + "".join(f"{name} / this | " for name in ours)]
        lines += ["|---" * (3 + len(ours)) + "|"]
        for name, of in contestants.items():
            ratios = [f"{of['ratios'][other]:.2f}" if other in of["ratios"] else "" for other in ours]
            lines += [
                f"| {name} | {_figure(of['median'])} | {_figure(of['p90'])} | " + "".join(f"{r} | " for r in ratios)
            ]
        lines += [""]
    lines += ["## Conditions", ""]
    lines += [f"- {what}: {value}" for what, value in found["machine"].items()]
    lines += [f"- {program}: {version}" for program, version in found["versions"].items()]
    lines += [f"- missing: {name}: {why}" for name, why in found["missing"].items()]
    lines += [f"- all of it took {found['seconds']} s"]
    return [line.rstrip() for line in lines]


def _more(workload: dict[str, Any]) -> bool:
    return workload["better"] == "higher"


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


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
        "load when it was over (1, 5, 15 minutes)": " ".join(f"{load:.1f}" for load in os.getloadavg()),
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
