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
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["EMPTY", "LIMIT", "ROOT", "RUN", "Block", "blocks", "pages", "prints", "program_of", "run_block"]

ROOT = Path(__file__).parents[2]
EMPTY = "<!-- in an empty folder -->"
RUN = ("python", "sh")
DATA = ("yaml", "toml", "json", "ini")
SHOWN = ("text", "mermaid", "")
LIMIT = 100.0
# A fragment without an import has these names.
_PRELUDE = "from dms_executor import *\nfrom dms_executor.oci import OciSpec\n"

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


def program_of(block: Block) -> str:
    """A Python block as a program."""
    return block.text if re.search(r"^(from|import) ", block.text, re.MULTILINE) else _PRELUDE + block.text


def run_block(
    block: Block, number: int, folder: Path, environment: dict[str, str], python: str = sys.executable
) -> None:
    """It ends well and prints what the page says."""
    if block.kind == "sh":
        command = ["bash", "-euo", "pipefail", "-c", block.text]
    else:
        program = folder / f"block{number}.py"
        program.write_text(program_of(block))
        command = [python, str(program)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    if block.printed is not None:
        assert prints(block.printed, done.stdout), f"{block.text}\nprinted\n{done.stdout}\nnot\n{block.printed}"
