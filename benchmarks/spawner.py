"""Commands run and timed by a process of its own, so that they can run in another mount namespace than the benchmark.

Reads a command a line as a JSON list, answers each with a line `[seconds, exit code, output]`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from failed import Failed

__all__ = ["Spawner", "spawn"]


def spawn(command: list[str]) -> tuple[bytes, int]:
    """Its stdout and exit code. `command[0]` is a path."""
    reader, writer = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_CLOSE, reader)]
    pid = os.posix_spawn(command[0], command, {"PATH": os.environ["PATH"]}, file_actions=actions)
    os.close(writer)
    output = b""
    while chunk := os.read(reader, 65536):
        output += chunk
    os.close(reader)
    return output, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Spawner:
    """The process. `namespace`: the mount namespace of that pid."""

    def __init__(self, namespace: int) -> None:
        enter = ["nsenter", f"--mount=/proc/{namespace}/ns/mnt", "--"]
        self._process = subprocess.Popen(
            [*enter, sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, command: list[str]) -> float:
        """Seconds of a command that prints "hi". Blocks."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        took, code, output = json.loads(self._process.stdout.readline())
        if (code, output) != (0, "hi\n"):
            raise Failed(f"{' '.join(command)}: {code} {output!r}")
        return float(took)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def _serve() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        began = time.perf_counter()
        output, code = spawn(command)
        took = time.perf_counter() - began
        print(json.dumps([took, code, output.decode(errors="replace")]), flush=True)


if __name__ == "__main__":
    _serve()
