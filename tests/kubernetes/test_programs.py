"""Our programs in a cluster, and pods of them: made once, made again, and looked at before they are trusted."""

from __future__ import annotations

import asyncio

import pytest

from dms_executor.errors import EngineUnreachable, StartFailed
from dms_executor.kubernetes import KubernetesEngine, engine, starting
from dms_executor.kubernetes.sites import Site

from .apiserver import ApiServer
from .conftest import Bench


async def test_first_starts_at_once_make_the_programs_once(alone: Bench, server: ApiServer) -> None:
    results = await asyncio.gather(*(alone.run("sh", "-c", f"exit {n}") for n in range(4)))
    assert [result.exit_code for result in results] == [0, 1, 2, 3]
    assert server.requests["POST configmaps"] == 1


async def test_programs_that_somebody_takes_away_are_made_again(
    alone: Bench, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_SLOW", 0.2)
    await alone.run("true")
    server.maps.clear()
    assert (await asyncio.wait_for(alone.run("sh", "-c", "exit 3"), 30)).exit_code == 3


async def test_a_pod_goes_on_waiting_while_nobody_answers_for_its_programs(
    alone: Bench, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, renew = 0, Site.renew

    async def away(site: Site) -> None:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise EngineUnreachable("the cluster does not answer", mend="Wait")
        await renew(site)

    monkeypatch.setattr(Site, "renew", away)
    monkeypatch.setattr(engine, "_SLOW", 0.2)
    monkeypatch.setattr(engine, "AGAIN", (0.01,))
    await alone.run("true")
    server.maps.clear()
    assert (await asyncio.wait_for(alone.run("sh", "-c", "exit 3"), 50)).exit_code == 3
    assert looks >= 3


async def test_a_node_that_cannot_make_a_container_yet_is_waited_for(alone: Bench, server: ApiServer) -> None:
    server.creates.clear()
    told: asyncio.Queue[str] = asyncio.Queue()
    request = alone.request("sh", "-c", "exit 3")
    running = asyncio.create_task(alone.executor.run(request, progress=lambda one: told.put_nowait(one.what)))
    async with asyncio.timeout(50):
        while "context deadline exceeded" not in await told.get():
            assert not running.done()
        server.creates.set()
        assert (await running).exit_code == 3


async def test_a_node_that_cannot_make_a_container_for_long_ends_the_start(
    alone: Bench, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_STANDS", 0.3)
    monkeypatch.setattr(engine, "_SLOW", 0.2)
    server.creates.clear()
    with pytest.raises(StartFailed, match="context deadline exceeded"):
        await asyncio.wait_for(alone.run("true"), 50)


async def test_programs_of_somebody_else_are_not_executed(alone: Bench, server: ApiServer) -> None:
    engine = await alone.executor._core.engine("kubernetes")
    assert isinstance(engine, KubernetesEngine)
    site = engine._sites.named(None)
    name = f"{await site.client.namespace()}/{await site.init_map()}"
    server.maps[name]["binaryData"]["dms-init"] = "AAAA"
    site._init = ""
    with pytest.raises(StartFailed, match="something else"):
        await alone.run("true")
    assert server.pods == {}


async def test_a_pod_is_made_once_whatever_becomes_of_the_answer(alone: Bench, server: ApiServer) -> None:
    await alone.run("true")
    server.stumbles["POST pods"] = 1
    server.forgets = 1
    assert (await alone.run("sh", "-c", "exit 3")).exit_code == 3
    assert (server.stumbles["POST pods"], server.forgets) == (0, 0)


async def test_a_go_that_fails_says_why_at_once(alone: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "handed", lambda *_: b"\xff" * 8)
    with pytest.raises(StartFailed, match="did not arrive"):
        await asyncio.wait_for(alone.run("cat", stdin=b"words"), 60)
