"""Section 10: images outlive executions; what is asked of an engine that keeps some."""

from __future__ import annotations

import pytest

from ...errors import ImageNotFound, ImagePullFailed, InvalidRequest, NotSupported
from ...types import ImageInfo
from ..bench import Bench
from ..line import line
from ..steps import Forever

_NOWHERE = "sha256:" + "0" * 64


async def _kept(bench: Bench) -> list[ImageInfo]:
    return [image for image in await bench.executor.images() if image.engine == bench.subject.engine]


@line("10", lacks={"images"})
async def test_an_engine_that_keeps_no_images_says_so(bench: Bench) -> None:
    assert await _kept(bench) == []
    with pytest.raises(NotSupported) as caught:
        await bench.executor.pull_image("no-such-image", engine=bench.subject.engine)
    assert caught.value.engine == bench.subject.engine


@line("10", needs={"images"})
async def test_a_pull_of_what_is_not_there_fails_and_leaves_nothing(bench: Bench) -> None:
    before = await _kept(bench)
    missing = f"oci:{bench.folder}/no-such-layout"
    with pytest.raises((ImageNotFound, ImagePullFailed, InvalidRequest, NotSupported)):
        await bench.executor.pull_image(missing, engine=bench.subject.engine)
    assert await _kept(bench) == before


@line("10", needs={"images"})
async def test_removal_of_an_unknown_image_is_an_error(bench: Bench) -> None:
    with pytest.raises(ImageNotFound):
        await bench.executor.remove_image(_NOWHERE)


@line("10", needs={"images"})
async def test_what_a_running_job_uses_is_never_pruned(bench: Bench) -> None:
    execution_id = await bench.start(Forever())
    used = [image for image in await _kept(bench) if image.pinned]
    await bench.executor.prune_images(unused_for=0.0, size=0)
    left = {image.digest for image in await _kept(bench)}
    assert {image.digest for image in used} <= left
    assert await bench.executor.get_status(execution_id) == "running"
    await bench.executor.cancel(execution_id, grace=0.1)
    await bench.executor.wait(execution_id)
