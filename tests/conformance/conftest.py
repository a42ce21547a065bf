"""The engines of this package, as subjects of the conformance suite."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dms_executor.conformance import MemorySubject, ShellSubject, Subject

_SUBJECTS: list[Subject] = [
    MemorySubject(),
    ShellSubject(image="", engine_settings={"runtime": "crun"}, name="oci-crun"),
    ShellSubject(image="", engine_settings={"runtime": "runc"}, name="oci-runc"),
]


@pytest.fixture(params=_SUBJECTS, ids=str)
def subject(request: pytest.FixtureRequest, rootfs: Path) -> Subject:
    chosen: Subject = request.param
    return dataclasses.replace(chosen, image=f"rootfs:{rootfs}") if isinstance(chosen, ShellSubject) else chosen
