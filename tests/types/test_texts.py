"""Text that no record and no runtime could be told is refused where it enters, and huge durations mean a century."""

from __future__ import annotations

from typing import Any

import pytest

from dms_executor.errors import InvalidRequest
from dms_executor.supervisor.spec import milliseconds
from dms_executor.types import ByteSize, ExecutionRequest, Resources, SpecConfig, StorageVolume
from dms_executor.types.codec import validated


@pytest.mark.parametrize(
    "fields",
    [
        {"environment": {"A": "\udcff"}},
        {"secret_environment": {"A": "hush\udcff"}},
        {"labels": {"\udcff": "a"}},
        {"inputs": [StorageVolume(type="tmpfs", target="/\udcff")]},
        {"engine_spec": SpecConfig(type="oci", params={"cmd": ["\udcff"]})},
    ],
)
def test_a_lone_surrogate_is_refused(fields: dict[str, Any]) -> None:
    fields.setdefault("engine_spec", SpecConfig(type="oci", params={}))
    with pytest.raises(InvalidRequest, match="UTF-8") as raised:
        validated(ExecutionRequest(job_id="j", execution_id="e", **fields), ExecutionRequest)
    assert "hush" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_sizes_and_other_text_pass() -> None:
    spec = SpecConfig(type="oci", params={"cmd": ["\u00e9"]})
    request = ExecutionRequest(
        job_id="j", execution_id="e", engine_spec=spec, resources=Resources(memory=ByteSize("1MiB"))
    )
    assert validated(request, ExecutionRequest) == request


@pytest.mark.parametrize("seconds", [1e300, 2.0**63])
def test_a_duration_fits_the_shims_clock(seconds: float) -> None:
    assert milliseconds(seconds) * 1_000_000 < 2**63
    assert milliseconds(1.5) == 1500
