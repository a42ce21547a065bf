"""Writes tests/logs/golden: small logs, byte by byte as docs/protocol.md (section 5) has them, and what they mean.

Run it by hand (`python tests/logs/make_golden.py`) after a change of the protocol only. It uses nothing of the package,
so that an error in the package's own encoder cannot hide. Each case is a folder with `log/` (segments) and
`expected.json`: entries as [kind, stamp, data in hex], a gap as ["gap", stream, bytes]; `final` is what a reader gets
once the writer is gone.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
OUT, ERR = 1, 2


def segment(number: int, stdout: int, stderr: int, stamp: int) -> bytes:
    return b"DMSLOG\x00\x01" + struct.pack("<QQQQ", number, stdout, stderr, stamp) + bytes(24)


def entry(kind: int, stamp: int, data: bytes = b"") -> bytes:
    return struct.pack("<I", len(data)) + bytes([kind, 0, 0, 0]) + struct.pack("<Q", stamp) + data


def gap(stream: int, stamp: int, lost: int) -> bytes:
    return entry(3, stamp, bytes([stream]) + bytes(7) + struct.pack("<Q", lost))


def case(name: str, segments: dict[int, bytes], entries: list[list[object]], **more: object) -> None:
    log = GOLDEN / name / "log"
    log.mkdir(parents=True)
    for number, data in segments.items():
        (log / f"{number:010d}").write_bytes(data)
    expected = {"entries": entries, "final": entries, "ended": True, "well_formed": True, **more}
    (GOLDEN / name / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def main() -> None:
    shutil.rmtree(GOLDEN, ignore_errors=True)
    hello = segment(1, 0, 0, 1000) + entry(OUT, 1000, b"hello\n") + entry(ERR, 1001, b"\xff\x00?")
    said: list[list[object]] = [["stdout", 1000, b"hello\n".hex()], ["stderr", 1001, b"\xff\x00?".hex()]]
    end = entry(4, 1002)
    case("plain", {1: hello + end}, said)
    case("empty", {1: segment(1, 0, 0, 1000) + entry(4, 1000)}, [])
    case("running", {1: hello}, said, ended=False)
    case("cursor", {1: hello + entry(5, 1001, b"c1") + end}, said)
    case("disk_full", {1: hello + gap(OUT, 1002, 70000) + end}, [*said, ["gap", "stdout", 70000]])
    case(
        "two_segments",
        {1: hello, 2: segment(2, 6, 3, 1002) + entry(OUT, 1002, b"bye\n") + entry(4, 1003)},
        [*said, ["stdout", 1002, b"bye\n".hex()]],
    )
    case(
        "oldest_gone",
        {7: segment(7, 600, 0, 1000) + entry(OUT, 1000, b"x"), 8: segment(8, 601, 5, 1001) + gap(ERR, 1001, 2) + end},
        [["gap", "stdout", 600], ["stdout", 1000, b"x".hex()], ["gap", "stderr", 5], ["gap", "stderr", 2]],
        well_formed=False,
    )
    torn = entry(OUT, 1002, b"half a line")
    case("torn_data", {1: hello + torn[:20]}, said, final=[*said, ["stdout", 1002, torn[16:20].hex()]],
         ended=False, well_formed=False)  # fmt: skip
    case("torn_header", {1: hello + torn[:7]}, said, ended=False, well_formed=False)
    case("power_cut", {1: hello + bytes(4096)}, said, ended=False, well_formed=False)
    case("power_cut_at_birth", {1: hello, 2: bytes(64)}, said, ended=False, well_formed=False)


if __name__ == "__main__":
    main()
