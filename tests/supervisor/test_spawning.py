"""Children whose end nobody waits for."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from dms_executor.supervisor import shim, spawning


async def test_a_spawn_does_not_fail_for_want_of_a_descriptor_to_reap_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(_pid: int, _flags: int = 0) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", none_left)
    monkeypatch.setattr(spawning, "reap", lambda _pid: None)
    ahead = await shim.spare()
    monkeypatch.undo()
    ahead.close()
    os.waitid(os.P_PID, ahead.pid, os.WEXITED | os.WNOWAIT)  # what was spawned ends at once
    (await shim.spare()).close()
    assert not Path(f"/proc/{ahead.pid}").exists(), "the next spawn has reaped it"
