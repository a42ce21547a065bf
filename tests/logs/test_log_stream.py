"""What a caller gets of a log: tail, last, since, streams, timestamps; against a naive model."""

from __future__ import annotations

import asyncio
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_executor.errors import InvalidRequest
from dms_executor.logs import Gap, LogEntry, LogStream, Watcher
from dms_executor.logs.excerpt import since_stamp

from . import log_model as model
from .log_model import request, streamed, write

STREAMS = st.sampled_from(["stdout", "stderr"])
TEXT = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\n\n", b"\xff"]), min_size=1, max_size=8).map(b"".join)
ENTRIES = st.lists(st.tuples(STREAMS, st.integers(1, 20), TEXT), max_size=30)
CHOICE = st.sampled_from([["stdout"], ["stderr"], ["stdout", "stderr"]])
LONG = [("stdout", 1, b"x" * 1_000_000)] * 10 + [("stderr", 2, b"e\n"), ("stdout", 3, b"x\nnext\n")]


def _iso(stamp: int) -> str:
    return f"1970-01-01T00:00:00.{stamp:09d}Z"


@given(entries=ENTRIES, cap=st.integers(1024, 3000), streams=CHOICE, since=st.none() | st.integers(1, 20),
       last=st.none() | st.integers(0, 12))  # fmt: skip
