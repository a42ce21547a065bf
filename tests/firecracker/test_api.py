"""The client of Firecracker's API: against a stand-in that knows its description, and the real one where it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from dms_executor.errors import EngineUnreachable
from dms_executor.firecracker.api import Api, ApiRefused
from dms_executor.firecracker.config import Drive, Interface, Machine, document
from dms_executor.microvm.settings import Rate
from dms_executor.types import ByteSize

from . import real
from .stand_in import StandIn

Launch = Callable[..., contextlib.AbstractAsyncContextManager[Api]]


def machine(folder: Path) -> Machine:
    """With every device that needs nothing of the host's."""
    disk = folder / "disk"
    disk.write_bytes(bytes(1 << 20))
    return Machine(
        kernel=real.toy_kernel(folder / "kernel"),
        vcpus=2,
        memory=64 << 20,
        boot_args="quiet",
        drives=[Drive(name="scratch", path=disk, read_only=False, rate=Rate(bandwidth=ByteSize(1 << 20), ops=1000))],
        vsock=folder / "vsock",
        log=folder / "log",
    )


def with_metadata(folder: Path) -> Machine:
    rate = Rate(bandwidth=ByteSize(1 << 20), ops=1000)
    network = [Interface(name="eth0", tap="tap0", mac="06:00:ac:10:00:02", rate=rate)]
    return msgspec.structs.replace(machine(folder), interfaces=network, metadata_to=["eth0"])


@pytest.fixture(params=["stand-in", pytest.param("firecracker", marks=real.needed)])
def launch(request: pytest.FixtureRequest, tmp_path: Path) -> Launch:
    """`launch(name, config)`: a process with its API, and the client."""

    @contextlib.asynccontextmanager
    async def launched(name: str, config: bytes | None = None) -> AsyncIterator[Api]:
        path = tmp_path / name
        if request.param == "stand-in":
            async with StandIn(path, config).running():
                yield Api(path)
        elif config is not None and b"tap0" in config and not real.has_tap:
            pytest.skip("only root makes a network device, by /dev/net/tun")
        else:
            (tmp_path / "log").touch()
            async with real.running(path, config):
                yield Api(path)

    return launched


async def test_a_machine_from_its_file_is_paused_saved_and_loaded_elsewhere(launch: Launch, tmp_path: Path) -> None:
    state, memory, described = tmp_path / "state", tmp_path / "memory", machine(tmp_path)
    async with launch("first", document(described)) as api:
        assert (await api.describe()).state == "Running"
        with pytest.raises(ApiRefused) as raised:
            await api.save(state, memory)
        assert raised.value.status == 400
        await api.pause()
        assert (await api.describe()).state == "Paused"
        await api.save(state, memory)
        await api.resume()
        assert (await api.describe()).state == "Running"
        with pytest.raises(ApiRefused, match="not supported after starting"):
            await api.start()
    (tmp_path / "vsock").unlink(missing_ok=True)
    async with launch("second") as api:
        assert (await api.describe()).state == "Not started"
        with pytest.raises(ApiRefused, match="not supported before starting"):
            await api.pause()
        await api.load(state, memory, resume=False, vsock=tmp_path / "elsewhere")
        assert (await api.describe()).state == "Paused"
        other = tmp_path / "other disk"
        other.write_bytes(bytes(1 << 20))
        await api.move_drive("scratch", other)
        await api.resume()
        assert (await api.describe()).state == "Running"


async def test_metadata(launch: Launch, tmp_path: Path) -> None:
    async with launch("api", document(with_metadata(tmp_path))) as api:
        await api.set_metadata({"latest": {"message": "hello", "more": [1, "ü"]}, "old": "x"})
        await api.merge_metadata({"latest": {"message": "again"}, "old": None})
        assert await api.metadata() == {"latest": {"message": "again", "more": [1, "ü"]}}


async def test_a_machine_without_a_network_has_no_metadata(launch: Launch, tmp_path: Path) -> None:
    async with launch("api", document(machine(tmp_path))) as api:
        with pytest.raises(ApiRefused, match="not initialized"):
            await api.set_metadata({"latest": "hello"})


async def test_ctrl_alt_del_is_taken(launch: Launch, tmp_path: Path) -> None:
    async with launch("api", document(machine(tmp_path))) as api:
        await api.press_ctrl_alt_del()


