"""A CDI spec, one file of a vendor's: which devices there are, and what a container gets to have them.

https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md, versions 0.3 to 1.1. What is not
understood is an error, since an edit that is left out silently is a device that half works.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

import msgspec

from ..typed import known
from .names import check_device, check_kind

__all__ = ["HOOKS", "CdiDevice", "CdiMount", "CdiNode", "CdiSpec", "Edits", "Hook", "parse_spec"]

_VERSIONS = frozenset({"0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"})
HOOKS = frozenset({"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"})


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The manners of all parts: unknown fields are refused."""


class CdiNode(_Part, frozen=True, kw_only=True):
    """A device node. What is None is taken from the host's node, `host_path`, or `path` without one."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class CdiMount(_Part, frozen=True, kw_only=True):
    """A mount from the host."""

    host_path: str
    container_path: str
    options: list[str] = []
    type: str = ""


class Hook(_Part, frozen=True, kw_only=True):
    """A program of the host that the runtime runs."""

    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class IntelRdt(_Part, frozen=True, kw_only=True):
    """Cache and memory bandwidth: https://docs.kernel.org/arch/x86/resctrl.html"""

    clos_id: str | None = msgspec.field(default=None, name="closID")
    l3_cache_schema: str | None = msgspec.field(default=None, name="l3CacheSchema")
    mem_bw_schema: str | None = msgspec.field(default=None, name="memBwSchema")
    schemata: list[str] | None = None
    enable_cmt: bool | None = msgspec.field(default=None, name="enableCMT")
    enable_mbm: bool | None = msgspec.field(default=None, name="enableMBM")
    enable_monitoring: bool | None = None


class Edits(_Part, frozen=True, kw_only=True):
    """`containerEdits`."""

    env: list[str] = []
    device_nodes: list[CdiNode] = []
    mounts: list[CdiMount] = []
    hooks: list[Hook] = []
    additional_gids: list[int] = msgspec.field(default=[], name="additionalGids")
    intel_rdt: IntelRdt | None = None
    net_devices: list[dict[str, Any]] = []


class CdiDevice(_Part, frozen=True, kw_only=True):
    """One device of the spec's kind."""

    name: str
    annotations: dict[str, str] = {}
    container_edits: Edits = Edits()


class CdiSpec(_Part, frozen=True, kw_only=True):
    """One file. `container_edits` come once with any of its devices."""

    cdi_version: str
    kind: str
    annotations: dict[str, str] = {}
    devices: list[CdiDevice] = []
    container_edits: Edits = Edits()


def parse_spec(data: bytes, *, yaml: bool) -> CdiSpec:
    """Raises ValueError with what is wrong with it."""
    decode = msgspec.yaml.decode if yaml else msgspec.json.decode
    try:
        spec = msgspec.convert(decode(data), known(CdiSpec))
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ValueError(str(error)) from error
    if spec.cdi_version.removeprefix("v") not in _VERSIONS:
        raise ValueError(f"its version is {spec.cdi_version!r}; known are 0.3.0 to 1.1.0")
    check_kind(spec.kind)
    names = [check_device(device.name) for device in spec.devices]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"it has the device {min(twice)!r} twice")
    for edits in (spec.container_edits, *(device.container_edits for device in spec.devices)):
        for problem in _problems(edits):
            raise ValueError(problem)
    return spec


def _problems(edits: Edits) -> Iterator[str]:
    for variable in edits.env:
        if variable.find("=") < 1 or "\0" in variable:
            yield f"env: {variable!r} is not NAME=VALUE"
    for node in edits.device_nodes:
        yield from _problems_of_node(node)
    for mount in edits.mounts:
        if not _is_path(mount.host_path) or not _is_path(mount.container_path):
            yield f"mounts: {mount.host_path!r} to {mount.container_path!r} are not two absolute paths"
        if mount.type not in ("", "bind", "none"):
            yield f"mounts: the type {mount.type!r} of {mount.container_path!r} is not 'bind'"
    for hook in edits.hooks:
        if hook.hook_name not in HOOKS or not _is_path(hook.path):
            yield f"hooks: {hook.hook_name!r} with {hook.path!r} is no hook with an absolute path"
    if any(not 0 <= gid < 2**31 for gid in edits.additional_gids):
        yield f"additionalGids: {edits.additional_gids} are no groups"
    if edits.net_devices:
        yield "netDevices: a network device cannot be given to a job"


def _problems_of_node(node: CdiNode) -> Iterator[str]:
    if not _is_path(node.path) or (node.host_path and not _is_path(node.host_path)):
        yield f"deviceNodes: {node.path!r} is not absolute"
    if node.type not in ("", "b", "c", "u"):
        yield f"deviceNodes: the type {node.type!r} of {node.path!r} is none of b, c, u"
    if not set(node.permissions) <= set("rwm"):
        yield f"deviceNodes: the permissions {node.permissions!r} of {node.path!r} are not of r, w, m"
    numbers = (node.major, node.minor, node.file_mode, node.uid, node.gid)
    if any(number is not None and not 0 <= number < 2**31 for number in numbers):
        yield f"deviceNodes: a number of {node.path!r} is out of range"


def _is_path(text: str) -> bool:
    return posixpath.isabs(text) and "\0" not in text and posixpath.normpath(text) == text and text != "/"
