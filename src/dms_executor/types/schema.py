"""JSON Schema of the public types."""

from __future__ import annotations

from typing import Any

import msgspec

from .bytesize import ByteSize
from .record import (
    CleanupReport,
    Event,
    ExecResult,
    ExecutionInfo,
    ExecutionResult,
    ImageInfo,
    Probe,
    RecoveryReport,
    Settings,
    Stats,
)
from .request import ExecutionRequest, LogStreamRequest

__all__ = ["json_schema"]

_TYPES = (
    *(ExecutionRequest, LogStreamRequest, ExecutionResult, ExecResult, ExecutionInfo, Event, Stats, ImageInfo, Probe),
    *(CleanupReport, RecoveryReport, Settings),
)


def json_schema() -> dict[str, Any]:
    """One JSON Schema (2020-12) document; each public type stands under `$defs` by its name."""
    _, parts = msgspec.json.schema_components(_TYPES, schema_hook=_foreign, ref_template="#/$defs/{name}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": parts}


def _foreign(kind: type[Any]) -> dict[str, Any]:
    if kind is ByteSize:
        text = {"type": "string", "description": "a size such as 512MiB or 2GB"}
        return {"anyOf": [{"type": "integer", "minimum": 0, "description": "bytes"}, text]}
    raise NotImplementedError
