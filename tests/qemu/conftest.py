from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dms_executor import Executor
from dms_executor.policy import Policy
from dms_executor.types import Settings
from tests import qemus


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: kernel, initrd and root image are made once."""
    return tmp_path_factory.mktemp("qemu") / "state"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What requests may name."""
    return tmp_path_factory.mktemp("named")


@pytest.fixture
async def executor(state: Path, rootfs: Path, folder: Path) -> AsyncIterator[Executor]:
    policy = Policy(read_roots=(rootfs, folder), write_roots=(folder,), missing_defaults="record")
    async with Executor.open(state, policy=policy, settings=Settings(engines={"qemu": qemus.settings()})) as opened:
        yield opened
