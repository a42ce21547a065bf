"""Runs pytest in several processes, each on its part of the tests: a host has several processors.

usage: python -m tests.host.shards COUNT PYTEST-WORDS...   The exit code is the worst of theirs. As a plug-in of pytest
(`-p tests.host.shards`) it keeps every COUNTth test, by the variable DMS_EXECUTOR_SHARD="NUMBER/COUNT".
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import pytest

_REPORT = "--junitxml="
_NO_TESTS = 5


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """After all others have chosen: the parts are of what is left."""
    number, count = map(int, os.environ["DMS_EXECUTOR_SHARD"].split("/"))
    config.hook.pytest_deselected(items=[item for at, item in enumerate(items) if at % count != number])
    items[:] = items[number::count]


def words_of(number: int, words: list[str]) -> list[str]:
    """Each has a report of its own: junit.xml, junit-1.xml, ..."""
    named = [word.replace(".xml", f"-{number}.xml") if word.startswith(_REPORT) and number else word for word in words]
    return [sys.executable, "-m", "pytest", "-p", "tests.host.shards", *named]


def main() -> int:
    """The first one's output comes as it is written, the others' when they have ended."""
    count, words = int(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        started = [_started(number, count, words, Path(folder)) for number in range(count)]
        codes = []
        for process, output in started:
            codes.append(process.wait())
            if output is not None:
                output.seek(0)
                sys.stdout.write(output.read())
                sys.stdout.flush()
                output.close()
    ran = [code for code in codes if code != _NO_TESTS]
    return max(ran, key=abs) if ran else _NO_TESTS


def _started(number: int, count: int, words: list[str], folder: Path) -> tuple[subprocess.Popen[bytes], IO[str] | None]:
    output = None if number == 0 else open(folder / str(number), "w+", errors="replace")  # noqa: SIM115
    environment = {**os.environ, "DMS_EXECUTOR_SHARD": f"{number}/{count}"}
    process = subprocess.Popen(words_of(number, words), env=environment, stdout=output, stderr=output)
    return process, output


if __name__ == "__main__":
    sys.exit(main())
