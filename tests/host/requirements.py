"""What the host's Python needs: this package's dependencies and those of its tests, but not the compiler (300 MB).

usage: requirements.py PYPROJECT               the requirements, for pip
       requirements.py PYPROJECT CONSTRAINTS   and the pins of what may go into the host
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

# Pinned for documentation, checks, packaging and peers only. One that is missing here costs a build too many; that none
# is here which the host needs, tests/host/test_boot.py sees to.
_ELSEWHERE = re.compile(
    "aiodocker|ast_serialize|babel|backrefs|build|certifi|charset-normalizer|colorama|docker|ghp-import|griffelib|hatchling|"
    "Jinja2|librt|Markdown|MarkupSafe|mergedeep|mkdocs.*|mypy.*|paginate|pathspec|platformdirs|pymdown-extensions|"
    "pyproject_hooks|python-dateutil|pyyaml_env_tag|requests|ruff|trove-classifiers|types-.*|tzdata|urllib3|watchdog|ziglang"
)


def wanted(pyproject: Path) -> list[str]:
    """The requirements, as pip reads them."""
    project = tomllib.loads(pyproject.read_text())["project"]
    lines: list[str] = project["dependencies"] + project["optional-dependencies"]["test"]
    return [line for line in lines if not line.startswith("ziglang")]


def pins(constraints: Path) -> list[str]:
    """The pins that may go into the host."""
    return [line for line in constraints.read_text().split() if not _ELSEWHERE.fullmatch(line.partition("==")[0])]


if __name__ == "__main__":
    print("\n".join([*wanted(Path(sys.argv[1])), *(pin for file in sys.argv[2:] for pin in pins(Path(file)))]))
