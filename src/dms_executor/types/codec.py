"""JSON and YAML to and from the public types, and the one validation of a request.

msgspec does not check what `__init__` was given, so a request built in Python is taken apart and converted again.
"""

from __future__ import annotations

import math
import re
import signal as signals
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..errors import InvalidRequest
from ..typed import known
from .bytesize import ByteSize
from .request import ExecutionRequest, LogStreamRequest

__all__ = [
    "check_id",
    "decode",
    "decode_request",
    "encode",
    "from_builtins",
    "signal_number",
    "to_builtins",
    "validated",
]

T = TypeVar("T")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_NAME = re.compile(r"[^=\0]+")
_AT_PATH = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?", re.DOTALL)


def encode(value: object) -> bytes:
    """Any public struct as one JSON object."""
    return msgspec.json.encode(value, enc_hook=_encode_foreign)


def to_builtins(value: object) -> Any:
    """Any public struct as JSON types; bytes become base64."""
    return msgspec.to_builtins(value, enc_hook=_encode_foreign)


def decode(data: bytes | str, kind: type[T]) -> T:
    """One JSON object as `kind`. Raises `msgspec.ValidationError`."""
    return msgspec.json.decode(data, type=known(kind), dec_hook=_decode_foreign)


def from_builtins(value: object, kind: type[T]) -> T:
    """JSON types as `kind`. Raises `msgspec.ValidationError`."""
    return msgspec.convert(value, known(kind), dec_hook=_decode_foreign)


def decode_request(data: bytes, *, yaml: bool = False) -> ExecutionRequest:
    """A job file: JSON or YAML of `ExecutionRequest`. Raises `InvalidRequest`."""
    try:
        if not yaml:
            return validated(decode(data, ExecutionRequest), ExecutionRequest)
        raw = msgspec.yaml.decode(data)
        return validated(msgspec.convert(raw, known(ExecutionRequest), dec_hook=_decode_foreign), ExecutionRequest)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"not {'YAML' if yaml else 'JSON'}: {error}") from error


def validated(request: T, kind: type[T]) -> T:
    """`request` with every field checked against its type and range. Raises `InvalidRequest`."""
    if not isinstance(request, kind):
        raise InvalidRequest(f"expected {kind.__name__}, got {type(request).__name__}")
    try:
        plain = msgspec.to_builtins(request, builtin_types=(bytes, datetime), enc_hook=_encode_foreign)
        checked = msgspec.convert(plain, known(kind), dec_hook=_decode_foreign)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    except (TypeError, ValueError, OverflowError, UnicodeError) as error:
        raise InvalidRequest(str(error), mend="Use the types that the documentation names") from error
    if isinstance(checked, ExecutionRequest):
        _check_ranges(checked)
    if isinstance(checked, LogStreamRequest):
        _check_log_request(checked)
    return checked


