"""The end of a session that has no control group of its own: its init kills all that came of it."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dms_executor.supervisor import frames

_CROWD, _PATIENCE = 400, 30.0
_APART = ("sh", "-c", 'setsid "$0" -c "$1" & wait', sys.executable)  # out of the group that is killed at once
_THREADED = """
import ctypes, os, threading, time
def stays():
    print(os.getpid(), flush=True)
    time.sleep(1000)
threading.Thread(target=stays).start()
ctypes.CDLL(None).pthread_exit(None)
"""
# The child of a vfork whose parent waits for it, as posix_spawn's does until it has executed something.
_VFORK = """
import ctypes, os, time
print(os.getpid(), flush=True)
if ctypes.PyDLL(None).vfork() == 0:
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(1000)
"""


class _Session:
    """`dms-init -c`, whose client we are."""

    def __init__(self, init: str, folder: Path, argv: list[str]) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(folder / "calls"))
            listening.listen(1)
            listening.settimeout(60)
            self.init = subprocess.Popen([init, "-c", str(folder / "calls"), "--", *argv])
            self.connection, _ = listening.accept()
        reads, writes = os.pipe()
        with open(os.devnull) as nothing:
            given = [nothing.fileno(), writes, writes]
            socket.send_fds(self.connection, [frames.pack(frames.INIT_GO)], given)
        os.close(writes)
        self.output = os.fdopen(reads, "rb")

    def handles(self, count: int) -> list[int]:
        """Pidfds of the processes that it names, a line each."""
        return [os.pidfd_open(int(self.output.readline())) for _ in range(count)]

    def hang_up(self) -> None:
        """Returns once the init has ended."""
        self.connection.close()
        assert self.init.wait(60) == 137

    def rest(self) -> bytes:
        """What it said beyond the lines that were read, once nobody can say more."""
        poll = select.poll()
        poll.register(self.output, select.POLLHUP)
        if not poll.poll(_PATIENCE * 1000):
            return b"it is not closed"
        return b""


Start = Callable[..., _Session]


@pytest.fixture
def start(init: str, tmp_path: Path) -> Iterator[Start]:
    sessions: list[_Session] = []

    def started(*argv: str) -> _Session:
        sessions.append(_Session(init, tmp_path, list(argv)))
        return sessions[-1]

    yield started
    for session in sessions:
        session.init.kill()
        session.init.wait()


def _all_gone(handles: list[int]) -> bool:
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    deadline, left = time.monotonic() + _PATIENCE, len(handles)
    while left and (ended := poll.poll(max(0.0, deadline - time.monotonic()) * 1000)):
        for handle, _ in ended:
            poll.unregister(handle)
            os.close(handle)
        left -= len(ended)
    return left == 0


def test_a_crowd_in_sessions_of_its_own_is_gone(start: Start) -> None:
    session = start("sh", "-c", f"for i in $(seq {_CROWD}); do setsid sleep 1000 & echo $!; done; wait")
    handles = session.handles(_CROWD)
    session.hang_up()
    assert _all_gone(handles)


def test_a_process_whose_first_thread_has_ended_is_gone(start: Start) -> None:
    """It is shown as a zombie."""
    session = start(*_APART, _THREADED)
    (handle,) = session.handles(1)
    session.hang_up()
    assert _all_gone([handle])


def test_one_that_waits_for_its_vfork_is_gone_with_it(start: Start) -> None:
    """It cannot be stopped before its child has executed something, which that cannot once it is stopped itself."""
    session = start(*_APART, _VFORK)
    handles = session.handles(2)
    session.hang_up()
    assert _all_gone(handles)


def test_one_that_goes_on_forking_is_gone_with_all(start: Start) -> None:
    session = start("sh", "-c", "f() { echo $$; setsid sh -c 'echo $$; sleep 1000' & sleep 0.01; f; }; f")
    handles = session.handles(20)
    session.hang_up()
    assert _all_gone(handles)
    assert session.rest() == b"", "something of it still has its output"
