"""What validation found good is kept for the preparation that follows, and for nothing else."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor, Policy
from dms_executor.errors import ExecutionAlreadyFinished
from dms_executor.oci import OciSpec
from dms_executor.oci.vouched import Vouched
from dms_executor.policy import Grant
from dms_executor.types import SpecConfig

_GRANT = Grant(root=b"/", path=b"x", device=1, inode=2, is_dir=True)


def _request(name: str = "one") -> ExecutionRequest:
    return ExecutionRequest(job_id="j", execution_id=name, engine_spec=SpecConfig())


def test_it_is_told_once_and_of_that_very_request() -> None:
    vouched, request = Vouched(), _request()
    vouched.keep(request, _GRANT)
    assert vouched.take(_request()) is None
    found = vouched.take(request)
    assert found is not None
    assert found[0] is _GRANT
    assert vouched.take(request) is None


def test_it_goes_with_its_request() -> None:
    vouched = Vouched()
    for number in range(100):
        vouched.keep(_request(f"e{number}"), _GRANT)
    gc.collect()
    assert len(vouched) == 0


async def test_the_secrets_of_a_refused_claim_are_not_kept(
    tmp_path: Path, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[weakref.ref[ExecutionRequest]] = []
    keep = Vouched.keep

    def noted(self: Vouched, request: ExecutionRequest, grant: Grant) -> None:
        kept.append(weakref.ref(request))
        keep(self, request, grant)

    monkeypatch.setattr(Vouched, "keep", noted)
    spec = OciSpec(image=f"rootfs:{rootfs}", cmd=["true"]).build()
    async with Executor.open(tmp_path / "state", policy=Policy.trusted()) as executor:
        await executor.run(ExecutionRequest(job_id="j", execution_id="one", engine_spec=spec))
        for _ in range(3):
            with pytest.raises(ExecutionAlreadyFinished):
                await executor.start(
                    ExecutionRequest(
                        job_id="j", execution_id="one", engine_spec=spec, secret_environment={"KEY": "secret"}
                    )
                )
        gc.collect()
        assert len(kept) == 4
        # The last one may still be held by the traceback of its error.
        assert [each() for each in kept[1:3]] == [None, None]
