"""Others who launch a container, or a mere process, and bring its output: each as its own users call it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import importlib.util
import shutil
import time
from pathlib import Path
from typing import Any

from compare import Run
from daemon import missing as no_daemon
from failed import Failed
from field import Field
from spawner import spawn

__all__ = ["COMMAND", "aiodocker_of", "docker_py", "docker_run", "launched", "podman_of", "spawned"]

COMMAND = ["echo", "hi"]
# An ordinary service may not raise the limits that podman sets by default.
PODMAN = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'


async def launched(field: Field) -> dict[str, Run]:
    """Those that are here, by name; the others, and why they are not, the field knows."""
    root, client, image = field.root, field.client, field.image
    found: dict[str, Run] = {"asyncio subprocess, no isolation": subprocess_of(root)}
    if not client:
        for name in ("docker run", "docker-py", "aiodocker"):
            field.out(name, no_daemon() or "there is no daemon")
    else:
        found["docker run"] = spawned(docker_run(client, image))
        for name, package, make in (("docker-py", "docker", docker_py), ("aiodocker", "aiodocker", aiodocker_of)):
            if importlib.util.find_spec(package) is None:
                field.out(name, f"the package {package} is not installed")
            else:
                await field.add(name, functools.partial(_named, name, make, client[-1], image, field.stack), found)
    if podman := shutil.which("podman"):
        found["podman run"] = spawned(podman_of(podman, root, field.scratch))
    else:
        field.out("podman run", "podman is not installed")
    return found


async def _named(name: str, make: Any, address: str, image: str, stack: contextlib.AsyncExitStack) -> dict[str, Run]:
    return {name: await make(address, image, stack)}


def docker_run(client: list[str], image: str) -> list[str]:
    """The client's words for `echo hi`."""
    return [*client, "run", "--rm", "--network", "none", image, *COMMAND]


def spawned(command: list[str]) -> Run:
    """A client's whole process."""

    async def run() -> float:
        began = time.perf_counter()
        output, code = await asyncio.to_thread(spawn, command)
        return checked(began, output, code)

    return run


def checked(began: float, output: bytes, code: int) -> float:
    took = time.perf_counter() - began
    if (output, code) != (b"hi\n", 0):
        raise Failed(f"a peer failed: {code} {output!r}")
    return took


def subprocess_of(root: Path) -> Run:
    async def run() -> float:
        began = time.perf_counter()
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(root / "bin" / "busybox", *COMMAND, stdout=pipe, stderr=pipe)
        output, _ = await child.communicate()
        return checked(began, output, child.returncode or 0)

    return run


def podman_of(program: str, root: Path, scratch: Path) -> list[str]:
    """By runc: podman has no way around the hybrid control groups that crun refuses."""
    config = scratch / "containers.conf"
    config.write_text(PODMAN)
    storage = ["--root", str(scratch / "podman"), "--runroot", str(scratch / "podman-run")]
    runtime = ["--runtime", "runc", "--cgroup-manager", "cgroupfs"]
    words = ["run", "--rm", "--network", "none", "--rootfs", f"{root}:O", *COMMAND]
    return ["/usr/bin/env", f"CONTAINERS_CONF={config}", program, *storage, *runtime, *words]


async def docker_py(address: str, image: str, stack: contextlib.AsyncExitStack) -> Run:
    """In a thread, as who has an event loop must call it."""
    docker: Any = importlib.import_module("docker")
    client = docker.DockerClient(base_url=address)
    stack.callback(client.close)

    async def run() -> float:
        began = time.perf_counter()
        output = await asyncio.to_thread(
            client.containers.run, image, COMMAND, remove=True, network_mode="none", stdout=True
        )
        return checked(began, output, 0)

    return run


async def aiodocker_of(address: str, image: str, stack: contextlib.AsyncExitStack) -> Run:
    """Create, start, wait, logs, delete."""
    aiodocker: Any = importlib.import_module("aiodocker")
    client = await stack.enter_async_context(aiodocker.Docker(url=address))

    async def run() -> float:
        began = time.perf_counter()
        config = {"Image": image, "Cmd": COMMAND, "HostConfig": {"NetworkMode": "none"}}
        container = await client.containers.create(config=config)
        await container.start()
        ended = await container.wait()
        output = "".join(await container.log(stdout=True)).encode()
        await container.delete()
        return checked(began, output, ended["StatusCode"])

    return run
