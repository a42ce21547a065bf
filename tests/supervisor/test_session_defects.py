"""A session whose client is at fault itself: whoever waits for its start hears of it at once."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from dms_executor.errors import StartFailed
from dms_executor.supervisor import frames
from dms_executor.supervisor.session import Session, _Ends


class Far:
    """The far ends of a session: the shim's and the init's."""

    def __init__(self) -> None:
        control, self.shim = socket.socketpair()
        report, self.init = socket.socketpair()
        for each in (control, report):
            each.setblocking(False)
        report.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        pipes = [os.pipe() for _ in range(3)]
        self._others = [pipes[0][0], pipes[1][1], pipes[2][1]]
        self.ends = _Ends(control, report, pipes[0][1], pipes[1][0], pipes[2][0])

    def close(self) -> None:
        self.shim.close()
        self.init.close()
        for fd in self._others:
            os.close(fd)


@pytest.mark.parametrize(
    ("method", "far", "frame"), [("_said", "init", frames.INIT_BORN), ("_take", "shim", frames.OK)]
)
async def test_a_defect_while_it_starts_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, method: str, far: str, frame: int
) -> None:
    ends = Far()
    heard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))

    def defect(*_: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(Session, method, defect)
    session = Session(ends.ends, terminal=False)
    starting = asyncio.create_task(session.started())
    await asyncio.sleep(0)
    (ends.init if far == "init" else ends.shim).send(frames.pack(frame))
    with pytest.raises(StartFailed, match="out of order"):
        async with asyncio.timeout(5):
            await starting
    await session.aclose()
    assert [repr(context["exception"]) for context in heard] == ["RuntimeError('out of order')"]
    assert ends.shim.recv(100) == b"", "the shim must see the connection end, and kill the command"
    ends.close()
