"""What keeps a VM, `dms-vm`, before a guest that means harm: a program stands in for the monitor, and says anything.

The guest's own frames are fuzzed beside the other parsers (tests/native); here is what the process does with them.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dms_executor.supervisor import binary

_HELLO, _STDOUT, _CONFIG, _GO, _END = 128, 129, 133, 134, 135
_STARTED, _FAILED, _EXITED, _BORN, _SIGNAL = 96, 97, 98, 99, 112
_MOST = 32768
_DEADLINE = 60.0
_PRELUDE = """
import os, struct, sys, time
def say(kind, data=b"", channel=0, length=None):
    frame = struct.pack("<IBBH", len(data) if length is None else length, kind, 0, channel) + data
    while frame:
        frame = frame[os.write(3, frame):]
def hello():
    say(128, struct.pack("<I", 1))
def started():
    say(96, bytes(8))
"""


_LAUNCHER = """
import os, sys
for number in range(3):
    os.dup2(50 + number, 3 + number)
    os.close(50 + number)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Keeper:
    """A `dms-vm` whose monitor is a script in Python; `report` is the shim's end."""

    def __init__(self, folder: Path, script: str) -> None:
        monitor = folder / "monitor.py"
        monitor.write_text(_PRELUDE + script)
        self.report, theirs = socket.socketpair()
        self.report.settimeout(_DEADLINE)
        config = os.memfd_create("config")
        os.write(config, b"told")
        os.lseek(config, 0, os.SEEK_SET)
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        # The numbers of docs/protocol.md, section 10, out of the way of those that Popen uses itself.
        moved = [os.dup2(fd, 50 + n) for n, fd in enumerate((theirs.fileno(), at, config))]
        vm = str(binary.vm_path(folder))
        argv = [sys.executable, "-S", "-c", _LAUNCHER, vm, "--", sys.executable, "-S", str(monitor)]
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(argv, stdin=null, stdout=subprocess.PIPE, stderr=null, pass_fds=moved)
        for fd in (*moved, at, config):
            os.close(fd)
        theirs.close()

    def hear(self) -> tuple[int, bytes]:
        """The next frame that the shim would get; type 0 at the end."""
        head = self._exactly(8)
        if len(head) < 8:
            return 0, b""
        length, kind, _, _ = struct.unpack("<IBBH", head)
        return kind, self._exactly(length)

    def memory(self) -> int:
        """Bytes of it that lie in memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length and (part := self.report.recv(length - len(data))):
            data += part
        return data

    def end(self) -> None:
        self.process.kill()
        self.process.wait(_DEADLINE)
        self.report.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def keepers() -> Iterator[list[Keeper]]:
    made: list[Keeper] = []
    yield made
    for keeper in made:
        keeper.end()


def begun(keepers: list[Keeper], folder: Path, script: str) -> Keeper:
    keeper = Keeper(folder, script)
    keepers.append(keeper)
    assert keeper.hear() == (_BORN, b"")
    return keeper


def test_a_guest_that_floods_waits_and_takes_no_memory(keepers: list[Keeper], tmp_path: Path) -> None:
    keeper = begun(keepers, tmp_path, "hello(); started()\nwhile True: say(129, bytes(32768))")
    assert keeper.hear()[0] == _STARTED
    out = keeper.process.stdout
    assert out is not None
    assert out.read(1 << 20) == bytes(1 << 20)
    before = keeper.memory()
    assert out.read(64 << 20) == bytes(64 << 20)
    assert keeper.memory() - before < 1 << 20


@pytest.mark.parametrize(
    "said",
    [
        "say(129, b'x', length=0xffffffff)",
        "say(129, b'x', length=32769)",
        "say(129)",
        "say(129, b'x', channel=7)",
        "say(133, b'x')",
        "say(250, b'x')",
        "say(98, bytes(400))",
        "os.write(3, bytes(range(256)) * 4)",
    ],
)
def test_what_breaks_the_protocol_ends_the_machine(keepers: list[Keeper], tmp_path: Path, said: str) -> None:
    keeper = begun(keepers, tmp_path, f"hello()\n{said}\ntime.sleep(1000)")
    kind, payload = keeper.hear()
    assert (kind, payload[:4]) == (_FAILED, bytes(4))
    assert b"broke the protocol" in payload
    assert keeper.hear()[0] == 0
    assert keeper.process.wait(_DEADLINE) == 1


def test_who_speaks_before_it_greets_is_no_agent(keepers: list[Keeper], tmp_path: Path) -> None:
    keeper = begun(keepers, tmp_path, "started()\ntime.sleep(1000)")
    assert b"another version" in keeper.hear()[1]


def test_a_machine_that_is_switched_off_is_no_result(keepers: list[Keeper], tmp_path: Path) -> None:
    keeper = begun(keepers, tmp_path, "hello(); started(); say(129, b'half')\nsys.exit(0)")
    assert keeper.hear()[0] == _STARTED
    assert keeper.hear()[0] == 0, "an end that nobody reported was reported"
    assert keeper.process.wait(_DEADLINE) == 1
    assert keeper.process.stdout is not None
    assert keeper.process.stdout.read() == b"half"


def test_why_a_machine_did_not_start_is_said(keepers: list[Keeper], tmp_path: Path) -> None:
    keeper = begun(keepers, tmp_path, "print('no such\\x1b[31m machine', file=sys.stderr); sys.exit(3)")
    kind, payload = keeper.hear()
    assert kind == _FAILED
    assert b"ended with 3: no such?[31m machine" in payload
    assert "no such" in (tmp_path / "console").read_text()


def test_a_guest_that_never_listens_is_killed_with_its_keeper(keepers: list[Keeper], tmp_path: Path) -> None:
    keeper = begun(keepers, tmp_path, "hello(); started()\nprint(os.getpid(), flush=True)\ntime.sleep(1000)")
    assert keeper.hear()[0] == _STARTED
    for _ in range(100_000):  # more than the way to it holds
        keeper.report.send(struct.pack("<IBBHI", 4, _SIGNAL, 0, 0, 15))
    assert keeper.memory() < 4 << 20
    children = Path(f"/proc/{keeper.process.pid}/task/{keeper.process.pid}/children").read_text().split()
    monitor = os.pidfd_open(int(children[0]))
    keeper.process.kill()
    assert select.select([monitor], [], [], _DEADLINE)[0], "the monitor outlived its keeper"
    os.close(monitor)


def test_a_console_is_kept_to_its_bound(keepers: list[Keeper], tmp_path: Path) -> None:
    script = "hello()\nfor _ in range(64): os.write(4, b'y' * 65536)\nstarted(); say(98, bytes(4)); say(135)\n"
    keeper = begun(keepers, tmp_path, script + "time.sleep(1000)")
    assert keeper.hear()[0] == _STARTED
    assert keeper.hear() == (_EXITED, bytes(4))
    assert keeper.process.wait(_DEADLINE) == 0
    assert (tmp_path / "console").stat().st_size == 256 << 10
