"""Opening and closing: nothing of either is left half done, and engines outlive what still calls them."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Self

import msgspec
import pytest

from dms_executor import ByteSize, Executor, opening, registry
from dms_executor.engine import EngineContext
from dms_executor.errors import ExecutionCancelled, StateTooNew
from dms_executor.firecracker import FirecrackerSettings
from dms_executor.images.limits import ImageLimits
from dms_executor.oci import OciSettings
from dms_executor.qemu import QemuSettings
from dms_executor.types import Settings

from .stand_in import StandIn, request


async def test_a_cancelled_opening_gives_the_folder_back(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = opening._take

    def slow(folder: Path) -> object:
        time.sleep(0.2)
        return take(folder)

    async def whole() -> None:
        async with Executor.open(state_dir):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(opening, "_take", slow)
        task = asyncio.create_task(whole())
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait({task})
        await asyncio.sleep(0.3)
    await whole()


async def test_a_refused_opening_leaves_no_descriptor_and_no_thread(state_dir: Path) -> None:
    async with Executor.open(state_dir):
        pass
    with sqlite3.connect(state_dir / "journal.db") as database:
        database.execute("PRAGMA user_version=1000")
    database.close()
    await asyncio.to_thread(int)  # the loop's own threads, which stay
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(StateTooNew):
            async with Executor.open(state_dir):
                pass
    assert len(os.listdir("/proc/self/fd")) == before
    await asyncio.sleep(0.1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dms-journal")]


@pytest.mark.parametrize("kind", [OciSettings, QemuSettings, FirecrackerSettings])
async def test_an_engine_s_settings_are_its_struct_or_a_dict(
    state_dir: Path, kind: type[OciSettings | QemuSettings | FirecrackerSettings]
) -> None:
    class Told(StandIn):
        settings: ClassVar[type[msgspec.Struct]] = kind

        @classmethod
        @asynccontextmanager
        async def open(cls, context: EngineContext) -> AsyncIterator[Self]:
            told.append(context.settings)
            yield cls(context)

    told: list[object] = []
    registry.register(Told)
    struct = kind(image_limits=ImageLimits(size=ByteSize("5GiB")))
    for given in (struct, {"image_limits": {"size": "5GiB"}}):
        async with Executor.open(state_dir, settings=Settings(engines={"stand-in": given})) as executor:
            await executor.run(request("struct" if given is struct else "dict"))
    assert told == [struct, struct]


async def test_an_engine_is_closed_after_what_still_calls_it(state_dir: Path) -> None:
    class Session(StandIn):
        @classmethod
        @asynccontextmanager
        async def open(cls, context: EngineContext) -> AsyncIterator[Self]:
            yield cls(context)
            cls.called.append("closed")

    registry.register(Session)
    async with Executor.open(state_dir) as executor:
        starting = asyncio.create_task(executor.start(request("one", prepare=60)))
        await asyncio.sleep(0.1)
    with pytest.raises(ExecutionCancelled):
        await starting
    assert Session.called == ["destroy", "closed"]
