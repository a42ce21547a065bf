"""Build hook: compiles `dms-shim` and `dms-init` into the package, and gives the wheel its architecture's tag."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _native_build(root: Path) -> ModuleType:
    """`native/build.py`, which is no part of a package and so is loaded by its path."""
    spec = importlib.util.spec_from_file_location("dms_native_build", root / "native" / "build.py")
    if spec is None or spec.loader is None:
        raise RuntimeError("native/build.py is missing from the source tree")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Wheels and editable installs hold the two static programs; a source distribution holds their source."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles, unless the sources are unchanged. `version` is `standard` or `editable`."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        native = _native_build(root)
        native.build(root / "src" / "dms_executor" / "bin")
        machine = native.architecture()
        # The programs are static: one file serves glibc and musl hosts (PEP 600, PEP 656).
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_17_{machine}.musllinux_1_1_{machine}"
