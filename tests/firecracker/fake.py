"""A `firecracker` and a `jailer` that have no machine, for the whole engine where no KVM boots Linux.

The program refuses what the API's description refuses, in its file and on its API (`stand_in`); in the place of a guest
its agent's part of the protocol is played (docs/protocol.md, section 10), with the job as a plain process. The jailer
takes what the real one takes, and changes neither root nor user: what the VM's user could not read there is refused.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import re
import signal
import struct
import sys
from pathlib import Path
from typing import Any

from . import wire

__all__ = ["programs"]

_HELLO, _STDOUT, _STDERR, _CONFIG, _GO, _END, _WAKE = 128, 129, 130, 133, 134, 135, 140
_FREEZE, _FROZEN = 141, 142
_STARTED, _EXITED, _SIGNAL = 96, 98, 112
_PORT = 1024
_PR_SET_PDEATHSIG = 1
_REPOSITORY = Path(__file__).parents[2]


def programs(folder: Path, description: str | None) -> dict[str, str]:
    """Makes both in `folder`; the engine's settings that name them. `description`: the API's own, if there is one."""
    folder.mkdir()
    for name in ("firecracker", "jailer"):
        told = "" if description is None else f"os.environ['DMS_EXECUTOR_FIRECRACKER_API'] = {description!r}\n"
        start = f"import os, sys\nsys.path[:0] = [{str(_REPOSITORY)!r}]\n{told}"
        text = f"#!{sys.executable}\n{start}from tests.firecracker.fake import {name}\n{name}(sys.argv[1:])\n"
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {name: str(folder / name) for name in ("firecracker", "jailer")}


def jailer(words: list[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("id", "exec-file", "uid", "gid", "chroot-base-dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("rest", nargs="*")
    told = parser.parse_args(words)
    name = Path(told.exec_file).resolve().name
    assert "firecracker" in name
    assert re.fullmatch("[a-zA-Z0-9-]{1,64}", told.id)
    assert int(told.uid)
    assert int(told.gid)
    root = Path(told.chroot_base_dir) / name / told.id / "root"
    assert root.stat().st_uid == int(told.uid)
    for file in root.iterdir():
        status = file.stat()
        assert status.st_uid == int(told.uid) or status.st_mode & 0o004, file
    # A change of user takes the signal at a parent's death back, prctl(2).
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)
    os.chdir(root)
    os.execv(told.exec_file, [told.exec_file, "--id", told.id, *told.rest])


def firecracker(words: list[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("version", "no-api"):
        parser.add_argument(f"--{flag}", action="store_true")
    for name in ("id", "config-file", "metadata", "api-sock", "level"):
        parser.add_argument(f"--{name}")
    told = parser.parse_args(words)
    if told.version:
        print("Firecracker v1.17.0")
        return
    config = json.loads(Path(told.config_file).read_bytes()) if told.config_file else None
    if told.no_api:
        print("dms")  # what the engine's trial waits for
        return
    if config is not None:
        _check_files(config)
    metadata = json.loads(Path(told.metadata).read_bytes()) if told.metadata else None
    asyncio.run(_run(told.api_sock, config, metadata))


def _check_files(config: dict[str, Any]) -> None:
    """Every name is one of its own folder's, and what it names is there."""
    boot = config.get("boot-source", {})
    named = [drive["path_on_host"] for drive in config["drives"]]
    named += [boot[name] for name in ("kernel_image_path", "initrd_path") if name in boot]
    for name in named:
        assert "/" not in name
        assert Path(name).is_file(), name
    for drive in config["drives"]:
        assert os.access(drive["path_on_host"], os.R_OK if drive["is_read_only"] else os.W_OK)


async def _run(api: str, config: dict[str, Any] | None, metadata: Any) -> None:
    # Not before: the real one's `--version` does not read it either.
    from tests.firecracker.saved import Saving

    stand_in = Saving(Path(api), None if config is None else json.dumps(config).encode())
    stand_in.metadata = metadata
    async with stand_in.running():
        if config is None:
            await stand_in.resumed.wait()
            config = stand_in.config
            assert config is not None
            _check_files(config)
            print("restored", flush=True)
        if "vsock" in config:
            call = f"{config['vsock']['uds_path']}_{_PORT}"
            await _Guest(call, config.get("network-interfaces", []), stand_in).live()
        else:
            print(f"console: {config['boot-source']['boot_args']}", flush=True)
            print(f"metadata: {json.dumps(metadata)}", flush=True)
            while not any(call[1] == "/actions" for call in stand_in.calls):
                stand_in.asked.clear()
                await stand_in.asked.wait()


