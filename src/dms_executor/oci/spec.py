"""The engine's params (what a request asks for) and settings (what the machine's owner chose)."""

from __future__ import annotations

import posixpath
from typing import Any, Literal

import msgspec

from ..errors import InvalidRequest
from ..typed import known
from ..types import SpecConfig
from .flavours import Platform

__all__ = ["ROOM", "OciParams", "OciSettings", "OciSpec", "checked_params", "checked_settings"]


ROOM = "/run/dms-executor"  # where root's shims mount their tmpfs


class OciParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`engine_spec.params`. None is unset: the image's own value counts; an empty list or text is not unset.

    `image`: `rootfs:DIR` or `oci:DIR[:TAG]`. `user`: "name", "uid", either with ":group". `pull`: when to look for a
    newer image. `platform`: "linux/amd64".
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


class OciSpec(OciParams, frozen=True, kw_only=True):
    """Builds the `SpecConfig` of this engine: `OciSpec(image="rootfs:/srv/root", cmd=["true"]).build()`."""

    def build(self) -> SpecConfig:
        """The params that differ from their defaults. Raises `InvalidRequest`."""
        params = {name: getattr(self, name) for name in OciParams.__struct_fields__}
        params = {name: value for name, value in params.items() if value != getattr(_PLAIN, name) or name == "image"}
        checked_params(params)
        return SpecConfig(type="oci", params=params)


_PLAIN = OciParams(image="")


class OciSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`Settings.engines["oci"]`.

    `runtime`: "crun", "runc", "runsc", an absolute path, or None for the first that is installed. `platform`: how
    runsc reaches the processor (https://gvisor.dev/docs/architecture_guide/platforms/); None: its own choice.
    `cgroup_parent`: the cgroup of all jobs. `seccomp`: a profile in the form of containers-common; None: that package's
    own. `room`: an existing or creatable folder on which each shim mounts its private tmpfs; None:
    `/run/dms-executor`, of an ordinary user the one in `XDG_RUNTIME_DIR`, else in the state folder.
    `network_program`: what gives the network `user`: "pasta", "slirp4netns", an absolute path, or None for the first
    that is installed. `userns`: whether each job has a user namespace with a range of ids of its own: wherever it can,
    always or never (docs/decisions.md). `cdi_folders`: where CDI specs lie, the last counts most. `cdi_hooks`: what to
    do with a device whose spec has programs run on the host as root: refuse it, give it without them, or run them
    (docs/devices.md).
    """

    runtime: str | None = None
    cgroup_parent: str = "dms-executor"
    seccomp: str | None = None
    room: str | None = None
    network_program: str | None = None
    userns: Literal["auto", "required", "off"] = "auto"
    platform: Platform | None = None
    umoci: str | None = None
    skopeo: str | None = None
    cdi_folders: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    cdi_hooks: Literal["refuse", "skip", "run"] = "refuse"


_PARAMS = "$.engine_spec.params"


def checked_params(params: dict[str, Any]) -> OciParams:
    """Raises `InvalidRequest`, which lists the known keys where one is unknown."""
    try:
        checked = msgspec.convert(params, known(OciParams))
    except msgspec.ValidationError as error:
        raise _invalid(error, OciParams, _PARAMS) from error
    _check(checked)
    return checked


def checked_settings(settings: Any) -> OciSettings:
    """The engine's settings out of a struct, a mapping or None. Raises `InvalidRequest`."""
    if isinstance(settings, OciSettings):
        return settings
    try:
        checked = msgspec.convert(settings or {}, known(OciSettings))
    except msgspec.ValidationError as error:
        raise _invalid(error, OciSettings, "$.engines.oci") from error
    parts = checked.cgroup_parent.split("/")
    if not all(parts) or any(part in (".", "..") for part in parts):
        raise InvalidRequest(
            f"{checked.cgroup_parent!r} is no cgroup", path="$.engines.oci.cgroup_parent", mend="E.g. 'dms-executor'"
        )
    return checked


def _check(params: OciParams) -> None:
    for name in ("entrypoint", "cmd"):
        for index, word in enumerate(getattr(params, name) or []):
            _no_nul(word, f"{_PARAMS}.{name}[{index}]")
    for key, value in params.environment.items():
        if not key or "=" in key or "\0" in key + value:
            raise InvalidRequest(f"{key!r} is not a variable", path=f"{_PARAMS}.environment", mend="No '=', no NUL")
    for name in ("image", "user", "hostname", "platform"):
        text = getattr(params, name)
        if text is not None:
            _no_nul(text, f"{_PARAMS}.{name}")
            _not_empty(text, f"{_PARAMS}.{name}")
    folder = params.working_directory
    if folder is not None and (not posixpath.isabs(folder) or "\0" in folder):
        raise InvalidRequest(f"{folder!r} is not absolute", path=f"{_PARAMS}.working_directory", mend="E.g. '/data'")
    if params.hostname is not None and len(params.hostname) > 64:  # HOST_NAME_MAX, uname(2)
        raise InvalidRequest("a hostname has at most 64 characters", path=f"{_PARAMS}.hostname", mend="Shorten it")


def _no_nul(text: str, path: str) -> None:
    if "\0" in text:
        raise InvalidRequest("it holds a NUL", path=path, mend="Leave the NUL out")


def _not_empty(text: str, path: str) -> None:
    if not text:
        raise InvalidRequest("it is empty", path=path, mend="Leave the field out, or give it a value")


def _invalid(error: msgspec.ValidationError, model: type[msgspec.Struct], prefix: str) -> InvalidRequest:
    what, _, where = str(error).partition(" - at `$")
    known = ", ".join(model.__struct_fields__)
    return InvalidRequest(what, path=prefix + where.rstrip("`"), mend=f"Known here: {known}")
