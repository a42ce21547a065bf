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
import struct
import sys
from pathlib import Path
from typing import Any

from . import wire

__all__ = ["programs"]

_HELLO, _STDOUT, _STDERR, _CONFIG, _GO, _END, _WAKE = 128, 129, 130, 133, 134, 135, 140
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
            await _guest(f"{config['vsock']['uds_path']}_{_PORT}", config.get("network-interfaces", []))
        else:
            print(f"console: {config['boot-source']['boot_args']}", flush=True)
            print(f"metadata: {json.dumps(metadata)}", flush=True)
            while not any(call[1] == "/actions" for call in stand_in.calls):
                stand_in.asked.clear()
                await stand_in.asked.wait()


async def _guest(path: str, interfaces: list[dict[str, Any]]) -> None:
    """The agent's part, for one job."""
    reader, writer = await asyncio.open_unix_connection(path)
    _say(writer, _HELLO, struct.pack("<I", 1))
    configuration = b""
    while (frame := await _hear(reader))[0] != _GO:
        if frame[0] == _WAKE:
            _say(writer, _HELLO, struct.pack("<I", 1))
        configuration += frame[1]
    argv = [value.decode() for tag, value in _entries(configuration) if tag == 2]
    environment = dict(value.decode().split("=", 1) for tag, value in _entries(configuration) if tag == 3)
    networks = [value for tag, value in _entries(configuration) if tag == 18]
    namespaces = [wire.connected(i["host_dev_name"], i["guest_mac"], networks.pop()) for i in interfaces]
    assert not networks
    pipe = asyncio.subprocess.PIPE
    job = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: [wire.enter(namespace) for namespace in namespaces],
    )
    _say(writer, _STARTED, bytes(8))
    listening = asyncio.create_task(_obey(reader, job.pid))
    assert job.stdout is not None
    assert job.stderr is not None
    await asyncio.gather(_carry(job.stdout, writer, _STDOUT), _carry(job.stderr, writer, _STDERR))
    code = await job.wait()
    listening.cancel()
    status = -code if code < 0 else code << 8  # as wait(2) has it
    _say(writer, _EXITED, struct.pack("<I", status))
    _say(writer, _END, b"")
    await writer.drain()
    await asyncio.sleep(3600)  # the host ends it once it has heard it


async def _obey(reader: asyncio.StreamReader, job: int) -> None:
    while True:
        kind, payload = await _hear(reader)
        if kind == _SIGNAL:
            os.killpg(job, struct.unpack("<I", payload)[0])


async def _carry(source: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: int) -> None:
    while data := await source.read(32768):
        _say(writer, kind, data)
        await writer.drain()


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
