"""Jobs of images from a registry, through the public interface."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dms_executor import ExecutionRequest, ExecutionStatus, Executor, Policy, Progress, Settings
from dms_executor.errors import ImageNotFound, ImagePullFailed
from dms_executor.oci import OciSpec

from ..registry import Registry
from .conftest import Layout


def request(image: str, execution_id: str = "x", **params: Any) -> ExecutionRequest:
    return ExecutionRequest(
        job_id="job", execution_id=execution_id, engine_spec=OciSpec(image=image, **params).build(), timeout=60
    )


def settings(registry: Registry) -> Settings:
    return Settings(engines={"oci": {"registries": {registry.host: {"tls": False}}}})


async def test_a_job_of_an_image_from_a_registry(
    state_dir: Path, layout: Layout, registry: Registry, oci_runtime: str
) -> None:
    image = registry.push(layout({"Entrypoint": ["echo"], "Cmd": ["hi"]}), "busy:1")
    seen: list[Progress] = []
    async with Executor.open(state_dir, policy=Policy.trusted(), settings=settings(registry)) as executor:
        result = await executor.run(request(image), progress=seen.append)
        assert (result.exit_code, result.stdout) == (0, b"hi\n")
        again = await executor.run(request(image, "again", pull="never", cmd=["there"]))
        assert again.stdout == b"there\n"
    assert f"pulling {image}" in {each.what for each in seen}
    assert os.listdir(state_dir / "images/pins" / os.listdir(state_dir / "images/pins")[0]) == []


async def test_a_request_of_a_stranger_may_name_a_registry(
    state_dir: Path, layout: Layout, registry: Registry, oci_runtime: str
) -> None:
    image = registry.push(layout({"Cmd": ["echo", "hi"]}), "busy:1")
    policy = Policy(unenforced=("memory", "cpu", "pids"))
    async with Executor.open(state_dir, policy=policy, settings=settings(registry)) as executor:
        assert (await executor.run(request(image))).stdout == b"hi\n"


@pytest.mark.parametrize("name", ["nothing:1", "busy:z"])
async def test_a_failed_pull_is_a_failed_record(
    state_dir: Path, layout: Layout, registry: Registry, oci_runtime: str, name: str
) -> None:
    registry.push(layout(architecture="s390x"), "busy:z")
    async with Executor.open(state_dir, policy=Policy.trusted(), settings=settings(registry)) as executor:
        with pytest.raises((ImageNotFound, ImagePullFailed)) as caught:
            await executor.run(request(f"{registry.host}/{name}"))
        assert caught.value.execution_id == "x"
        info = await executor.inspect("x")
        assert (info.status, info.reason) == (ExecutionStatus.FAILED, "start_failed")
    assert os.listdir(state_dir / "images/tmp") == [] if (state_dir / "images/tmp").exists() else True
