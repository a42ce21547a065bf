"""The code blocks of README and docs: what kind each is, what it should print, or why it is not run.

A page is one working day in one folder: its blocks are run in order, each sees what those before it have left. There
is a root of busybox in it, but for a page that says

<!-- in an empty folder -->

Above a block:
<!-- file: NAME -->          the block is saved under that name, for the blocks below it
<!-- not run: REASON -->     the block is shown only
a ```text block right below  what the block above prints to stdout; … stands for anything within a line, or for lines
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["EMPTY", "ROOT", "Block", "blocks", "pages", "prints"]

ROOT = Path(__file__).parents[2]
EMPTY = "<!-- in an empty folder -->"
RUN = ("python", "sh")
DATA = ("yaml", "toml", "json", "ini")
SHOWN = ("text", "mermaid", "")

_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>file|not run): (?P<word>[^\n]*?) -->\n)?"
    r"^```(?P<kind>[a-z]*)[^\n]*\n(?P<text>.*?)^```$"
    r"(?:\n+```text\n(?P<printed>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """One block of a page."""

    kind: str
    text: str
    file: str
    not_run: str
    printed: str | None


def pages() -> list[str]:
    """README and every page of docs, by their paths."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(page.relative_to(ROOT)) for page in found]


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    found = []
    for match in _BLOCK.finditer((ROOT / page).read_text()):
        mark, word = match["mark"], match["word"] or ""
        printed = match["printed"] if match["kind"] in RUN else None
        file, reason = (word if mark == "file" else ""), (word if mark == "not run" else "")
        found.append(Block(match["kind"], match["text"], file, reason, printed))
    return found


def prints(expected: str, output: str) -> bool:
    """Whether the output is what the page says."""
    lines = [re.escape(line).replace("…", ".*") for line in expected.splitlines()]
    pattern = "".join(r"(?:.*\n)*" if line == ".*" else f"{line}\n" for line in lines)
    return re.fullmatch(pattern, output if output.endswith("\n") or not output else f"{output}\n") is not None
