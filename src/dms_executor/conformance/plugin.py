"""The pytest plug-in: the marker `conformance`, which lines apply to which subject, and the table that says so.

It loads nothing of the package until a test bears the marker.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .bench import Bench
    from .standing import Standing

__all__ = ["bench"]

_MARKER = (
    "conformance(section, needs, lacks): a line of dms-executor's specification; it applies to a subject that "
    "provides all of `needs` and none of `lacks`"
)
_TABLES = pytest.StashKey[dict[str, "_Table"]]()

# Before the lines are imported, so that their failing assertions print values.
pytest.register_assert_rewrite("dms_executor.conformance.lines")


@dataclass
class _Table:
    applies: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    problem: str = ""


@pytest.fixture
def bench(subject: Any, tmp_path: Path) -> Bench:
    """A line's own state folder and executor, over the engine that `subject` gives."""
    from .bench import Bench

    return Bench(subject, tmp_path)


def pytest_configure(config: pytest.Config) -> None:
    """Adds the marker."""
    config.addinivalue_line("markers", _MARKER)
    config.stash[_TABLES] = {}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Takes out the lines that do not apply, and counts them: of those that were selected, so that an engine whose
    lines are not is not even probed.
    """
    standings: dict[str, Standing] = {}
    kept, out = [], []
    for item in items:
        marker = item.get_closest_marker("conformance")
        if marker is None or _applies(item, marker, config.stash[_TABLES], standings):
            kept.append(item)
        else:
            out.append(item)
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = kept


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist sends its tables to the process that prints."""
    config = session.config
    if hasattr(config, "workeroutput"):
        tables = config.stash[_TABLES]
        config.workeroutput["conformance"] = {
            title: (table.applies, dict(table.missing), table.problem) for title, table in tables.items()
        }


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes a worker's tables: each worker has counted all the lines."""
    for title, (applies, missing, problem) in getattr(node, "workeroutput", {}).get("conformance", {}).items():
        node.config.stash[_TABLES][title] = _Table(applies, Counter(missing), problem)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints which lines applied."""
    for title, table in config.stash[_TABLES].items():
        needs = ", ".join(f"{word}: {count}" for word, count in sorted(table.missing.items()))
        text = f"conformance: engine {title}: {table.applies} lines apply, {table.missing.total()} do not"
        terminalreporter.write_line(text + (f" (need {needs})" if needs else ""))
        if table.problem:
            terminalreporter.write_line(f"conformance: engine {title} is not usable here: {table.problem}")


def _applies(item: pytest.Item, marker: pytest.Mark, tables: dict[str, _Table], standings: dict[str, Standing]) -> bool:
    from .standing import standing_of

    callspec = getattr(item, "callspec", None)
    subject = callspec.params.get("subject") if callspec is not None else None
    if subject is None:
        raise pytest.UsageError(
            f"{item.nodeid}: give the subject as a fixture with params: @pytest.fixture(params=[MySubject()], ids=str)"
        )
    title = subject.title
    if title not in standings:
        standings[title] = standing_of(subject)
    standing = standings[title]
    table = tables.setdefault(title, _Table())
    if standing.problem:
        table.problem = standing.problem
        if not _required(title):
            item.add_marker(pytest.mark.skip(reason=f"engine {title}: {standing.problem}"))
    needs, lacks = marker.kwargs["needs"], marker.kwargs["lacks"]
    missing = [] if standing.problem else sorted(needs - standing.provides)
    missing += [f"no {word}" for word in sorted(lacks & standing.provides)]
    if missing:
        table.missing[" and ".join(missing)] += 1
        return False
    table.applies += 1
    return True


def _required(title: str) -> bool:
    """Whether DMS_EXECUTOR_REQUIRE names the subject, or a part of its title: its absence is a failure then."""
    wanted = {word for word in os.environ.get("DMS_EXECUTOR_REQUIRE", "").split(",") if word}
    return bool(wanted & {title, *title.split("-")})