@settings(max_examples=250, deadline=None)
def test_last_since_and_streams_agree_with_the_model(
    tmp_path_factory: pytest.TempPathFactory,
    entries: Any,
    cap: int,
    streams: list[str],
    since: int | None,
    last: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("x")
    write(folder, entries, cap=cap, segment=256, end=True)
    there = [entry for entry in model.kept(folder) if entry[0] != "gap"]
    wanted = model.chosen(there, streams, since)
    expected = model.joined(wanted) if last is None else model.last(wanted, last)
    got = asyncio.run(streamed(folder, streams=streams, since=since and _iso(since), last=last))
    assert got == expected


@given(before=ENTRIES, after=ENTRIES)
@settings(max_examples=100, deadline=None)
def test_tail_begins_at_the_next_line(tmp_path_factory: pytest.TempPathFactory, before: Any, after: Any) -> None:
    folder = tmp_path_factory.mktemp("x")
    write(folder, before)

    async def follow() -> bytes:
        async with Watcher() as watcher:
            fields = request(tail=True, follow=True)
            async with await LogStream.open(folder, fields, watcher=watcher, finished=asyncio.Event()) as stream:
                await asyncio.to_thread(write, folder, after, end=True)
                return await stream.read()

    assert asyncio.run(follow()) == model.tail(before, after)


@given(entries=ENTRIES)
@settings(max_examples=100, deadline=None)
def test_timestamps_keep_every_line(tmp_path_factory: pytest.TempPathFactory, entries: Any) -> None:
    folder = tmp_path_factory.mktemp("x")
    write(folder, entries, end=True)
    for stream in ("stdout", "stderr"):
        got = asyncio.run(streamed(folder, streams=[stream], timestamps=True))
        lines = [line.partition(b" ") for line in got.split(b"\n")]
        assert b"\n".join(text for _, _, text in lines) == model.joined(model.chosen(entries, [stream], None))
        assert all(time.startswith(b"1970-01-01T00:00:00.0000000") for time, space, _ in lines if space)
        assert all(space for _, space, _ in lines[:-1])


async def test_timestamps_never_splice_streams(folder: Path) -> None:
    await asyncio.to_thread(
        write, folder, [("stdout", 1, b"ab"), ("stderr", 2, b"err\n"), ("stdout", 3, b"c\nd")], end=True
    )
    got = await streamed(folder, timestamps=True)
    assert got.splitlines() == [
        b"1970-01-01T00:00:00.000000002Z err",
        b"1970-01-01T00:00:00.000000001Z abc",
        b"1970-01-01T00:00:00.000000003Z d",
    ]


async def test_tail_without_follow_is_empty(folder: Path) -> None:
    await asyncio.to_thread(write, folder, [("stdout", 1, b"x\n")])
    assert await streamed(folder, tail=True) == b""
    assert await streamed(folder, tail=True, finished=False) == b""


async def test_lines_of_megabytes_are_joined(folder: Path) -> None:
    await asyncio.to_thread(write, folder, LONG, segment=1 << 22, end=True)
    assert await streamed(folder, last=1) == b"next\n"
    assert len(await streamed(folder, last=2)) == 10_000_002 + 5
    assert await streamed(folder, last=3) == model.joined(LONG)
    stamped = await streamed(folder, timestamps=True, streams=["stdout"])
    assert stamped.count(b"1970-01-01T00:00:00.") == 2
    assert len(stamped) == 10_000_007 + 2 * 31


async def test_entries_carry_stream_time_and_gaps(folder: Path) -> None:
    await asyncio.to_thread(write, folder, [("stdout", 10**18, b"x" * 240)] * 20, cap=1024, segment=256, end=True)
    async with Watcher() as watcher:
        ended = asyncio.Event()
        async with await LogStream.open(folder, request(), watcher=watcher, finished=ended) as stream:
            first, *others = [entry async for entry in stream.entries()]
    assert isinstance(first, Gap)
    assert all(
        isinstance(entry, LogEntry) and entry.time.isoformat() == "2001-09-09T01:46:40+00:00" for entry in others
    )
    assert first.bytes + sum(len(entry.data) for entry in others if isinstance(entry, LogEntry)) == 4800


async def test_bytes_tell_of_gaps_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.to_thread(
        write, folder, [("stdout", 1, b"x" * 176), ("stderr", 1, b"y" * 176)] * 9, cap=1024, segment=256, end=True
    )
    async with Watcher() as watcher:
        async with await LogStream.open(folder, request(), watcher=watcher, finished=asyncio.Event()) as stream:
            data = await stream.read()
            assert stream.gaps == {"stdout": 1584 - data.count(b"x"), "stderr": 1584 - data.count(b"y")}
    assert [record.levelname for record in caplog.records if record.name == "dms_executor.logs"] == ["WARNING"]


async def test_read_is_as_of_a_stream_reader(folder: Path) -> None:
    await asyncio.to_thread(write, folder, [("stdout", 1, b"hello "), ("stdout", 1, b"world")], end=True)
    async with Watcher() as watcher:
        async with await LogStream.open(folder, request(), watcher=watcher, finished=asyncio.Event()) as stream:
            assert await stream.read(0) == b""
            assert await stream.read(4) == b"hell"
            assert await stream.read() == b"o world"
            assert (await stream.read(), await stream.read(5)) == (b"", b"")


async def test_seconds_back(folder: Path) -> None:
    now = time.time_ns()
    await asyncio.to_thread(write, folder, [("stdout", now - 100 * 10**9, b"old\n"), ("stdout", now, b"new\n")])
    assert await streamed(folder, since=50.0) == b"new\n"
    assert await streamed(folder, since=500) == b"old\nnew\n"


async def test_torn_last_entry_is_data_once_finished(folder: Path) -> None:
    await asyncio.to_thread(write, folder, [("stdout", 1, b"whole\n"), ("stdout", 1, b"torn")])
    segment = folder / "log" / "0000000001"
    await asyncio.to_thread(os.truncate, segment, 64 + 16 + 6 + 16 + 2)
    assert await streamed(folder, finished=False) == b"whole\n"
    assert await streamed(folder) == b"whole\nto"
    assert await streamed(folder, follow=True) == b"whole\nto"
    assert await streamed(folder, last=1) == b"to"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"since": "2026-01-01T00:00:00"}, "$.since"),
        ({"since": "yesterday"}, "$.since"),
        ({"since": -1.0}, "$.since"),
        ({"since": float("nan")}, "$.since"),
        ({"last": -1}, "$.last"),
        ({"streams": []}, "$.streams"),
    ],
)
async def test_senseless_request_names_the_field(folder: Path, fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await streamed(folder, **fields)
    assert caught.value.path == path


def test_since_is_read_to_the_nanosecond() -> None:
    assert since_stamp("2001-09-09T03:46:40.123456789+02:00", 0) == 10**18 + 123456789
    assert since_stamp("2001-09-09T01:46:40Z", 0) == 10**18


@pytest.mark.parametrize("fields", [{}, {"last": 5}, {"since": 1e12}])
async def test_without_follow_what_is_written_after_the_call_is_left_out(folder: Path, fields: dict[str, Any]) -> None:
    await asyncio.to_thread(write, folder, [("stdout", 1, b"before\n")])
    async with Watcher() as watcher:
        ended = asyncio.Event()
        async with await LogStream.open(folder, request(**fields), watcher=watcher, finished=ended) as stream:
            await asyncio.to_thread(write, folder, [("stdout", 2, b"after\n")], end=True)
            assert await stream.read() == b"before\n"


async def test_memory_stays_flat(folder: Path) -> None:
    await asyncio.to_thread(write, folder, [("stdout", 1, b"x" * (1 << 20))] * 64, end=True)
    tracemalloc.start()
    try:
        async with Watcher() as watcher:
            async with await LogStream.open(
                folder, request(timestamps=True), watcher=watcher, finished=asyncio.Event()
            ) as stream:
                assert sum([len(chunk) async for chunk in stream]) == (64 << 20) + 31
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
