"""A socket in front of a daemon's, by which a test holds a call up while something else happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["Hook", "relayed"]

Hook = Callable[[str], Awaitable[None]]


@asynccontextmanager
async def relayed(daemon: Path, socket: Path, *, asked: Hook, answered: Hook) -> AsyncIterator[None]:
    """`asked` has every call, "GET /v1.41/info", before the daemon, `answered` before its caller has the answer.

    A hook that raises `ConnectionError` breaks the caller's connection. A caller that dies does not take its call
    along: as with a daemon that has read it already.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_unix_connection(str(daemon))
        call = ""

        async def back() -> None:
            with contextlib.suppress(ConnectionError):
                while data := await theirs.read(1 << 16):
                    if data.startswith(b"HTTP/"):
                        await answered(call)
                    if not writer.is_closing():
                        writer.write(data)
            writer.close()

        backward = asyncio.create_task(back())
        tasks.add(backward)
        while data := await reader.read(1 << 16):
            words = data.split(b" ", 2)
            if words[0] in (b"GET", b"POST", b"DELETE"):
                call = b" ".join(words[:2]).partition(b"?")[0].decode()
                await asked(call)
            ours.write(data)
        await backward
        ours.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_unix_server(accept, str(socket))
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
