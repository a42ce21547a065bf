"""What a run of the benchmarks says: ratios are taken pair by pair, who took no part is named, aims are judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from aims import Aim, met
from published import Workload, summary, write

# A machine that slows down meanwhile: of the medians ours would be 10 times slower.
LAUNCH = Workload("launch", "A launch", "One <job>.", {"ours, crun": [1.0, 10.0, 100.0], "crun run": [2.0, 1.0, 200.0]})
RATE = Workload("rate", "Jobs", "Several.", {"ours, crun": [20.0, 24.0], "crun run": [10.0, 6.0]}, "jobs/s", True)


def published(folder: Path) -> tuple[dict[str, Any], str]:
    write(folder, [summary(LAUNCH), summary(RATE)], {"podman run": "podman is not installed"})
    return json.loads((folder / "results.json").read_text()), (folder / "results.md").read_text()


def test_a_ratio_is_the_median_of_the_pairs(tmp_path: Path) -> None:
    found, text = published(tmp_path)
    peer = found["workloads"][0]["contestants"]["crun run"]
    assert (peer["median"], peer["ratios"]) == (2.0, {"ours, crun": 0.5})
    assert "| crun run | 2.00 | 160.4 | 0.50 |" in text


def test_who_is_missing_is_named_with_the_machine(tmp_path: Path) -> None:
    found, text = published(tmp_path)
    assert found["missing"] == {"podman run": "podman is not installed"}
    assert "- missing: podman run: podman is not installed" in text
    assert "- kernel: " in text


def test_a_plot_shows_each_contestant_the_best_first(tmp_path: Path) -> None:
    published(tmp_path)
    for key, first in (("launch", "crun run"), ("rate", "ours, crun")):
        picture = ElementTree.fromstring((tmp_path / f"{key}.svg").read_text())
        words = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
        names = [word for word in words if word in LAUNCH.values]
        assert names[0] == first
        assert len(names) == 2


def test_aims_are_judged_by_what_was_seen() -> None:
    aims = [
        Aim("slower by", "launch", "ours, crun", "crun run", 1.5),
        Aim("faster by", "launch", "ours, crun", "crun run", 3, True),
        Aim("more a second", "rate", "ours, crun", "crun run", 3, True),
        Aim("ms more", "launch", "ours, crun", "-crun run", 7),
        Aim("ms", "launch", "ours, crun", "", 20),
        Aim("of who is missing", "launch", "ours, crun", "docker run", 8, True),
    ]
    verdicts = [(seen, verdict) for _, seen, verdict in met([summary(LAUNCH), summary(RATE)], aims)]
    assert verdicts == [
        ("0.50", "met"),
        ("2.00", "**missed**"),
        ("3.00", "met"),
        ("8.00", "**missed**"),
        ("10.00", "met"),
        ("", "not measured"),
    ]
