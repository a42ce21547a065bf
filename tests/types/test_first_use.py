"""The first use of a type by many threads at once; in a process of its own, since what it guards against is a crash."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = '''
import sys, threading, types
from dms_executor.types import decode

# Types that nobody has used, since each is new only once.
SOURCE = """
from __future__ import annotations
import msgspec
from typing import Literal
class Part(msgspec.Struct, frozen=True, kw_only=True):
    x: str
    y: list[str] | None = None
class Whole(msgspec.Struct, frozen=True, kw_only=True):
    d: int | None = None
    m: list[Part] = []
    s: list[Part] = []
    l: Literal["a", "b"] = "a"
"""
DATA = b\'{"d":1,"m":[{"x":"a"}],"s":[{"x":"b","y":["q"]}]}\'

sys.setswitchinterval(1e-6)
for number in range(300):
    module = sys.modules[f"new{number}"] = types.ModuleType(f"new{number}")
    exec(SOURCE, module.__dict__)
    gate = threading.Barrier(4)

    def first() -> None:
        gate.wait()
        decode(DATA, module.Whole)

    threads = [threading.Thread(target=first) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
'''


def test_many_threads_may_be_the_first_to_use_a_type() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
