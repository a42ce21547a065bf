"""Qualified names of devices: `vendor.com/class=name`.

https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md#cdi-json-specification
"""

from __future__ import annotations

import re

import msgspec

__all__ = ["DeviceName", "check_device", "check_kind", "parse_name"]

_VENDOR = re.compile(r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?", re.ASCII)
_CLASS = _VENDOR
_DEVICE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?", re.ASCII)
_LONGEST = 253


class DeviceName(msgspec.Struct, frozen=True):
    """`kind` is `vendor.com/class`."""

    kind: str
    device: str

    def __str__(self) -> str:
        return f"{self.kind}={self.device}"


def parse_name(text: str) -> DeviceName:
    """Raises ValueError, which says what a name looks like."""
    kind, separator, device = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} is no device: a name is vendor.com/class=name")
    return DeviceName(check_kind(kind), check_device(device))


def check_kind(text: str) -> str:
    """`vendor.com/class`. Raises ValueError."""
    vendor, separator, kind = text.partition("/")
    if not separator or len(text) > _LONGEST or not _VENDOR.fullmatch(vendor) or not _CLASS.fullmatch(kind):
        raise ValueError(f"{text[:80]!r} is no kind of device: it looks like vendor.com/class")
    return text


def check_device(text: str) -> str:
    """The name within its kind. Raises ValueError."""
    if len(text) > _LONGEST or not _DEVICE.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no name of a device: letters and digits, with _ - . : between them")
    return text