class _Guest:
    """The agent's part, for one job. A guest that was saved has its job begin anew, and what that had said is not said
    again: its jobs say the same in each of their lives.
    """

    def __init__(self, path: str, interfaces: list[dict[str, Any]], machine: Any) -> None:
        self._path = path
        self._interfaces = interfaces
        self._machine = machine
        self._job: asyncio.subprocess.Process | None = None
        self._moves = asyncio.Event()
        self._said = {_STDOUT: 0, _STDERR: 0}
        self._configuration = b""

    async def live(self) -> None:
        saved = (self._machine.config or {}).get("job")
        self._reader, self._writer = await self._call()
        while (frame := await _hear(self._reader))[0] != _GO:
            if frame[0] == _WAKE:
                _say(self._writer, _HELLO, struct.pack("<I", 1))
            self._configuration += frame[1]
        past = {}
        if saved is not None:
            assert not self._configuration, "it knows its job"
            self._configuration = bytes.fromhex(saved["configuration"])
            past = {int(kind): length for kind, length in saved["said"].items()}
        await self._run(past, is_new=saved is None)

    async def _call(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self._path)
        _say(writer, _HELLO, struct.pack("<I", 1))
        return reader, writer

    async def _run(self, past: dict[int, int], *, is_new: bool) -> None:
        told = _entries(self._configuration)
        argv = [value.decode() for tag, value in told if tag == 2]
        environment = dict(value.decode().split("=", 1) for tag, value in told if tag == 3)
        networks = [value for tag, value in told if tag == 18]
        namespaces = [wire.connected(i["host_dev_name"], i["guest_mac"], networks.pop()) for i in self._interfaces]
        assert not networks
        pipe = asyncio.subprocess.PIPE
        self._job = job = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: _begin(namespaces),
        )
        self._said = {kind: past.get(kind, 0) for kind in self._said}
        if is_new:
            _say(self._writer, _STARTED, bytes(8))
        self._moves.set()
        listening = asyncio.create_task(self._obey())
        assert job.stdout is not None
        assert job.stderr is not None
        await asyncio.gather(
            self._carry(job.stdout, _STDOUT, past.get(_STDOUT, 0)),
            self._carry(job.stderr, _STDERR, past.get(_STDERR, 0)),
        )
        code = await job.wait()
        await self._moves.wait()
        listening.cancel()
        status = -code if code < 0 else code << 8  # as wait(2) has it
        _say(self._writer, _EXITED, struct.pack("<I", status))
        _say(self._writer, _END, b"")
        await self._writer.drain()
        await asyncio.sleep(3600)  # the host ends it once it has heard it

    async def _obey(self) -> None:
        assert self._job is not None
        while True:
            kind, payload = await _hear(self._reader)
            if kind == _SIGNAL:
                os.killpg(self._job.pid, struct.unpack("<I", payload)[0])
            elif kind == _FREEZE:
                self._moves.clear()
                said = {str(kind): length for kind, length in self._said.items()}
                self._machine.config["job"] = {"configuration": self._configuration.hex(), "said": said}
                _say(self._writer, _FROZEN, b"")
                again = asyncio.create_task(self._machine.cut.wait())
                heard = asyncio.create_task(_hear(self._reader))
                await asyncio.wait([again, heard], return_when=asyncio.FIRST_COMPLETED)
                if again.done():  # by a snapshot that came to nothing
                    heard.cancel()
                    self._machine.cut.clear()
                    self._reader, self._writer = await self._call()
                    heard = asyncio.create_task(_hear(self._reader))
                assert (await heard)[0] == _GO
                again.cancel()
                self._moves.set()

    async def _carry(self, source: asyncio.StreamReader, kind: int, past: int) -> None:
        while data := await source.read(32768):
            await self._moves.wait()
            known = min(past, len(data))
            past -= known
            self._said[kind] += len(data) - known
            if data[known:]:
                _say(self._writer, kind, data[known:])
                await self._writer.drain()


def _begin(namespaces: list[Any]) -> None:
    """What is in a guest ends with its machine."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for namespace in namespaces:
        wire.enter(namespace)


def _say(writer: asyncio.StreamWriter, kind: int, payload: bytes) -> None:
    writer.write(struct.pack("<IBBH", len(payload), kind, 0, 0) + payload)


async def _hear(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    try:
        length, kind, _, _ = struct.unpack("<IBBH", await reader.readexactly(8))
        return kind, await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        await asyncio.sleep(3600)  # the worst of guests does not end with its host
        raise


def _entries(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        tag, _, length = struct.unpack_from("<HHI", data, at)
        found.append((tag, data[at + 8 : at + 8 + length]))
        at += 8 + length
    return found
