"""The specification as a pytest suite for any engine, a third party's too.

An author writes a `Subject`, gives it by a fixture named `subject`, and imports the lines:

conftest.py:   `@pytest.fixture(params=[MySubject()], ids=str)` over `def subject(request): return request.param`
test_mine.py:  `from dms_executor.conformance.lines import *`
"""

from __future__ import annotations

from .shell import ShellSubject
from .steps import (
    Die,
    Exit,
    Flood,
    Forever,
    Ignore,
    OutOfMemory,
    Raw,
    Say,
    Shell,
    Stdin,
    Step,
    Trap,
    Variable,
)
from .subject import MemorySubject, Subject

__all__ = [
    "Die",
    "Exit",
    "Flood",
    "Forever",
    "Ignore",
    "MemorySubject",
    "OutOfMemory",
    "Raw",
    "Say",
    "Shell",
    "ShellSubject",
    "Stdin",
    "Step",
    "Subject",
    "Trap",
    "Variable",
]
