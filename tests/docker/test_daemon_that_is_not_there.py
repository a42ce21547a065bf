"""A daemon that is missing, of another host, or that takes connections and never answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor, Policy, Probe, Settings, StorageVolume
from dms_executor.docker import DockerEngine, DockerSpec
from dms_executor.docker.address import socket_path
from dms_executor.engine import EngineContext
from dms_executor.errors import EngineUnavailable, InvalidRequest
from tests import dockerd

from .relay import relayed


async def _probe(tmp_path: Path, **settings: object) -> Probe:
    context = EngineContext(state_dir=tmp_path, executor_id="e", settings=settings, policy=Policy())
    async with DockerEngine.open(context) as engine:
        return await engine.probe()


async def test_no_daemon_is_told(tmp_path: Path) -> None:
    probe = await _probe(tmp_path, socket=str(tmp_path / "none.sock"))
    assert not probe.usable
    assert "none.sock" in probe.problem
    assert probe.mend


async def test_without_the_client_it_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    probe = await _probe(tmp_path, socket=str(tmp_path / "none.sock"))
    assert not probe.usable
    assert "dms-executor[docker]" in probe.mend


async def test_a_daemon_of_another_host_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    with pytest.raises(EngineUnavailable, match="not this host's"):
        await _probe(tmp_path)


async def test_a_wrong_socket_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"\$\.engines\.docker\.socket"):
        await _probe(tmp_path, socket="docker.sock")


def test_the_socket_is_the_current_contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    folder = tmp_path / "contexts" / "meta" / hashlib.sha256(b"mine").hexdigest()
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"Endpoints": {"docker": {"Host": "unix:///run/mine.sock"}}}))
    assert socket_path(None) == "/run/mine.sock"
    assert socket_path("/run/named.sock") == "/run/named.sock"


async def test_a_silent_daemon_holds_nobody(tmp_path: Path) -> None:
    """It takes connections and never answers: the probe says so, a start fails, and all of it ends in time."""
    path = str(tmp_path / "silent.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    settings = Settings(engines={"docker": {"socket": path}})
    with listener:
        begun = time.monotonic()
        async with asyncio.timeout(20), Executor.open(tmp_path / "state", settings=settings) as executor:
            opened = time.monotonic() - begun
            probe = (await executor.probe("docker"))[0]
            request = ExecutionRequest(
                job_id="j", execution_id="e", engine_spec=DockerSpec(image="any", cmd=["true"]).build()
            )
            with pytest.raises(EngineUnavailable, match="does not answer"):
                await executor.start(request)
    assert not probe.usable
    assert "does not answer" in probe.problem
    assert opened < 5.0, "the specification's bound on open"


async def _nothing(_what: str) -> None:
    """A call that is only passed on."""


async def test_a_daemon_that_comes_up_after_us_is_found(tmp_path: Path, rootfs: Path) -> None:
    """By jobs that an earlier caller left, and by who starts one; nobody opens anything anew."""
    dockerd.SESSION.needed()
    image, daemon = dockerd.SESSION.with_image(rootfs), dockerd.SESSION.daemon().socket
    (tmp_path / "in").mkdir()
    script = "while [ ! -e /in/go ]; do sleep 0.05; done; echo done; exit 4"
    volume = StorageVolume(source=str(tmp_path / "in"), target="/in")

    def request(name: str) -> ExecutionRequest:
        job = DockerSpec(image=image, cmd=["sh", "-c", script]).build()
        return ExecutionRequest(job_id="j", execution_id=name, engine_spec=job, inputs=[volume])

    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        path = Path(folder) / "socket"
        chosen = Settings(engines={"docker": {"socket": str(path)}})
        async with asyncio.timeout(60):
            async with relayed(daemon, path, asked=_nothing, answered=_nothing):
                async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=chosen) as executor:
                    await executor.start(request("early"))
            path.unlink(missing_ok=True)
            async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=chosen) as executor:
                assert (await executor.inspect("early")).stale
                with pytest.raises(EngineUnavailable):
                    await executor.start(request("late"))
                async with relayed(daemon, path, asked=_nothing, answered=_nothing):
                    while (await executor.inspect("early")).stale:
                        await asyncio.sleep(0.02)
                    await executor.start(request("late"))
                    (tmp_path / "in" / "go").touch()
                    for name in ("early", "late"):
                        result = await executor.wait(name)
                        assert (result.exit_code, result.stdout) == (4, b"done\n")
                        await executor.remove(name)


async def test_many_that_begin_at_once_ask_the_daemon_once(tmp_path: Path, rootfs: Path) -> None:
    """What it can do: Podman takes most of a second over that, and twenty at once would all be too late."""
    dockerd.SESSION.needed()
    image, calls = dockerd.SESSION.with_image(rootfs), list[str]()

    async def asked(what: str) -> None:
        calls.append(what.rpartition("/")[2])

    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        path = Path(folder) / "socket"
        chosen = Settings(engines={"docker": {"socket": str(path)}})
        async with asyncio.timeout(60), relayed(dockerd.SESSION.daemon().socket, path, asked=asked, answered=_nothing):
            async with Executor.open(tmp_path / "state", policy=Policy.trusted(), settings=chosen) as executor:
                job = DockerSpec(image=image, cmd=["true"]).build()
                requests = [ExecutionRequest(job_id="j", execution_id=f"e{n}", engine_spec=job) for n in range(4)]
                results = await asyncio.gather(*map(executor.run, requests))
    assert [result.exit_code for result in results] == [0] * 4
    assert calls.count("info") == 1