def check_id(value: object, path: str = "$.execution_id") -> str:
    """An id as it is allowed to be. Raises `InvalidRequest`."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        shown = repr(value)
        shown = shown if len(shown) <= 140 else shown[:140] + "..."
        raise InvalidRequest(
            f"{shown} is not an id",
            path=path,
            mend="Use 1 to 128 of A-Z a-z 0-9 . _ -, beginning with a letter or a digit",
        )
    return value


def signal_number(value: int | str) -> int:
    """15, "TERM" or "SIGTERM" as a number. Raises `InvalidRequest`."""
    if isinstance(value, str) and not value.isdecimal():
        name = value.upper()
        name = name if name.startswith("SIG") else f"SIG{name}"
        if name in signals.Signals.__members__:
            return int(signals.Signals[name])
        raise InvalidRequest(f"{value!r} is not a signal", path="$.signal", mend="Use a name such as TERM or a number")
    number = int(value)
    if isinstance(value, bool) or not 1 <= number <= 64:
        raise InvalidRequest(f"{value!r} is not a signal", path="$.signal", mend="Signals are 1 to 64")
    return number


def _encode_foreign(value: object) -> object:
    if isinstance(value, ByteSize):
        return int(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot stand in a request")


def _decode_foreign(kind: type[Any], value: object) -> object:
    if kind is ByteSize and isinstance(value, (int, str)):
        return ByteSize(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"expected {kind.__name__}, got {value!r}")


def _invalid(error: msgspec.ValidationError) -> InvalidRequest:
    match = _AT_PATH.fullmatch(str(error))
    what, path = (match["what"], match["path"]) if match else (str(error), None)
    return InvalidRequest(what, path=path or "$", mend="See the field's type in the documentation")


def _check_ranges(request: ExecutionRequest) -> None:
    check_id(request.execution_id, "$.execution_id")
    check_id(request.job_id, "$.job_id")
    for name in ("timeout", "prepare_timeout"):
        _positive(getattr(request, name), f"$.{name}", "seconds")
    if request.persist_logs is not None and not 0 <= request.persist_logs < math.inf:
        raise InvalidRequest(
            f"{request.persist_logs} is no duration", path="$.persist_logs", mend="Use seconds, 0 or more"
        )
    _positive(request.resources.cpu, "$.resources.cpu", "cores")
    for name in ("memory", "disk", "pids"):
        _positive(getattr(request.resources, name), f"$.resources.{name}", "of them")
    _check_texts(request)
    _check_ports(request)
    if request.stdin and request.stdin_file is not None:
        raise InvalidRequest("stdin and stdin_file exclude each other", path="$.stdin_file", mend="Give one of them")
    _check_terminal(request)
    for name in request.provision_scripts:
        if not _ID.fullmatch(name):
            raise InvalidRequest(
                f"{name!r} is not a script's name", path="$.provision_scripts", mend="Use A-Z a-z 0-9 . _ -"
            )


def _check_terminal(request: ExecutionRequest) -> None:
    for name in ("stdin", "stdin_file"):
        if request.tty and getattr(request, name):
            raise InvalidRequest(
                "a terminal's input is what is typed on it",
                path=f"$.{name}",
                mend="Leave out tty, or write it by attach",
            )
    if request.tty_size is None:
        return
    if not request.tty:
        raise InvalidRequest("there is no terminal", path="$.tty_size", mend="Set tty, or leave tty_size out")
    # struct winsize has 16 bits for each: ioctl_tty(2)
    if not all(0 < cells <= 65535 for cells in request.tty_size):
        raise InvalidRequest(
            f"{request.tty_size} is no terminal's size", path="$.tty_size", mend="[columns, rows], e.g. [80, 24]"
        )


def _check_texts(request: ExecutionRequest) -> None:
    _check_unicode(request)
    for field in ("environment", "secret_environment"):
        for name, value in getattr(request, field).items():
            if not _NAME.fullmatch(name) or "\0" in value:
                raise InvalidRequest(
                    f"{name!r} is not a variable",
                    path=f"$.{field}",
                    mend="A name is not empty and holds no '='; neither name nor value holds a NUL",
                )
    for name, value in request.labels.items():
        if not name or "\0" in name + value:
            raise InvalidRequest(
                f"{name!r} is not a label", path="$.labels", mend="A label has a name and holds no NUL"
            )


def _check_unicode(request: ExecutionRequest) -> None:
    """Python's text may hold what JSON cannot say, and then neither records nor runtimes could be told."""
    for name in request.__struct_fields__:
        if name == "stdin":
            continue
        try:
            encode(getattr(request, name))
        except UnicodeEncodeError:
            # Without its cause, which shows the text: that may be a secret.
            raise InvalidRequest(
                "it holds text that cannot be written as UTF-8", path=f"$.{name}", mend="Leave out lone surrogates"
            ) from None


def _check_ports(request: ExecutionRequest) -> None:
    for index, port in enumerate(request.ports):
        if not 1 <= port.container_port <= 65535 or not 0 <= port.host_port <= 65535:
            raise InvalidRequest(
                "a port lies between 1 and 65535", path=f"$.ports[{index}]", mend="host_port 0: chosen"
            )


def _check_log_request(request: LogStreamRequest) -> None:
    check_id(request.execution_id, "$.execution_id")
    if request.last is not None and request.last < 0:
        raise InvalidRequest(f"{request.last} is no number of lines", path="$.last", mend="Use 0 or more")
    if isinstance(request.since, float) and not math.isfinite(request.since):
        raise InvalidRequest(
            f"{request.since} is no time", path="$.since", mend="Use seconds back or an aware ISO time"
        )
    if isinstance(request.since, str):
        try:
            aware = datetime.fromisoformat(request.since).tzinfo is not None
        except ValueError:
            aware = False
        if not aware:
            raise InvalidRequest(
                f"{request.since!r} is no aware ISO time", path="$.since", mend="E.g. 2026-01-31T12:00:00Z"
            )


def _positive(value: float | None, path: str, unit: str) -> None:
    if value is not None and not 0 < value < math.inf:
        raise InvalidRequest(f"{value} is not allowed", path=path, mend=f"Use a number of {unit} above 0")
