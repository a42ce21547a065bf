"""A second process on the same state folder: `python -m dms_executor.conformance.elsewhere`.

Its first line of input is a pickle of what to do; from then on each line of output is a pickle of what it says, and
each line of input wakes it once.
"""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from .bench import Bench
from .subject import Subject

__all__ = ["Here", "Other"]

_LINE = 16 << 20


class _Order(NamedTuple):
    subject: Subject
    folder: Path
    work: Callable[..., Awaitable[Any]]
    arguments: tuple[Any, ...]


class Other:
    """The second process, as the first one sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def spawn(
        cls, subject: Subject, folder: Path, work: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...], fault: str
    ) -> Other:
        """Begins `work` there; `fault` names the point of `dms_executor.faults` at which it is killed."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DMS_EXECUTOR_FAULT": fault}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            limit=_LINE,
        )
        other = cls(process)
        await other._write(_packed(_Order(subject, folder, work, arguments)))
        return other

    async def heard(self) -> Any:
        """The next thing that it says, or in the end what `work` returned. Raises what `work` raised, EOFError."""
        stdout = self._process.stdout
        line = await stdout.readline() if stdout is not None else b""
        if not line:
            raise EOFError(f"the second process ended with {await self._process.wait()}")
        said = pickle.loads(base64.b64decode(line))
        if isinstance(said, Exception):
            raise said
        return said

    async def wake(self) -> None:
        """Lets its `Here.woken` return."""
        await self._write(b"\n")

    async def kill(self) -> None:
        """SIGKILL, unless it has ended; returns when it is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def ended(self) -> int:
        """Its return code, once it has ended by itself."""
        return await self._process.wait()

    async def _write(self, line: bytes) -> None:
        if self._process.stdin is None:
            raise RuntimeError("the second process has no stdin")
        self._process.stdin.write(line)
        await self._process.stdin.drain()


class Here(Bench):
    """The bench of a second process."""

    def say(self, something: Any) -> None:
        """Tells the first process."""
        sys.stdout.buffer.write(_packed(something))
        sys.stdout.buffer.flush()

    async def woken(self) -> None:
        """Waits for the first process's word; for ever, if it says none."""
        await asyncio.to_thread(sys.stdin.buffer.readline)


def _packed(something: Any) -> bytes:
    return base64.b64encode(pickle.dumps(something)) + b"\n"


async def _main(order: _Order) -> None:
    here = Here(order.subject, order.folder)
    try:
        await here.open()
        said = await order.work(here, *order.arguments)
    except Exception as error:  # noqa: BLE001 -- the first process raises it
        said = error
    here.say(said)
    await here.close()


if __name__ == "__main__":
    asyncio.run(_main(pickle.loads(base64.b64decode(sys.stdin.buffer.readline()))))
