"""A job file: `ExecutionRequest` as YAML or JSON. A path in it that begins with a dot is one from the file's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .mapping_file import mapping_file

__all__ = ["job_file", "located"]

_TRANSPORTS = ("rootfs", "oci", "oci-archive", "docker-archive")


def job_file(name: str) -> dict[str, Any]:
    """The fields of a job file; `-` is stdin, whose paths are from here. Raises click.BadParameter."""
    found = mapping_file(name, "--file", "job")
    _locate(found, Path.cwd() if name == "-" else Path(name).absolute().parent)
    return found


def located(image: str, folder: Path) -> str:
    """A relative path behind a transport as one from `folder`."""
    transport, separator, path = image.partition(":")
    return f"{transport}:{folder / path}" if separator and path and transport in _TRANSPORTS else image


def _locate(fields: dict[str, Any], folder: Path) -> None:
    """Whatever is no text where a path belongs is left to the decoder, which says what is wrong with it."""
    volumes = [volume for name in ("inputs", "outputs") for volume in _items(fields.get(name))]
    for holder, name in [(fields, "results_dir"), (fields, "stdin_file"), *((volume, "source") for volume in volumes)]:
        path = holder.get(name)
        if isinstance(path, str) and path.split("/")[0] in (".", ".."):
            holder[name] = str(folder / path)
    spec = fields.get("engine_spec")
    params = spec.get("params") if isinstance(spec, dict) else None
    if isinstance(params, dict) and isinstance(params.get("image"), str):
        params["image"] = located(params["image"], folder)


def _items(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
