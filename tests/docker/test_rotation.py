"""What the daemon's own rotation took of a log while nobody followed it appears as a gap, and nothing comes twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dms_executor.docker import output
from dms_executor.docker.client import Client
from dms_executor.docker.output import attach, logged
from dms_executor.engine import Chunk
from tests.daemons import SESSIONS

SESSION = SESSIONS["docker"]
# As the engine asks for it, with the least that a file may hold: rotations take what is beyond three.
LOG = ["--log-driver", "local", "--log-opt", "max-size=64k", "--log-opt", "max-file=3", "--log-opt", "compress=false"]
BEFORE = 40


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    SESSION.needed()
    client = Client(str(SESSION.daemon().socket))
    yield client
    await client.close()


def container(image: str, before: int, after: int) -> str:
    """One that prints `before` numbered lines of 100 bytes, and so many more once it gets USR1."""
    lines = "awk -v a=%d -v b=%d 'BEGIN { for (i = a; i < b; i++) printf \"%%099d\\n\", i }'"
    more = lines % (before, before + after)
    script = f'trap "$MORE; exit" USR1; {lines % (0, before)}; while :; do sleep 60 & wait $!; done'
    words = ["create", "--network", "none", "-e", f"MORE={more}", *LOG, image, "sh", "-c", script]
    return SESSION.daemon().client(*words).stdout.decode().strip()


async def until(chunks: AsyncIterator[Chunk], size: int) -> bytes:
    """The cursor once so many bytes came."""
    got = 0
    async for chunk in chunks:
        got += len(chunk.data)
        if got >= size:
            assert got == size
            return chunk.cursor
    pytest.fail(f"{got} of {size} bytes")


def more(name: str) -> None:
    SESSION.daemon().client("kill", "--signal", "USR1", name)
    SESSION.daemon().client("wait", name)


@pytest.mark.parametrize("before", [BEFORE, 1000], ids=["little", "much"])
@pytest.mark.parametrize("followed", ["attached", "logged"])
async def test_a_rotation_is_a_gap(
    client: Client, rootfs: Path, before: int, followed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_LATE", 0.0 if before == BEFORE else output._LATE)  # nobody waits for seconds here
    name = container(SESSION.with_image(rootfs), before, 8000)
    try:
        if followed == "attached":
            stream = await attach(client, name, 0)
            SESSION.daemon().client("start", name)
            chunks = stream.chunks()
        else:
            SESSION.daemon().client("start", name)
            chunks = logged(client, name, None)
        cursor = await until(chunks, before * 100)
        await chunks.aclose()  # type: ignore[attr-defined]
        if followed == "attached":
            await stream.close()
        more(name)
        found = [chunk async for chunk in logged(client, name, cursor)]
        assert [chunk.lost for chunk in found if chunk.lost] == [{"stderr": 1, "stdout": 1}]
        assert found[0].lost
        numbers = [int(line) for line in b"".join(chunk.data for chunk in found).split()]
        assert before < numbers[0]
        assert numbers == list(range(numbers[0], before + 8000))
        assert [chunk async for chunk in logged(client, name, found[-1].cursor)] == []
    finally:
        SESSION.daemon().client("rm", "--force", name)


@pytest.mark.parametrize("followed", ["attached", "logged"])
async def test_without_a_rotation_nothing_is_missing(client: Client, rootfs: Path, followed: str) -> None:
    name = container(SESSION.with_image(rootfs), BEFORE, 100)
    try:
        if followed == "attached":
            stream = await attach(client, name, 0)
            SESSION.daemon().client("start", name)
            cursor = await until(stream.chunks(), BEFORE * 100)
            await stream.close()
        else:
            SESSION.daemon().client("start", name)
            cursor = await until(logged(client, name, None), BEFORE * 100)
        more(name)
        found = [chunk async for chunk in logged(client, name, cursor)]
        assert not any(chunk.lost for chunk in found)
        numbers = [int(line) for line in b"".join(chunk.data for chunk in found).split()]
        assert numbers == list(range(BEFORE, BEFORE + 100))
    finally:
        SESSION.daemon().client("rm", "--force", name)
