"""Volumes on the command line: `-v`, `--mount`, `--tmpfs` and `--output`, as docker has the first three."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["mount", "output", "tmpfs", "volume"]

Fields = dict[str, Any]

_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "destination": "target",
    "dst": "target",
    "target": "target",
    "readonly": "read_only",
    "ro": "read_only",
    "tmpfs-size": "size",
}


def volume(text: str) -> Fields:
    """SRC:DST[:ro|rw]: writable unless said, as docker has it; a source without a slash names a volume."""
    source, separator, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not separator or not source or not target or mode not in ("", "ro", "rw"):
        raise click.BadParameter(f"{text!r} is not SRC:DST or SRC:DST:ro", param_hint="--volume")
    named = "/" not in source and source not in (".", "..")
    kind = {"type": "volume", "source": source} if named else {"type": "bind", "source": str(Path(source).absolute())}
    return {**kind, "target": target, "read_only": mode == "ro"}


def mount(text: str) -> Fields:
    """type=bind,source=DIR,target=DIR[,readonly], type=tmpfs,target=DIR[,tmpfs-size=SIZE] or type=volume."""
    fields: Fields = {}
    for word in text.split(","):
        key, separator, value = word.partition("=")
        if key not in _KEYS or not (separator or _KEYS[key] == "read_only"):
            raise click.BadParameter(
                f"{text!r}: {word!r} is none of {', '.join(_KEYS)}, with = and a value", param_hint="--mount"
            )
        fields[_KEYS[key]] = value.lower() not in ("false", "0") if _KEYS[key] == "read_only" else value
    if "target" not in fields:
        raise click.BadParameter(f"{text!r} names no target", param_hint="--mount")
    kind = fields.setdefault("type", "volume")
    if kind == "bind" and "source" in fields:
        fields["source"] = str(Path(fields["source"]).absolute())
    return fields if kind == "tmpfs" else {"read_only": False, **fields}


def output(text: str) -> Fields:
    """SRC:DST: the host's folder and the one inside; DST alone lies in the results folder."""
    source, separator, target = text.partition(":")
    if not separator:
        return {"target": source}
    if not source or not target or ":" in target:
        raise click.BadParameter(f"{text!r} is not SRC:DST", param_hint="--output")
    return {"source": str(Path(source).absolute()), "target": target}


def tmpfs(text: str) -> Fields:
    """DST or DST:64MiB; docker's DST:size=64MiB, too."""
    target, _, size = text.partition(":")
    return {"type": "tmpfs", "target": target, **({"size": size.removeprefix("size=")} if size else {})}
