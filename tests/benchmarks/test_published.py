"""What a run of the benchmarks says: ratios are taken pair by pair, and who took no part is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from published import Rates, Workload, write


def published(folder: Path) -> tuple[dict[str, object], str]:
    # A machine that slows down meanwhile: of the medians ours would be 10 times slower.
    times = {"ours": [1.0, 10.0, 100.0], "peer": [2.0, 1.0, 200.0]}
    rates = Rates(
        "Jobs per second", "Several at once.", {1: {"ours": 8.0, "peer": 2.0}, 4: {"ours": 20.0, "peer": 3.0}}
    )
    launch = Workload("A launch", "One container.", times, ["ours"])
    write(folder, [launch], [rates], {"podman run": "podman is not installed"})
    return json.loads((folder / "results.json").read_text()), (folder / "results.md").read_text()


def test_a_ratio_is_the_median_of_the_pairs(tmp_path: Path) -> None:
    found, text = published(tmp_path)
    peer = found["workloads"][0]["contestants"]["peer"]  # type: ignore[index]
    assert (peer["median"], peer["ratios"]) == (2.0, {"ours": 0.5})
    assert "| peer | 2.0 |" in text
    assert "| 0.50 |" in text


def test_who_is_missing_is_named_with_the_machine(tmp_path: Path) -> None:
    found, text = published(tmp_path)
    assert found["missing"] == {"podman run": "podman is not installed"}
    assert "- missing: podman run, podman is not installed" in text
    assert "- kernel: " in text


def test_jobs_per_second_stand_by_how_many_are_in_flight(tmp_path: Path) -> None:
    found, text = published(tmp_path)
    assert found["rates"][0]["in_flight"]["4"] == {"ours": 20.0, "peer": 3.0}  # type: ignore[index]
    assert "| ours | 8.0 | 20.0 |" in text
