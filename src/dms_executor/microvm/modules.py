"""The modules of a kernel: where they lie, what each needs, in which order they are loaded.

A kernel package that was only unpacked has no `modules.dep` (depmod writes it when the package is installed), so each
module's own `depends=` counts, which is what depmod goes by.
https://docs.kernel.org/kbuild/modules.html, https://man7.org/linux/man-pages/man5/modules.dep.5.html
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

from .compressed import Corrupt, decompress

__all__ = ["Module", "ModuleMissing", "ModuleSet"]

_LIMIT = 64 << 20
_CHAIN = 30  # modules each of which needs the next; real ones have four
_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


class ModuleMissing(ValueError):
    """The kernel has neither the module nor its code built in."""


class Module:
    """One of them: `data` is what init_module(2) takes."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data

    def needs(self) -> list[str]:
        """Modules that are loaded before it: those whose symbols it uses, and those that it asks for softly.

        Raises `Corrupt`.
        """
        hard, soft = [], []
        for line in _section(self.data, b".modinfo").split(b"\0"):
            key, _, value = line.partition(b"=")
            text = value.decode(errors="replace")
            if key == b"depends":
                hard += [_plain(name) for name in text.split(",") if name]
            elif key == b"softdep" and text.startswith("pre:"):
                soft += [_plain(name) for name in text.removeprefix("pre:").partition("post:")[0].split()]
        return hard + [f"?{name}" for name in soft]


class ModuleSet:
    """What lies in a folder `lib/modules/<release>`. All methods block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _files(folder)
        self._built_in = _built_in(folder)

    def has(self, name: str) -> bool:
        """Whether it is there, as a module or built in."""
        return _plain(name) in self._files or self.is_built_in(name)

    def is_built_in(self, name: str) -> bool:
        return _plain(name) in self._built_in

    def in_order(self, wanted: Sequence[str]) -> list[Module]:
        """Those and all that they need, each after what it needs. A name that begins with '?' may be missing.

        Raises `ModuleMissing`, `Corrupt`, OSError.
        """
        done: dict[str, Module | None] = {}
        for name in wanted:
            self._add(name, done, ())
        return [module for module in done.values() if module is not None]

    def _add(self, name: str, done: dict[str, Module | None], asking: tuple[str, ...]) -> None:
        plain = _plain(name.removeprefix("?"))
        if plain in done or plain in asking or self.is_built_in(plain):
            return
        if plain not in self._files:
            if name.startswith("?"):
                return
            raise ModuleMissing(f"there is no module {plain} in {self.folder}, and it is not built in")
        if len(asking) > _CHAIN:
            raise Corrupt(f"{self.folder}: modules that need one another without an end")
        module = Module(plain, _read(self._files[plain]))
        for needed in module.needs():
            self._add(needed, done, (*asking, plain))
        done[plain] = module


def _plain(name: str) -> str:
    # The kernel takes the two for the same.
    return name.replace("-", "_")


def _files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    # What replaces a module of the kernel's own lies in `updates`, and counts first (depmod.d(5)).
    for part in ("updates", "kernel"):
        for path, _, names in os.walk(folder / part):
            for name in names:
                stem, dot, _ = name.partition(".ko")
                if dot and name.endswith(_SUFFIXES):
                    found.setdefault(_plain(stem), Path(path) / name)
    return found


def _built_in(folder: Path) -> frozenset[str]:
    try:
        lines = (folder / "modules.builtin").read_text(encoding="ascii", errors="replace").split()
    except FileNotFoundError:
        return frozenset()
    return frozenset(_plain(line.rpartition("/")[2].removesuffix(".ko")) for line in lines)


def _read(path: Path) -> bytes:
    # The folder may be a stranger's: a pipe would hold us for ever.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LIMIT:
            raise Corrupt(f"{path} is no kernel module")
        data = file.read(_LIMIT)
    try:
        data = data if path.name.endswith(".ko") else decompress(data, _LIMIT)
        _section(data, b".modinfo")
    except Corrupt as error:
        raise Corrupt(f"{path}: {error}") from error
    return data


def _section(data: bytes, wanted: bytes) -> bytes:
    """Of a 64-bit ELF file: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.sheader.html"""
    try:
        if data[:5] != b"\x7fELF\x02":
            raise Corrupt("no 64-bit ELF file")
        (table,) = struct.unpack_from("<Q", data, 40)
        size, count, names = struct.unpack_from("<HHH", data, 58)
        headers = [struct.unpack_from("<IIQQQQ", data, table + size * index) for index in range(count)]
        text = headers[names][4]
        for name, _, _, _, offset, length in headers:
            end = data.find(b"\0", text + name)
            if data[text + name : end] == wanted and offset + length <= len(data):
                return data[offset : offset + length]
    except (struct.error, IndexError) as error:
        raise Corrupt("a damaged ELF file") from error
    raise Corrupt(f"it has no section {wanted.decode()}")
