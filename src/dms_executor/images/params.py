"""The params that every engine takes which runs images, and their check."""

from __future__ import annotations

import posixpath
from typing import Any, Literal, TypeVar

import msgspec

from ..errors import InvalidRequest
from ..typed import known
from ..types import ByteSize

__all__ = ["PARAMS", "ImageParams", "as_params", "converted", "set_params"]

PARAMS = "$.engine_spec.params"
S = TypeVar("S", bound=msgspec.Struct)
P = TypeVar("P", bound="ImageParams")


class ImageParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """None is unset: the image's own value counts; an empty list or text is not unset.

    `user`: "name", "uid", either with ":group". `pull`: when to look for a newer image. `platform`: "linux/amd64".
    """

    image: str
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    environment: dict[str, str] = {}
    working_directory: str | None = None
    user: str | None = None
    hostname: str | None = None
    read_only_root: bool = False
    pull: Literal["missing", "always", "never"] = "missing"
    platform: str | None = None


def as_params(model: type[P], params: dict[str, Any]) -> P:
    """Raises `InvalidRequest`, which lists the known keys where one is unknown."""
    checked = converted(model, params, PARAMS)
    _check(checked)
    return checked


def set_params(spec: ImageParams, model: type[P]) -> dict[str, Any]:
    """Those that differ from their defaults. Raises `InvalidRequest`."""
    plain = model(image="")
    params = {name: getattr(spec, name) for name in model.__struct_fields__}
    params = {name: value for name, value in params.items() if value != getattr(plain, name) or name == "image"}
    as_params(model, params)
    return params


def converted(model: type[S], value: Any, where: str) -> S:
    """`value` as the struct `model`; `where` it stands. Raises `InvalidRequest`."""
    try:
        return msgspec.convert(value, known(model), dec_hook=_sized)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        fields = ", ".join(model.__struct_fields__)
        raise InvalidRequest(what, path=where + path.rstrip("`"), mend=f"Known here: {fields}") from error


def _sized(kind: type[Any], value: object) -> object:
    if kind is ByteSize and isinstance(value, (int, str)):
        return ByteSize(value)
    raise ValueError(f"expected {kind.__name__}, got {value!r}")


def _check(params: ImageParams) -> None:
    for name in ("entrypoint", "cmd"):
        for index, word in enumerate(getattr(params, name) or []):
            _no_nul(word, f"{PARAMS}.{name}[{index}]")
    for key, value in params.environment.items():
        if not key or "=" in key or "\0" in key + value:
            raise InvalidRequest(f"{key!r} is not a variable", path=f"{PARAMS}.environment", mend="No '=', no NUL")
    for name in ("image", "user", "hostname", "platform"):
        text = getattr(params, name)
        if text is not None:
            _no_nul(text, f"{PARAMS}.{name}")
            _not_empty(text, f"{PARAMS}.{name}")
    folder = params.working_directory
    if folder is not None and (not posixpath.isabs(folder) or "\0" in folder):
        raise InvalidRequest(f"{folder!r} is not absolute", path=f"{PARAMS}.working_directory", mend="E.g. '/data'")
    if params.hostname is not None and len(params.hostname) > 64:  # HOST_NAME_MAX, uname(2)
        raise InvalidRequest("a hostname has at most 64 characters", path=f"{PARAMS}.hostname", mend="Shorten it")


def _no_nul(text: str, path: str) -> None:
    if "\0" in text:
        raise InvalidRequest("it holds a NUL", path=path, mend="Leave the NUL out")


def _not_empty(text: str, path: str) -> None:
    if not text:
        raise InvalidRequest("it is empty", path=path, mend="Leave the field out, or give it a value")
