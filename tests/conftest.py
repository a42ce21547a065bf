"""What all tests share: a state folder, a root tree of busybox, and guards against a blocked event loop."""

from __future__ import annotations

import linecache
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from dms_executor.conformance import plugin
from tests.daemons import end_sessions

_FOLDERS = ("bin", "dev", "etc", "proc", "sys", "tmp", "root")
_RUNTIME = os.environ.get("DMS_EXECUTOR_OCI_RUNTIME", "")


def pytest_configure(config: pytest.Config) -> None:
    # asyncio's debug mode for every loop of the tests; an executor in a child process gets it, too.
    os.environ.setdefault("PYTHONASYNCIODEBUG", "1")
    # It takes a stack for each future, for which linecache looks whether each file has changed: none does here.
    linecache.checkcache = lambda filename=None: None
    # An installed package brings the plug-in by its entry point, a bare checkout does not.
    if not config.pluginmanager.is_registered(plugin):
        config.pluginmanager.register(plugin, "dms_executor_conformance")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-k runc` finds what either runtime is good for, too, where it is told to be runc."""
    if _RUNTIME:
        for item in items:
            if "oci_runtime" in getattr(item, "fixturenames", ()):
                item.extra_keyword_matches.add(_RUNTIME)


def pytest_unconfigure(config: pytest.Config) -> None:
    end_sessions()


@pytest.fixture(autouse=True)
def package_never_blocks() -> Iterator[None]:
    """The package may not block the event loop; the tests themselves may."""
    with blockbuster_ctx("dms_executor", excluded_modules=["dms_executor.conformance"]):
        yield


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root tree of nothing but busybox (Debian: busybox-static)."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox here: apt-get install busybox-static")
    root = tmp_path_factory.mktemp("rootfs")
    for name in _FOLDERS:
        (root / name).mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000::/tmp:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\nguest:x:1000:\n")
    shutil.copy(busybox, root / "bin" / "busybox")
    listed = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout
    for name in listed.split():
        if not name.startswith("[") and name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    return root


@pytest.fixture(scope="session")
def oci_runtime() -> str:
    """crun or runc, if this machine can run containers as root; DMS_EXECUTOR_OCI_RUNTIME says which it must be."""
    names = [_RUNTIME] if _RUNTIME else ["crun", "runc"]
    found = next((name for name in names if shutil.which(name)), None)
    if os.geteuid() != 0 or found is None:
        is_required = os.geteuid() == 0 and set(names) & set(os.environ.get("DMS_EXECUTOR_REQUIRE", "").split(","))
        (pytest.fail if is_required else pytest.skip)(f"needs root, and {' or '.join(names)}")
    return found
