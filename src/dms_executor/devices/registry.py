"""The CDI specs of this host, read only from files that nobody but root can have written.

A later folder counts more than an earlier one; two files of one folder that define the same device make it unusable, as
https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md#cdi-devices-and-spec-files has it.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence

import msgspec

from .cdi import CdiDevice, CdiSpec, parse_spec
from .names import DeviceName

__all__ = ["CDI_FOLDERS", "Found", "Registry"]

CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")
_LARGEST = 4 << 20  # bytes; NVIDIA's are some 20 KiB
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH
_log = logging.getLogger("dms_executor.devices")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A device and the spec in whose file it stands."""

    name: DeviceName
    device: CdiDevice
    spec: CdiSpec
    file: str


class Registry:
    """What the folders hold now; a file is read again when it has changed. Blocks; keep it to one thread at a time."""

    def __init__(self, folders: Sequence[str] = CDI_FOLDERS) -> None:
        self._folders = tuple(folders)
        self._parsed: dict[str, tuple[tuple[int, ...], CdiSpec | None, str]] = {}
        self.refused: dict[str, str] = {}
        """Files and folders that were left out, and why; as of the last `load`."""

    def load(self) -> dict[DeviceName, Found]:
        """All devices that can be used."""
        self.refused = {}
        found: dict[DeviceName, Found] = {}
        for folder in self._folders:
            mine: dict[DeviceName, Found] = {}
            torn: dict[DeviceName, str] = {}
            for file, spec in self._specs(folder):
                for device in spec.devices:
                    name = DeviceName(spec.kind, device.name)
                    if name in mine:
                        torn[name] = f"{name} stands in {mine[name].file} and in {file}"
                    mine[name] = Found(name=name, device=device, spec=spec, file=file)
            found.update(mine)
            for name, why in torn.items():
                del found[name]
                self._refuse(str(name), why)
        return found

    def _specs(self, folder: str) -> list[tuple[str, CdiSpec]]:
        try:
            real = os.path.realpath(folder, strict=True)
            problem = _untrusted_folder(real)
            names = [] if problem else sorted(os.listdir(real))
        except FileNotFoundError:
            return []
        except OSError as error:
            problem, names = f"it cannot be read: {error.strerror}", []
        if problem:
            self._refuse(folder, problem)
        specs = []
        for name in names:
            if name.endswith((".json", ".yaml")):
                spec = self._read(f"{real}/{name}")
                if spec is not None:
                    specs.append((f"{real}/{name}", spec))
        return specs

    def _read(self, path: str) -> CdiSpec | None:
        try:
            # Not through a symlink: where that leads might be somebody else's folder.
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._refuse(path, f"it cannot be opened: {error.strerror}")
            return None
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            problem = _untrusted(status)
            if not problem and not stat.S_ISREG(status.st_mode):
                problem = "it is no regular file"
            if problem or status.st_size > _LARGEST:
                self._refuse(path, problem or f"it has more than {_LARGEST} bytes")
                return None
            mark = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if path not in self._parsed or self._parsed[path][0] != mark:
                self._parsed[path] = (mark, *_parsed(file.read(_LARGEST), path))
        _, spec, problem = self._parsed[path]
        if problem:
            self._refuse(path, problem)
        return spec

    def _refuse(self, what: str, why: str) -> None:
        self.refused[what] = why
        _log.warning("CDI: %s is left out: %s", what, why)


def _parsed(data: bytes, path: str) -> tuple[CdiSpec | None, str]:
    try:
        return parse_spec(data, yaml=path.endswith(".yaml")), ""
    except ValueError as error:
        return None, str(error)


def _untrusted(status: os.stat_result) -> str:
    if status.st_uid != 0:
        return f"it belongs to uid {status.st_uid} and not to root"
    return "others than its owner can write to it" if status.st_mode & _WRITABLE else ""


def _untrusted_folder(path: str) -> str:
    """Who can write to the folder, or put another in its place, could write any spec."""
    status = os.lstat(path)
    problem = _untrusted(status)
    while not problem and path != "/":
        path = os.path.dirname(path)  # noqa: PTH120
        status = os.lstat(path)
        # In a sticky folder (/tmp) only the owner of what is in it can put another in its place.
        sticky = status.st_mode & stat.S_ISVTX and status.st_uid == 0
        problem = "" if sticky else _untrusted(status)
        problem = f"above it, {path}: {problem}" if problem else ""
    return problem
