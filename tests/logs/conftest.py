"""What the tests of the log share: a folder of an execution, and a guard against a blocked event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from dms_executor.logs import Watcher


@pytest.fixture(autouse=True)
def never_blocks() -> Iterator[None]:
    with blockbuster_ctx():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    execution = tmp_path / "execution"
    execution.mkdir(mode=0o700)
    return execution


@pytest.fixture
async def watcher() -> AsyncIterator[Watcher]:
    asyncio.get_running_loop().set_debug(True)
    async with Watcher() as shared:
        yield shared
