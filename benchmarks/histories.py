"""The workloads of what is kept: growth with history, recovery of what runs, and images."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import json
import shutil
import tarfile
import time
from pathlib import Path

import growth
import peers
from compare import Run
from dms_executor import ExecutionRequest, Executor, Policy
from dms_executor.oci import OciSpec
from failed import Failed
from field import Field, Ours
from published import Workload
from spawner import spawn

__all__ = ["histories", "unpacked"]


async def histories(field: Field) -> list[Workload]:
    """Growth with history, and then recovery in the folder that has it."""
    size, few = field.size, min(growth.FEW, field.size.finished)
    folders = {f"{few} finished": field.scratch / "few", f"{size.finished} finished": field.scratch / "full"}
    for name, folder in folders.items():
        await growth.make_history(folder, int(name.split()[0]), field.root)
    found: list[Workload] = []
    try:
        took = await growth.measure(list(folders.values()), max(size.rounds // 4, 1))
        values = {
            f"{call}, {name}": [taken * 1e3 for taken in seconds]
            for call, both in took.items()
            for name, seconds in zip(folders, both, strict=True)
        }
        what = "The same call on a state folder with little history and on one with much, in turn."
        found.append(Workload("growth", "Growth with history", what, values))
        found.append(await recovery(field, folders[f"{size.finished} finished"]))
    finally:
        for folder in folders.values():
            await growth.end_alive(folder)
    return found


async def recovery(field: Field, folder: Path) -> Workload:
    """`open` where so many run."""
    running = field.size.running
    names = [f"alive-{number}" for number in range(running)]
    spec = OciSpec(image=f"rootfs:{field.root}", cmd=["sleep", "100000"]).build()
    async with Executor.open(folder, policy=Policy.trusted(), settings=growth.SETTINGS) as executor:
        requests = [ExecutionRequest(job_id="b", execution_id=name, engine_spec=spec) for name in names]
        await asyncio.gather(*(executor.start(request) for request in requests))
    seconds = [await growth.opened(folder) for _ in range(3)]
    async with Executor.open(folder, policy=Policy.trusted(), settings=growth.SETTINGS) as executor:
        alive = [info for info in await executor.list(statuses=["running"]) if info.request.execution_id in names]
        if len(alive) != running:
            raise Failed(f"{len(alive)} of {running} are adopted")
        await asyncio.gather(*(executor.remove(name, force=True) for name in names))
    what = (
        f"`Executor.open` of a folder with {field.size.finished} finished executions and {running} whose jobs run, "
        "until it can be used; all of them are adopted. None of the peers has the like."
    )
    return Workload("recovery", "Recovery", what, {"ours": [s * 1e3 for s in seconds]})


def archive(target: Path, root: Path, files: int) -> None:
    """An image of one layer as `docker save` writes it: busybox and so many files of 4 KiB."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(root / "bin", "bin")
        for number in range(files):
            info = tarfile.TarInfo(f"data/{number % 50}/{number}")
            info.size = 4096
            tar.addfile(info, io.BytesIO(number.to_bytes(4, "big") * 1024))
    data = layer.getvalue()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": ["bench-image:1"], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        for name, content in (
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", data),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


async def unpacked(field: Field) -> list[Workload]:
    """A job of an image in an archive, new and known."""
    file = field.scratch / "image.tar"
    archive(file, field.root, field.size.files)
    image = f"docker-archive:{file}"
    folder = field.scratch / "unpacked"
    first: dict[str, Run] = {"tar -x, no job": functools.partial(extracted, file, folder)}
    again: dict[str, Run] = {}
    for ours in (one for one in field.ours if "docker" not in one.name):
        first[ours.name] = functools.partial(new, field, ours, image)
        again[ours.name] = functools.partial(used, field, ours, image)
    if field.client:
        run = [*field.client, "run", "--rm", "--network", "none", "bench-image:1", *peers.COMMAND]
        first["docker load, run"] = functools.partial(loaded, field.client, run, file)
        again["docker run"] = peers.spawned(run)
    if podman := shutil.which("podman"):
        words = peers.podman_of(podman, field.root, field.scratch)
        client = words[: words.index("run")]
        run = [*client, "run", "--rm", "--network", "none", "bench-image:1", *peers.COMMAND]
        first["podman load, run"] = functools.partial(loaded, client, run, file)
    rounds = max(field.size.rounds // 8, 1)
    times = await field.in_turn(first, rounds)
    what = f"`echo hi` of an image of {field.size.files} files in an archive, which was not there before."
    found = [Workload("unpack", "Image: unpack and run", what, times)]
    if field.client:
        await asyncio.to_thread(call, [*field.client, "load", "-q", "-i", str(file)])
    what = "`echo hi` of that image, which is there."
    found.append(Workload("reuse", "Image: reuse", what, await field.in_turn(again, field.size.rounds)))
    return found


async def new(field: Field, ours: Ours, image: str) -> float:
    for info in await ours.executor.images():
        if info.engine == "oci":
            await ours.executor.remove_image(info.digest)
    return await used(field, ours, image)


async def used(field: Field, ours: Ours, image: str) -> float:
    spec = OciSpec(image=image, cmd=peers.COMMAND).build()
    request = ExecutionRequest(job_id="b", execution_id=field.name(), engine_spec=spec)
    began = time.perf_counter()
    result = await ours.executor.run(request)
    took = time.perf_counter() - began
    if result.stdout != b"hi\n":
        raise Failed(f"{result}")
    await ours.executor.remove(request.execution_id)  # so that its image may go
    return took


async def loaded(client: list[str], run: list[str], file: Path) -> float:
    began = time.perf_counter()
    await asyncio.to_thread(call, [*client, "load", "-q", "-i", str(file)])
    await asyncio.to_thread(call, run)
    took = time.perf_counter() - began
    await asyncio.to_thread(call, [*client, "rmi", "-f", "bench-image:1"])
    return took


async def extracted(file: Path, folder: Path) -> float:
    folder.mkdir()
    layer = folder / "layer.tar"
    began = time.perf_counter()
    await asyncio.to_thread(call, ["/bin/tar", "-C", str(folder), "-xf", str(file), "layer.tar"])
    await asyncio.to_thread(call, ["/bin/tar", "-C", str(folder), "-xf", str(layer)])
    took = time.perf_counter() - began
    await asyncio.to_thread(shutil.rmtree, folder)
    return took


def call(command: list[str]) -> None:
    output, code = spawn(command)
    if code:
        raise Failed(f"{' '.join(command[-4:])} failed: {code} {output[-200:]!r}")
