"""Section 6: the output of an execution, from the first byte, in whatever phase it is."""

from __future__ import annotations

import asyncio

import pytest

from ...errors import ExecutionCancelled, ExecutionNotFound, InvalidRequest
from ...logs.entry import LogEntry
from ...types import LogStreamRequest
from ..bench import Bench
from ..line import line
from ..steps import Exit, Flood, Forever, Raw, Say, Stdin, Trap


@line("6")
async def test_the_whole_output_is_there_after_the_end(bench: Bench) -> None:
    result = await bench.run(Say("a"), Say("b", "stderr"), Say("c"), Exit(1))
    assert await bench.output(result.execution_id, streams=("stdout",)) == b"a\nc\n"
    assert await bench.output(result.execution_id, streams=("stderr",)) == b"b\n"
    assert sorted((await bench.output(result.execution_id)).splitlines()) == [b"a", b"b", b"c"]


@line("6")
async def test_a_follower_gets_all_and_ends_with_the_job(bench: Bench) -> None:
    execution_id = await bench.start(Trap("USR1", 0), Say("first"), Forever(), until="first")
    async with await bench.follow(execution_id) as stream:
        assert await stream.read(100) == b"first\n"
        await bench.executor.send_signal(execution_id, "USR1")
        assert await stream.read() == b""


@line("6")
async def test_a_prompt_without_a_newline_appears(bench: Bench) -> None:
    execution_id = await bench.start(Raw(b"name? "), Forever())
    async with await bench.follow(execution_id) as stream:
        async with asyncio.timeout(10):
            assert await stream.read(100) == b"name? "


@line("6")
async def test_many_followers_get_the_same(bench: Bench) -> None:
    execution_id = await bench.start(Trap("USR1", 0), Flood(500), Say("ready"), Forever(), until="ready")
    following = [asyncio.ensure_future(bench.output(execution_id, follow=True)) for _ in range(5)]
    await bench.executor.send_signal(execution_id, "USR1")
    outputs = await asyncio.gather(*following)
    assert {len(output) for output in outputs} == {500 * 100 + 6}
    assert len(set(outputs)) == 1


@line("6")
async def test_a_reader_that_does_not_read_does_not_slow_the_job(bench: Bench) -> None:
    request = bench.request(Flood(4000))
    await bench.executor.start(request)
    async with await bench.follow(request.execution_id) as stream:
        result = await bench.executor.wait(request.execution_id)
        assert result.status == "success"
        assert len(await stream.read()) == 4000 * 100


@line("6")
async def test_tail_gives_only_what_comes_after(bench: Bench) -> None:
    execution_id = await bench.start(Say("old"), Forever(), until="old")
    assert await bench.output(execution_id, tail=True) == b"", "tail without follow is empty"
    following = asyncio.ensure_future(bench.output(execution_id, tail=True, follow=True))
    await bench.executor.get_status(execution_id)
    await bench.executor.cancel(execution_id, grace=0)
    assert await following == b""


@line("6")
@pytest.mark.parametrize(
    ("last", "expected"), [(0, b""), (1, b"open"), (2, b"c\nopen"), (3, b"b\nc\nopen"), (99, b"a\nb\nc\nopen")]
)
async def test_last_gives_whole_lines(bench: Bench, last: int, expected: bytes) -> None:
    result = await bench.run(Say("a"), Say("b"), Say("c"), Raw(b"open"))
    assert await bench.output(result.execution_id, last=last) == expected


@line("6")
async def test_since_takes_times_and_seconds(bench: Bench) -> None:
    result = await bench.run(Say("a"))
    after = result.finished_at.replace(year=result.finished_at.year + 1).isoformat()
    assert await bench.output(result.execution_id, since=1000.0) == b"a\n"
    assert await bench.output(result.execution_id, since="2001-01-01T00:00:00Z") == b"a\n"
    assert await bench.output(result.execution_id, since=after) == b""


@line("6")
@pytest.mark.parametrize(
    ("field", "value"), [("last", -1), ("since", "yesterday"), ("since", "2001-01-01T00:00:00"), ("streams", ("log",))]
)
async def test_a_wrong_log_request_names_its_field(bench: Bench, field: str, value: object) -> None:
    result = await bench.run()
    with pytest.raises(InvalidRequest) as caught:
        await bench.output(result.execution_id, **{field: value})
    assert caught.value.path.startswith(f"$.{field}")


@line("6")
async def test_entries_tell_stream_and_time(bench: Bench) -> None:
    result = await bench.run(Say("a"), Say("b", "stderr"))
    async with await bench.follow(result.execution_id) as stream:
        entries = [entry async for entry in stream.entries()]
    found = {entry.stream: entry for entry in entries if isinstance(entry, LogEntry)}
    assert (found["stdout"].data, found["stderr"].data) == (b"a\n", b"b\n")
    assert all(entry.time.tzinfo is not None for entry in found.values())


@line("6")
async def test_timestamps_stand_before_each_line(bench: Bench) -> None:
    result = await bench.run(Say("a"), Say("b"))
    lines = (await bench.output(result.execution_id, timestamps=True)).decode().splitlines()
    assert [text.partition(" ")[2] for text in lines] == ["a", "b"]


@line("6")
async def test_a_line_of_megabytes_is_one_line(bench: Bench) -> None:
    data = b"x" * 3_000_000
    result = await bench.run(Stdin(), stdin=data)
    assert await bench.output(result.execution_id, last=1) == data


@line("3")
async def test_a_log_of_another_job_is_not_found(bench: Bench) -> None:
    result = await bench.run()
    with pytest.raises(ExecutionNotFound):
        await bench.output(result.execution_id, job_id="another")
    assert await bench.output(result.execution_id, job_id="job") == b""


@line("1")
async def test_the_second_argument_names_the_execution(bench: Bench) -> None:
    result = await bench.run(Say("mine"))
    request = LogStreamRequest(execution_id="another")
    async with await bench.executor.get_log_stream(request, result.execution_id) as stream:
        assert await stream.read() == b"mine\n"


@line("6", needs={"slow_preparation"})
async def test_a_follower_of_a_pending_one_waits_and_ends_with_its_cancel(bench: Bench) -> None:
    request = bench.request(spec=bench.subject.slow())
    starting = asyncio.ensure_future(bench.executor.start(request))
    async for event in bench.executor.events(after=0):
        if event.execution_id == request.execution_id:
            break
    following = asyncio.ensure_future(bench.output(request.execution_id, follow=True))
    await bench.executor.cancel(request.execution_id)
    (output,) = await asyncio.gather(following, return_exceptions=True)
    assert output == b"" or isinstance(output, ExecutionCancelled), repr(output)
    with pytest.raises(ExecutionCancelled):
        await starting


@line("6")
async def test_the_cap_takes_the_oldest_and_says_so(bench: Bench) -> None:
    from ...types import ByteSize

    await bench.open(log_cap=ByteSize("128KiB"))
    result = await bench.run(Flood(4000))
    async with await bench.follow(result.execution_id, follow=False) as stream:
        kept = await stream.read()
        lost = sum(stream.gaps.values())
    assert len(kept) + lost == 4000 * 100, f"{len(kept)} bytes kept, {lost} bytes said to be lost"
    assert len(kept) <= 2**17
    assert kept.endswith(b"%099d\n" % 3999)
