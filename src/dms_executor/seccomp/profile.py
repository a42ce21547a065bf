"""The seccomp filter: compiled once, cached, and installed by our init.

runc and crun compile the profile at every start, which costs more than all else that they do. So the profile of
containers-common is compiled here, through the libseccomp that they depend on themselves, and our init installs the
ready program on itself before anything else. Where a job brings its own init, the runtime gets the same rules in OCI
form. https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec

from ..capabilities import DEFAULT_CAPABILITIES
from . import libseccomp
from .denied import narrowed
from .rules import Action, Condition, Rule

__all__ = ["PROFILE", "Filter", "compiled", "load_profile", "oci_form"]

PROFILE = "/usr/share/containers/seccomp.json"
_FORMAT = 5  # part of the cache's key: what `_compile` does


class _Architecture(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class _Profile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    default_action: Action
    default_errno_ret: int | None = None
    arch_map: list[_Architecture] = []
    syscalls: list[Rule] = []


# Made while only one thread can be here: msgspec crashes where two are the first to decode into one type.
_DECODER = msgspec.json.Decoder(_Profile)


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """A profile with all conditions decided for this host and these capabilities."""

    default_action: Action
    default_errno: int | None = None
    architectures: list[str] = []
    rules: list[Rule] = []


def load_profile(path: str | None = None, capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES) -> Filter:
    """The profile at `path` (None: containers-common's, else our own), decided for this host.

    Raises OSError, ValueError.
    """
    return _decided(_parsed(_read(path)), capabilities)


def compiled(cache: Path, path: str | None = None, capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES) -> int:
    """An opened file with the BPF program: an array of `struct sock_filter`. Compiles it where the cache has none.

    Blocks (20 ms the first time). Raises OSError where libseccomp is missing or refuses, ValueError on a bad profile.
    """
    raw = _read(path)
    name = _name(raw, capabilities)
    file = cache / f"{name}.bpf"
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        pass
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = cache / f"{name}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        libseccomp.export_bpf(_decided(_parsed(raw), capabilities), fd)
        temporary.rename(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    return os.open(file, os.O_RDONLY | os.O_CLOEXEC)


@functools.lru_cache(maxsize=4)
def _name(raw: bytes, capabilities: tuple[str, ...]) -> str:
    key = "\0".join((str(_FORMAT), *capabilities, os.uname().machine, _kernel_minor(), libseccomp.version()))
    return hashlib.sha256(key.encode() + b"\0" + raw).hexdigest()[:32]


def oci_form(chosen: Filter) -> dict[str, Any]:
    """`linux.seccomp` of the runtime's specification."""
    rules = []
    for rule in chosen.rules:
        plain: dict[str, Any] = {"names": rule.names, "action": rule.action}
        if rule.errno_ret is not None:
            plain["errnoRet"] = rule.errno_ret
        if rule.args:
            plain["args"] = [msgspec.to_builtins(argument) for argument in rule.args]
        rules.append(plain)
    form: dict[str, Any] = {
        "defaultAction": chosen.default_action,
        "architectures": chosen.architectures,
        "syscalls": rules,
    }
    if chosen.default_errno is not None:
        form["defaultErrnoRet"] = chosen.default_errno
    return form


def _read(path: str | None) -> bytes:
    try:
        return Path(path or PROFILE).read_bytes()
    except FileNotFoundError:
        if path is not None:
            raise
        return b""


def _parsed(raw: bytes) -> _Profile:
    if not raw:
        return _Profile(default_action="SCMP_ACT_ALLOW")  # and then all that `narrowed` takes away
    try:
        return _DECODER.decode(raw)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a seccomp profile: {error}") from error


def _decided(profile: _Profile, capabilities: tuple[str, ...]) -> Filter:
    rules = [
        Rule(names=rule.names, action=rule.action, args=rule.args, errno_ret=rule.errno_ret)
        for rule in profile.syscalls
        if _applies(rule, capabilities)
    ]
    errno = profile.default_errno_ret if profile.default_action == "SCMP_ACT_ERRNO" else None
    return Filter(
        default_action=profile.default_action,
        default_errno=errno,
        architectures=_architectures(profile),
        rules=narrowed(rules),
    )


def _applies(rule: Rule, capabilities: tuple[str, ...]) -> bool:
    """As Docker and containers-common decide: every include has to hold, no exclude may.

    https://github.com/containers/common/blob/main/pkg/seccomp/seccomp_linux.go
    """
    arch = _GO_ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    includes, excludes = rule.includes or Condition(), rule.excludes or Condition()
    if includes.arches and arch not in includes.arches:
        return False
    if includes.caps and not set(includes.caps) <= set(capabilities):
        return False
    if includes.min_kernel and _version(os.uname().release) < _version(includes.min_kernel):
        return False
    if excludes.arches and arch in excludes.arches:
        return False
    if excludes.caps and set(excludes.caps) & set(capabilities):
        return False
    return not (excludes.min_kernel and _version(os.uname().release) >= _version(excludes.min_kernel))


_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_FAMILIES = {
    "SCMP_ARCH_X86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "SCMP_ARCH_AARCH64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def _architectures(profile: _Profile) -> list[str]:
    native = _NATIVE.get(os.uname().machine)
    for entry in profile.arch_map:
        if entry.architecture == native:
            return [entry.architecture, *(entry.sub_architectures or [])]
    return _FAMILIES.get(native or "", [])


def _kernel_minor() -> str:
    return ".".join(str(number) for number in _version(os.uname().release))


def _version(text: str) -> tuple[int, int]:
    parts = text.split(".")[:2] + ["0"]
    major, minor = ("".join(char for char in part if char.isdecimal()) or "0" for part in parts[:2])
    return int(major), int(minor)
