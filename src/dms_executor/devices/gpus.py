"""The GPUs of this host, found by PCI; which of them a request means, and which it gets.

A GPU is told by its PCI address: card, render node and NVIDIA's minor number are looked up by it and never by counting,
since the numbers of /dev/dri follow the order in which drivers came up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from ..types import GPU

__all__ = ["FoundGpu", "assign", "described", "discover", "matching", "names_of"]

SYSFS = Path("/sys")
PROC = Path("/proc")

_VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
# Display controllers, and processing accelerators such as AMD's Instinct: https://pcisig.com, class codes.
_CLASSES = ("0x03", "0x12")
_DRM = re.compile(r"(card|renderD)\d+")
_ADDRESS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", re.IGNORECASE)
_AMD_SHARED = ("/dev/kfd",)


class FoundGpu(msgspec.Struct, frozen=True, kw_only=True):
    """`nodes`: its own device nodes; `shared`: those that all GPUs of its vendor need; `uuid`: NVIDIA's own name."""

    gpu: GPU
    nodes: list[str]
    shared: list[str] = []
    uuid: str = ""


def discover() -> list[FoundGpu]:
    """In the order of PCI; `index` counts within a vendor, as nvidia-smi does. Without a driver it is none. Blocks."""
    found: list[FoundGpu] = []
    count: dict[str, int] = {}
    for device in sorted(_listed(SYSFS / "bus/pci/devices"), key=lambda path: path.name):
        vendor = _VENDORS.get(_text(device / "vendor"))
        if vendor is None or not _text(device / "class").startswith(_CLASSES):
            continue
        address = device.name
        if vendor == "nvidia":
            nodes, name, uuid = _nvidia(address)
        else:
            nodes, name, uuid = _drm_nodes(device), _text(device / "product_name"), ""
        if not nodes:
            continue
        index = count[vendor] = count.get(vendor, -1) + 1
        gpu = msgspec.convert({"vendor": vendor, "index": index, "name": name or None, "pci_address": address}, GPU)
        shared = list(_AMD_SHARED) if vendor == "amd" else []
        found.append(FoundGpu(gpu=gpu, nodes=nodes, shared=shared, uuid=uuid))
    return found


def matching(wanted: GPU, gpus: Iterable[GPU]) -> list[GPU]:
    """Those that all that `wanted` says is true of."""
    return [gpu for gpu in gpus if _matches(wanted, gpu)]


def assign(wanted: Sequence[GPU], gpus: Sequence[GPU], taken: Iterable[str]) -> list[GPU] | None:
    """One GPU for each that is wanted, none twice, none of the addresses in `taken`; None: too few."""
    busy = set(taken)
    free = [gpu for gpu in gpus if gpu.pci_address not in busy]
    choices = [matching(each, free) for each in wanted]
    given: dict[str, int] = {}  # address -> place in `wanted`
    for place in range(len(wanted)):
        if not _place(place, choices, given, set()):
            return None
    by_place = {place: address for address, place in given.items()}
    by_address = {gpu.pci_address or "": gpu for gpu in free}
    return [by_address[by_place[place]] for place in range(len(wanted))]


def _place(place: int, choices: list[list[GPU]], given: dict[str, int], tried: set[str]) -> bool:
    """Finds one for `place`, moving others to another of their choices where that helps (Kuhn's algorithm)."""
    for gpu in choices[place]:
        address = gpu.pci_address or ""
        if address in tried:
            continue
        tried.add(address)
        if address not in given or _place(given[address], choices, given, tried):
            given[address] = place
            return True
    return False


def names_of(gpu: GPU) -> list[str]:
    """The names by which a policy may allow it: `nvidia.com/gpu=0`, `nvidia.com/gpu=0000:01:00.0`."""
    return [f"{gpu.vendor}.com/gpu={name}" for name in (gpu.index, gpu.pci_address) if name is not None]


def described(gpu: GPU) -> str:
    """For messages."""
    said = [str(part) for part in (gpu.pci_address, gpu.name) if part]
    if gpu.index is not None:
        said.insert(0, str(gpu.index))
    return " ".join([gpu.vendor, *said])


def _matches(wanted: GPU, gpu: GPU) -> bool:
    if wanted.vendor != gpu.vendor or wanted.index not in (None, gpu.index):
        return False
    if wanted.pci_address is not None and _address(wanted.pci_address) != _address(gpu.pci_address or ""):
        return False
    return wanted.name is None or wanted.name.casefold() == (gpu.name or "").casefold()


def _address(text: str) -> str:
    """0000:01:00.0, also of 01:00.0 and of NVIDIA's 00000000:01:00.0."""
    match = _ADDRESS.fullmatch(text)
    return f"{int(match[1] or '0', 16):04x}:{match[2].lower()}" if match else text


def _nvidia(address: str) -> tuple[list[str], str, str]:
    """Node, name and UUID, as the driver tells them by address; it shows no UUID before the GPU's first use."""
    lines = _text(PROC / f"driver/nvidia/gpus/{address}/information").splitlines()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    minor = told.get("Device Minor", "")
    uuid = told.get("GPU UUID", "")
    nodes = [f"/dev/nvidia{minor}"] if minor.isdecimal() else []
    return nodes, told.get("Model", ""), "" if "?" in uuid else uuid


def _drm_nodes(device: Path) -> list[str]:
    names = sorted(path.name for path in _listed(device / "drm") if _DRM.fullmatch(path.name))
    return [f"/dev/dri/{name}" for name in names]


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
