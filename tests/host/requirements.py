"""What the host's Python needs: this package's dependencies and those of its tests, but not the compiler (300 MB)."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
wanted = project["dependencies"] + project["optional-dependencies"]["test"]
print("\n".join(line for line in wanted if not line.startswith("ziglang")))