async def test_a_socket_whose_path_is_long(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    short = tmp_path / "s"
    async with StandIn(short).running():
        short.rename(folder / "api")
        assert (await Api(folder / "api").describe()).vmm_version == "1.17.0"


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.fixture
async def stand_in(tmp_path: Path) -> AsyncIterator[StandIn]:
    async with StandIn(tmp_path / "api", document(with_metadata(tmp_path))).running() as running:
        yield running


async def test_a_fault_is_told_in_its_own_words(stand_in: StandIn) -> None:
    stand_in.refusal = (400, b'{"fault_message": "The drive is on fire."}')
    with pytest.raises(ApiRefused, match=r"refused PATCH /vm: The drive is on fire\.") as raised:
        await Api(stand_in.socket).pause()
    assert raised.value.status == 400
    stand_in.refusal = (500, b"{}")
    with pytest.raises(ApiRefused, match="refused PATCH /vm: 500"):
        await Api(stand_in.socket).pause()


async def test_one_that_is_slow_is_not_waited_for(stand_in: StandIn) -> None:
    stand_in.may_answer.clear()
    with pytest.raises(EngineUnreachable, match=r"did not answer within 0\.3 s"):
        await Api(stand_in.socket, deadline=0.3).pause()
    # But a snapshot may take as long as its caller says.
    saving = asyncio.create_task(Api(stand_in.socket, deadline=0.01).save(Path("/a"), Path("/b"), deadline=60))
    stand_in.asked.clear()
    stand_in.state = "Paused"
    await stand_in.asked.wait()
    stand_in.may_answer.set()
    await saving


async def test_who_asks_may_leave(stand_in: StandIn) -> None:
    stand_in.may_answer.clear()
    asking = asyncio.create_task(Api(stand_in.socket).describe())
    await stand_in.asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    stand_in.may_answer.set()
    assert (await Api(stand_in.socket).describe()).state == "Running"


async def test_a_link_in_its_place_leads_nowhere(stand_in: StandIn) -> None:
    stand_in.socket.rename(stand_in.socket.with_name("another"))
    stand_in.socket.symlink_to("another")
    with pytest.raises(EngineUnreachable):
        await Api(stand_in.socket).pause()
    assert not stand_in.calls


async def test_one_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "api"
    with pytest.raises(EngineUnreachable, match="No such file"):
        await Api(path).describe()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(EngineUnreachable, match="refused"):
        await Api(path).describe()
    with pytest.raises(EngineUnreachable, match="No such file"):
        await Api(tmp_path / "absent/api").describe()


ANSWER = b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 2\r\n\r\n",
        b"HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 \r\nContent-Length: 99999999999999\r\n\r\n",
        b"x" * 100_000,
        ANSWER + b"{}",
        ANSWER + b"{,}{}",
        ANSWER + b'"abc"',
        ANSWER + b"\xff\xfe\xfd\xfc\xfb",
    ],
)
async def test_an_answer_that_is_none(stand_in: StandIn, raw: bytes) -> None:
    stand_in.raw = raw
    with pytest.raises(EngineUnreachable):
        await Api(stand_in.socket, deadline=20).describe()


async def test_every_call_is_one_that_the_api_has(stand_in: StandIn, tmp_path: Path) -> None:
    """With all that each can carry: the stand-in has refused nothing."""
    api = Api(stand_in.socket)
    calls: list[Callable[[], Awaitable[object]]] = [
        api.pause,
        lambda: api.save(Path("/state"), Path("/memory")),
        api.resume,
        api.describe,
        api.press_ctrl_alt_del,
        lambda: api.move_drive("scratch", Path("/disk")),
        lambda: api.set_metadata({"a": 1}),
        lambda: api.merge_metadata({"a": 2}),
        api.metadata,
    ]
    for call in calls:
        await call()
    stand_in.state = "Not started"
    await api.load(Path("/state"), Path("/memory"), resume=True, vsock=Path("/v"), taps={"eth0": "tap3"})
    stand_in.state = "Not started"
    await api.start()
    assert len(stand_in.calls) == len(calls) + 2
    body = json.dumps(stand_in.calls[-2][2], sort_keys=True)
    assert '"network_overrides": [{"host_dev_name": "tap3", "iface_id": "eth0"}]' in body


@real.needed
def test_a_file_that_firecracker_does_not_understand_ends_it(tmp_path: Path) -> None:
    """So that what the description does not say is found out by the tests that boot from our file."""
    good = msgspec.json.decode(document(machine(tmp_path)))
    (tmp_path / "machine").write_bytes(msgspec.json.encode(good | {"vsock": {"nobody_knows": 1}}))
    command = [real.program(), "--no-api", "--config-file", str(tmp_path / "machine")]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode != 0
    assert "nobody_knows" in done.stdout + done.stderr
