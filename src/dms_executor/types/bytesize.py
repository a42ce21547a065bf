"""`ByteSize`: a number of bytes that parses "512MiB" and "512MB" apart."""

from __future__ import annotations

import re
from typing import Self

__all__ = ["ByteSize"]

_DECIMAL: dict[str, int] = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY: dict[str, int] = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40, "pi": 2**50}
_FACTORS = {**_DECIMAL, **_BINARY}
_FORM = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?i?)b?\s*", re.IGNORECASE | re.ASCII)


class ByteSize(int):
    """A size in bytes: `ByteSize("512MiB")`, `ByteSize("1.5GB")`, `ByteSize(4096)`.

    KiB, MiB, GiB, TiB, PiB are powers of 1024; kB, MB, GB, TB, PB powers of 1000, as IEC 80000-13 has
    it. Raises ValueError where the text is not a size, or the size is negative or no whole number of bytes.
    """

    def __new__(cls, value: int | str) -> Self:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise TypeError(f"a size is a number of bytes or a text such as '512MiB', not {value!r}")
        size = value if isinstance(value, int) else _parse(value)
        if not 0 <= size < 2**63:
            raise ValueError(f"a size lies between 0 and 2^63-1 bytes, {value!r} does not")
        return super().__new__(cls, size)

    def __repr__(self) -> str:
        return f"ByteSize({str(self)!r})"

    def __str__(self) -> str:
        for unit in ("PiB", "TiB", "GiB", "MiB", "KiB"):
            factor = _BINARY[unit[:2].lower()]
            if self and self % factor == 0:
                return f"{int(self) // factor}{unit}"
        return f"{int(self)}B"


def _parse(text: str) -> int:
    match = _FORM.fullmatch(text)
    factor: int | None = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size; write a number of bytes or e.g. '512MiB', '2GB'")
    whole, _, fraction = match[1].partition(".")
    scale = 10 ** len(fraction)
    size, rest = divmod((int(whole) * scale + int(fraction or 0)) * int(factor), scale)
    if rest:
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)
