"""A file of YAML or JSON that an option names, as a mapping."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

__all__ = ["mapping_file"]


def mapping_file(name: str, option: str, what: str) -> dict[str, Any]:
    """What the file of `option` holds; `-` is stdin. `what` it should be. Raises click.BadParameter."""
    import msgspec

    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        found: Any = msgspec.json.decode(data) if name.endswith(".json") else msgspec.yaml.decode(data)
    except OSError as error:
        raise click.BadParameter(f"{name}: {error.strerror}", param_hint=option) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{name} is neither JSON nor YAML: {error}", param_hint=option) from error
    if not isinstance(found, dict):
        raise click.BadParameter(f"{name} holds no {what}, but {type(found).__name__}", param_hint=option)
    return found
