"""The first use of a struct type, one at a time.

msgspec finds out about a struct type when it is first decoded into, and keeps that at the type; two threads that are
the first at once crash the process (msgspec 0.22.0: SIGSEGV in 3 of 3 tries of 8 threads). Everything here decodes in
threads, so every type goes through `known` on its way to msgspec.
"""

from __future__ import annotations

import threading
from typing import TypeVar

import msgspec

__all__ = ["known"]

T = TypeVar("T")
_first = threading.Lock()
_seen: set[object] = set()


def known(kind: type[T]) -> type[T]:
    """`kind`, which msgspec knows all about from here on, with the types of its fields."""
    if kind not in _seen:
        with _first:
            msgspec.json.Decoder(kind)
            _seen.add(kind)
    return kind
