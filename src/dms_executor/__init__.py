"""dms-executor: executes other people's jobs on your machine, one async interface over several engines.

The names below are imported when first used, so that a command loads only what it needs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import ExecutorError
    from .executor import Executor
    from .lifecycle import ExecSession
    from .policy import Policy
    from .types import (
        GPU,
        ByteSize,
        Capacity,
        CleanupReport,
        Event,
        ExecResult,
        ExecutionInfo,
        ExecutionRequest,
        ExecutionResult,
        ExecutionStatus,
        ImageInfo,
        LogStreamRequest,
        Output,
        PortMapping,
        Probe,
        Progress,
        RecoveryReport,
        Resources,
        Settings,
        SpecConfig,
        Stats,
        StorageVolume,
        Usage,
    )

__version__ = "0.1.0"

__all__ = [
    "GPU",
    "ByteSize",
    "Capacity",
    "CleanupReport",
    "Event",
    "ExecResult",
    "ExecSession",
    "ExecutionInfo",
    "ExecutionRequest",
    "ExecutionResult",
    "ExecutionStatus",
    "Executor",
    "ExecutorError",
    "ImageInfo",
    "LogStreamRequest",
    "Output",
    "Policy",
    "PortMapping",
    "Probe",
    "Progress",
    "RecoveryReport",
    "Resources",
    "Settings",
    "SpecConfig",
    "Stats",
    "StorageVolume",
    "Usage",
]

_PLACES = {"ExecSession": "lifecycle", "Executor": "executor", "ExecutorError": "errors", "Policy": "policy"}

# https://docs.python.org/3/howto/logging.html#configuring-logging-for-a-library
logging.getLogger("dms_executor").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_PLACES.get(name, 'types')}", __name__), name)
    globals()[name] = value
    return value
