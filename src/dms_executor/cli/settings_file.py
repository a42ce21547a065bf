"""The settings of this call: a file of YAML or JSON, by the option or the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from .mapping_file import mapping_file

if TYPE_CHECKING:
    from ..types import Settings

__all__ = ["SETTINGS", "settings_file"]

SETTINGS = "DMS_EXECUTOR_SETTINGS"


def settings_file(named: str | None) -> Settings | None:
    """What `named` holds, else the file that the environment names; None without either.

    Raises click.BadParameter. What stands below `engines` is judged by each engine.
    """
    name, option = (named, "--settings") if named is not None else (os.environ.get(SETTINGS), f"${SETTINGS}")
    if not name:
        return None
    import msgspec

    from ..types import Settings
    from ..types.codec import decode

    fields = mapping_file(name, option, "settings")
    if unknown := sorted(set(map(str, fields)) - set(Settings.__struct_fields__)):
        known = ", ".join(Settings.__struct_fields__)
        raise click.BadParameter(f"{name}: there is no setting {unknown[0]!r}; there are {known}", param_hint=option)
    try:
        return decode(msgspec.json.encode(fields), Settings)
    except msgspec.ValidationError as error:
        raise click.BadParameter(f"{name}: {error}", param_hint=option) from error
