"""The keys that leave a job or a command which has our terminal: Docker's, and in Docker's words."""

from __future__ import annotations

__all__ = ["DEFAULT", "DetachKeys"]

DEFAULT = "ctrl-p,ctrl-q"
_CONTROL = "@abcdefghijklmnopqrstuvwxyz[\\]^_"  # ctrl-@ is 0, ctrl-_ is 31: ascii(7)


class DetachKeys:
    """A sequence of keys: "ctrl-p,ctrl-q", "ctrl-a,d"; empty: none. Raises `InvalidRequest`."""

    def __init__(self, text: str = DEFAULT) -> None:
        self._keys = bytes(map(_key, text.split(","))) if text else b""
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What of the typed bytes is to be passed on, and whether the sequence was complete.

        A beginning of the sequence is held back until the next key tells.
        """
        if not self._keys:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte != self._keys[self._matched]:
                passed += self._keys[: self._matched]
                self._matched = 0
            if byte != self._keys[self._matched]:
                passed.append(byte)
                continue
            self._matched += 1
            if self._matched == len(self._keys):
                self._matched = 0
                return bytes(passed), True
        return bytes(passed), False


def _key(word: str) -> int:
    from ..errors import InvalidRequest

    letter = word.removeprefix("ctrl-").lower()
    if word.startswith("ctrl-") and len(letter) == 1 and letter in _CONTROL:
        return _CONTROL.index(letter)
    if len(word) == 1 and word.isascii() and word.isprintable():
        return ord(word)
    raise InvalidRequest(
        f"{word!r} is no key", path="--detach-keys", mend="Use letters and ctrl-LETTER, with commas between them"
    )
