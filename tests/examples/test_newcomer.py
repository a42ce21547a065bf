"""A newcomer's way: README line by line, by an ordinary user with the wheel in an environment of its own.

In the host, where `.ci/on-host full` has put the wheel: `scripts/host --systemd --user guest`. pip finds what the wheel
needs in a folder, as nothing there reaches an index; what apt would install is there already, which is looked at.
As root, in clean roots of Debian's releases: `scripts/newcomer`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .newcomer import environment_in, walk

PACKAGE = Path("/out/wheels")  # brought into the host
DEPENDENCIES = Path("/opt/wheels")  # tests/host/build leaves them there

pytestmark = pytest.mark.skipif(
    not list(PACKAGE.glob("dms_executor-*.whl")), reason="needs the wheel, in a host of our own: .ci/on-host full"
)


def test_readme_line_by_line(tmp_path: Path) -> None:
    assert os.geteuid() != 0, "a newcomer is an ordinary user here"
    folder = tmp_path / "first-day"
    folder.mkdir()
    links = f"{PACKAGE} {DEPENDENCIES}"
    walk(folder, environment_in(folder, PIP_NO_INDEX="1", PIP_FIND_LINKS=links))
