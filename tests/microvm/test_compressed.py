"""What kernels and modules are compressed with."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
import struct
import subprocess

import pytest

from dms_executor.microvm.compressed import Corrupt, decompress, is_compressed


def content(kind: str) -> bytes:
    # More than one block of LZ4's; bzip2 would take long for so much.
    return random.Random(1).randbytes(1 << 16) * (130 if kind == "lz4" else 10)


def program(kind: str, *argv: str) -> bytes:
    if shutil.which(argv[0]) is None:
        pytest.skip(f"no {argv[0]} here")
    return subprocess.run(argv, input=content(kind), capture_output=True, check=True).stdout


def compressed(kind: str) -> bytes:
    if kind == "lz4":
        return program(kind, "lz4", "-l", "-c")
    if kind == "zstd":
        return program(kind, "zstd", "-q", "-c")
    if kind == "zstd, its size said":
        return program(kind, "zstd", "-q", "-c", f"--stream-size={len(content(kind))}")
    if kind == "lzma":
        return lzma.compress(content(kind), format=lzma.FORMAT_ALONE)
    return {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}[kind](content(kind))


KINDS = ["gzip", "bzip2", "xz", "lzma", "lz4", "zstd", "zstd, its size said"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_with_the_size_that_a_kernel_appends(kind: str) -> None:
    data = compressed(kind)
    assert is_compressed(data)
    assert decompress(data + struct.pack("<I", 1), 64 << 20) == content(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_and_bombs_are_refused(kind: str) -> None:
    data = compressed(kind)
    with pytest.raises(Corrupt):
        decompress(data, len(content(kind)) // 2)
    with pytest.raises(Corrupt):
        decompress(data[: len(data) // 2], 64 << 20)
    with pytest.raises(Corrupt):
        decompress(data[:6] + b"\xff\0" * 1000, 64 << 20)


def test_what_is_not_compressed() -> None:
    assert not is_compressed(b"\x7fELF")
    with pytest.raises(Corrupt, match="6578"):
        decompress(b"exec", 100)
