"""From the options of `run` to an `ExecutionRequest`: a job file, if any, with what the options say laid over it."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .gpus import gpus_of
from .job_file import job_file, located
from .ports import published
from .volumes import mount, output, tmpfs, volume

if TYPE_CHECKING:
    from ..types import ExecutionRequest

__all__ = ["build_request"]

_FIRST = (
    "agile amber bold brave brisk calm clear cool deft eager fair fleet glad keen kind lucid merry neat quick swift"
)
_SECOND = "auk crane dove eider finch gull hawk heron ibis jay kite lark martin owl pipit robin shrike swan tern wren"

Fields = dict[str, Any]


def build_request(options: Mapping[str, Any], words: Sequence[str]) -> ExecutionRequest:
    """The request that options, IMAGE and CMD describe. Raises `InvalidRequest`, click.UsageError."""
    from ..errors import InvalidRequest
    from ..types import decode_request, encode

    fields = job_file(options["file"]) if options["file"] else {}
    _lay_over(fields, options)
    _lay_spec_over(fields, options, words)
    fields.setdefault("execution_id", made_up_id())
    fields.setdefault("job_id", fields["execution_id"])
    try:
        encoded = encode(fields)
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{error.object!r} is not UTF-8", mend="A job is JSON: rename it, or mount its folder"
        ) from error
    return decode_request(encoded)


def made_up_id() -> str:
    """An id that reads well: brisk-heron-3f9a1c."""
    number = int.from_bytes(os.urandom(8), "big")  # the module secrets costs a command line 5 ms
    first, second = _FIRST.split(), _SECOND.split()
    return f"{first[number % len(first)]}-{second[(number >> 16) % len(second)]}-{number >> 40:06x}"


def _lay_over(fields: Fields, options: Mapping[str, Any]) -> None:
    if options["tty"]:
        fields["tty"] = True
    elif options["interactive"]:
        fields["stdin_open"] = True
    plain = {"execution_id": "id"} | {name: name for name in ("job_id", "timeout", "persist_logs", "network", "init")}
    for field, option in plain.items():
        if options[option] is not None:
            fields[field] = options[option]
    if options["results_dir"] is not None:
        fields["results_dir"] = str(Path(options["results_dir"]).absolute())
    named = {"cpu": options["cpus"], "memory": options["memory"], "disk": options["disk"], "pids": options["pids"]}
    if options["publish"]:
        fields["ports"] = [*(fields.get("ports") or []), *map(published, options["publish"])]
        fields.setdefault("network", "user")
    resources: Fields = {name: value for name, value in named.items() if value is not None}
    if options["gpus"]:
        resources["gpus"] = gpus_of(options["gpus"])
    _merge(fields, "resources", resources)
    if options["device"]:
        fields["devices"] = [*(fields.get("devices") or []), *options["device"]]
    _merge(fields, "environment", _environment(options["env_file"], options["env"]))
    _merge(fields, "secret_environment", _environment([], options["secret_env"]))
    _merge(fields, "provision_scripts", dict(map(_script, options["provision"])))
    _merge(fields, "labels", dict(_pair(text, "--label") for text in options["label"]))
    inputs = [*map(volume, options["volume"]), *map(mount, options["mount"]), *map(tmpfs, options["tmpfs"])]
    if inputs:
        fields["inputs"] = [*(fields.get("inputs") or []), *inputs]
    if options["output"]:
        fields["outputs"] = [*(fields.get("outputs") or []), *map(output, options["output"])]


def _lay_spec_over(fields: Fields, options: Mapping[str, Any], words: Sequence[str]) -> None:
    spec = fields.setdefault("engine_spec", {})
    if not isinstance(spec, dict):
        return  # the decoder says what is wrong with it
    if options["engine"] is not None:
        spec["type"] = options["engine"]
    params = _words(spec.get("type"), words)
    if not params and "params" not in spec:
        raise click.UsageError("Missing argument 'IMAGE'.")
    for param, option in {
        "working_directory": "workdir",
        "user": "user",
        "pull": "pull",
        "hostname": "hostname",
        "platform": "platform",
        "read_only_root": "read_only",
    }.items():
        if options[option] is not None:
            params[param] = options[option]
    if options["entrypoint"] is not None:
        params["entrypoint"] = [options["entrypoint"]] if options["entrypoint"] else []
    _merge(spec, "params", params)


def _words(engine: str | None, words: Sequence[str]) -> Fields:
    """IMAGE and CMD; of an engine without images, the steps of its script."""
    if not words:
        return {}
    if engine is not None and isinstance(engine, str):
        from ..registry import engine_class

        known = engine_class(engine).params.__struct_fields__
        if "image" not in known and "script" in known:
            return {"script": list(words)}
    image, *command = words
    return {"image": located(image, Path.cwd()), **({"cmd": command} if command else {})}


def _merge(fields: Fields, name: str, more: Fields) -> None:
    if more and isinstance(fields.setdefault(name, {}), dict):
        fields[name] = {**fields[name], **more}


def _script(name: str) -> tuple[str, str]:
    """A script's name and its bytes, as JSON has them."""
    try:
        return Path(name).name, base64.b64encode(Path(name).read_bytes()).decode()
    except OSError as error:
        raise click.BadParameter(f"{name}: {error.strerror}", param_hint="--provision") from error


def _environment(files: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in files:
        try:
            lines = Path(name).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"{name}: {error}", param_hint="--env-file") from error
        found.update(_variable(line) for line in map(str.strip, lines) if line and not line.startswith("#"))
    found.update(_variable(text) for text in given)
    return {name: value for name, value in found.items() if value is not None}


def _variable(text: str) -> tuple[str, Any]:
    """K=V, or K for what our own environment has; None where it has nothing."""
    name, separator, value = text.partition("=")
    return name, value if separator else os.environ.get(name)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
    return name, value
