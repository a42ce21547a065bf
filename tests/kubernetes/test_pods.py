"""What is particular to jobs in pods, in a real cluster; the rest are lines of the conformance suite."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dms_executor import LogStreamRequest
from dms_executor.errors import ExecutionCancelled, ImageNotFound, StartFailed
from dms_executor.kubernetes.client import Client
from dms_executor.logs.entry import Gap
from dms_executor.types import Progress

from .conftest import Bench


async def test_a_job_runs_with_no_rights_in_the_cluster(bench: Bench) -> None:
    script = "ls /var/run/secrets; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; env | grep -c KUBERNETES"
    result = await bench.run("sh", "-c", script)
    assert b"CapEff:\t0000000000000000" in result.stdout
    assert b"NoNewPrivs:\t1" in result.stdout
    assert b"Seccomp:\t2" in result.stdout
    assert b"serviceaccount" not in result.stdout


async def test_streams_are_apart_and_exact(either: Bench) -> None:
    script = r"printf 'a\377\000b'; printf 'err' >&2; printf 'no newline'; exit 3"
    result = await either.run("sh", "-c", script)
    assert (result.stdout, result.stderr, result.exit_code) == (b"a\xff\x00bno newline", b"err", 3)


async def test_secrets_stdin_and_scripts_reach_the_job_and_no_object_of_the_cluster(either: Bench) -> None:
    request = either.request(
        "sh",
        "-c",
        'cat; echo "$WORD $SECRET"; cat /tmp/made',
        environment={"WORD": "$(HOME) $$"},
        secret_environment={"SECRET": "hush-hush"},
        stdin=b"input\n",
        provision_scripts={"make": b"#!/bin/sh\necho made > /tmp/made\n"},
    )
    result = await either.executor.run(request)
    assert result.stdout == b"input\n$(HOME) $$ hush-hush\nmade\n", result
    assert "hush-hush" not in str(await either.client.call("GET", "pods"))


async def test_a_pod_that_somebody_deletes_is_lost(either: Bench) -> None:
    execution_id = await either.start("sh", "-c", "trap 'exit 0' TERM; echo here; while :; do sleep 1000 & wait; done")
    await either.client.call("DELETE", f"pods/{await either.pod(execution_id)}", gracePeriodSeconds="1")
    result = await either.executor.wait(execution_id)
    assert (result.status, result.reason) == ("failed", "engine_lost")
    assert "deleted" in result.error_msg or "gone" in result.error_msg
    assert result.exit_code != 0


async def test_a_pod_that_no_node_takes_says_why_and_can_be_cancelled(either: Bench) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()

    def report(progress: Progress) -> None:
        told.put_nowait(progress.what)

    request = either.request("true", params={"node_selector": {"dms-executor.test/nowhere": "true"}})
    running = asyncio.create_task(either.executor.run(request, progress=report))
    assert "Unschedulable" in await asyncio.wait_for(told.get(), 60)
    async with asyncio.timeout(30):
        async for event in either.executor.events(after=0):
            if "Unschedulable" in event.message:
                assert event.status == "pending"
                break
    assert "Unschedulable" in (await either.executor.inspect(request.execution_id)).waits_for
    await either.executor.cancel(request.execution_id)
    with pytest.raises(ExecutionCancelled):
        await running
    assert await either.pods() == []


async def test_a_pod_that_no_node_takes_ends_with_its_preparation(either: Bench) -> None:
    request = either.request(
        "true", params={"node_selector": {"dms-executor.test/nowhere": "true"}}, prepare_timeout=1.0
    )
    with pytest.raises(StartFailed, match="preparation took longer"):
        await either.executor.run(request)


async def test_an_image_that_no_node_has_is_not_found(either: Bench) -> None:
    with pytest.raises(ImageNotFound, match="ErrImageNeverPull"):
        await either.run("true", params={"image": "localhost/none:1", "pull": "never"})


async def test_the_user_and_a_read_only_root_are_the_requests(bench: Bench) -> None:
    params = {"user": "1000:1001", "read_only_root": True, "hostname": "box", "working_directory": "/tmp"}
    result = await bench.run("sh", "-c", "id -u; id -g; hostname; pwd; touch /x 2>&1 || echo refused", params=params)
    assert result.stdout.decode().split("\n")[:4] == ["1000", "1001", "box", "/tmp"]
    assert b"refused" in result.stdout


async def test_twenty_jobs_at_once_share_one_watch(either: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    watches: list[str] = []
    stream = Client.stream

    def counted(client: Client, method: str, path: str, *rest: Any, **more: Any) -> Any:
        if "watch" in (more.get("query") or {}):
            watches.append(path)
        return stream(client, method, path, *rest, **more)

    monkeypatch.setattr(Client, "stream", counted)
    results = await asyncio.gather(*(either.run("sh", "-c", f"echo {n}; exit {n}") for n in range(20)))
    assert [(result.exit_code, result.stdout) for result in results] == [(n, f"{n}\n".encode()) for n in range(20)]
    assert 1 <= len(watches) <= 3  # a cluster may end one, which begins anew


async def test_more_output_than_a_node_keeps_in_one_file_is_whole_or_a_gap(
    either: Bench, request: pytest.FixtureRequest
) -> None:
    execution_id = await either.start("sh", "-c", "head -c 30000000 /dev/zero | tr '\\0' 'x'")
    result = await either.executor.wait(execution_id)
    assert result.exit_code == 0
    count, lost = 0, 0
    wanted = LogStreamRequest(execution_id=execution_id, follow=True)
    async with await either.executor.get_log_stream(wanted) as stream:
        async for entry in stream.entries():
            if isinstance(entry, Gap):
                lost += entry.bytes
            else:
                assert entry.data.strip(b"x") == b""
                count += len(entry.data)
    assert count + lost == 30_000_000
    assert count > 0
    if "stand-in" in request.node.name:  # whose files are never begun anew
        assert lost == 0
