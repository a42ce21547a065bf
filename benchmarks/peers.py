"""Others who launch a container, or a mere process, and bring its output: each as its own users call it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import shutil
import time
from pathlib import Path
from typing import Any

from compare import Run
from daemon import dockerd
from daemon import missing as no_daemon
from spawner import spawn

__all__ = ["launched"]

COMMAND = ["echo", "hi"]
# An ordinary service may not raise the limits that podman sets by default.
PODMAN = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'


async def launched(
    root: Path, scratch: Path, stack: contextlib.AsyncExitStack, missing: dict[str, str]
) -> dict[str, Run]:
    """Those that are here, by name; the others and why they are not go to `missing`."""
    found: dict[str, Run] = {"asyncio subprocess, no isolation": subprocess_of(root)}
    if why := no_daemon():
        missing.update(dict.fromkeys(("docker run", "docker-py", "aiodocker"), why))
    else:
        client, image = stack.enter_context(dockerd(root))
        found["docker run"] = spawned([*client, "run", "--rm", "--network", "none", image, *COMMAND])
        for name, package, make in (("docker-py", "docker", docker_py), ("aiodocker", "aiodocker", aiodocker_of)):
            if importlib.util.find_spec(package) is None:
                missing[name] = f"the package {package} is not installed"
            else:
                found[name] = await make(client[-1], image, stack)
    if podman := shutil.which("podman"):
        found["podman run"] = spawned(podman_of(podman, root, scratch))
    else:
        missing["podman run"] = "podman is not installed"
    return found


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
        raise SystemExit(f"a peer failed: {code} {output!r}")
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
