"""`--gpus`, as docker writes it: a number, or driver=, count= and device= with commas between."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["gpus_of"]

_EXAMPLES = "2, device=0, driver=amd, driver=intel,count=2 or '\"device=0,1\"'"
_VENDORS = ("nvidia", "amd", "intel")


def gpus_of(given: Sequence[str]) -> list[dict[str, Any]]:
    """`resources.gpus`; without a driver NVIDIA's, as with docker. Raises click.BadParameter."""
    return [gpu for text in given for gpu in _gpus(text)]


def _gpus(text: str) -> list[dict[str, Any]]:
    fields = _fields(text)
    vendor = fields.pop("driver", "nvidia")
    count, devices = fields.pop("count", None), fields.pop("device", None)
    if fields or vendor not in _VENDORS or (count is not None and devices is not None):
        raise _wrong(text)
    if devices is not None:
        return [{"vendor": vendor, **_device(name, text)} for name in devices.split(",")]
    if count in ("all", "-1"):
        raise click.BadParameter(
            f"{text!r}: a job reserves the GPUs that it names; for all of a kind that nobody reserves use "
            f"--device {vendor}.com/gpu=all",
            param_hint="--gpus",
        )
    if count is not None and (not count.isdecimal() or not 0 < int(count) <= 64):
        raise _wrong(text)
    return [{"vendor": vendor}] * int(count or 1)


def _fields(text: str) -> dict[str, str]:
    if "=" not in text:
        return {"count": text}
    words = next(csv.reader([text]), [])
    pairs = [word.partition("=") for word in words]
    if not all(separator and value for _, separator, value in pairs):
        raise _wrong(text)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _device(name: str, text: str) -> dict[str, Any]:
    if name.isdecimal():
        return {"index": int(name)}
    if ":" in name:
        return {"pci_address": name}
    raise _wrong(text)


def _wrong(text: str) -> click.BadParameter:
    return click.BadParameter(f"{text!r} is no choice of GPUs, such as {_EXAMPLES}", param_hint="--gpus")
