"""Says which tests of a report were skipped and why, and fails where the reason is none that was announced.

usage: skips.py FOLDER [PATTERN...]   FOLDER: what `scripts/host --out` was given; PATTERN: a regular expression for
reasons that are right on that host. A report that is missing, or holds no test, fails too.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path


def main() -> int:
    folder, patterns = Path(sys.argv[1]), sys.argv[2:]
    reports = [ElementTree.parse(path).getroot() for path in sorted(folder.glob("junit*.xml"))]
    cases = [case for report in reports for case in report.iter("testcase")]
    reasons = Counter(reason for case in cases for reason in reasons_of(case))
    unexpected = unannounced(list(reasons), patterns)
    for reason, count in reasons.items():
        print(f"skipped: {count} x {reason}" + ("  <- this host has it" if reason in unexpected else ""))
    print(f"{len(cases)} tests, {reasons.total()} skipped")
    return 1 if unexpected or not cases else 0


def reasons_of(case: ElementTree.Element) -> list[str]:
    return [skipped.get("message", "") for skipped in case.iter("skipped")]


def unannounced(reasons: list[str], patterns: list[str]) -> list[str]:
    return [reason for reason in reasons if not any(re.search(pattern, reason) for pattern in patterns)]


if __name__ == "__main__":
    sys.exit(main())
