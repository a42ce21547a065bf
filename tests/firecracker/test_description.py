"""Whether what we know of the API is what the API says."""

from __future__ import annotations

from typing import Any

import pytest

from .description import OURS, Description, published

FACTS = ("type", "enum", "minimum", "maximum", "items", "$ref", "additionalProperties")


@pytest.fixture
def theirs() -> Description:
    found = published()
    if found is None:
        pytest.skip("no description of the API here: DMS_EXECUTOR_FIRECRACKER_API names none")
    return found


def facts(schema: dict[str, Any]) -> dict[str, Any]:
    # YAML 1.1 takes a bare Off for false.
    words = ["Off" if word is False else word for word in schema.get("enum", [])]
    return {key: schema[key] for key in FACTS if key in schema} | ({"enum": words} if words else {})


def test_every_call_is_theirs(theirs: Description) -> None:
    for path, methods in OURS.paths.items():
        for method, operation in methods.items():
            assert operation == theirs.paths[path][method], f"{method} {path}"


@pytest.mark.parametrize("name", sorted(OURS.schemas))
def test_every_definition_is_theirs(theirs: Description, name: str) -> None:
    ours, published_one = OURS.schemas[name], theirs.schemas[name]
    assert sorted(ours["required"]) == sorted(published_one.get("required", []))
    for field, schema in ours["properties"].items():
        assert facts(schema) == facts(published_one["properties"][field]), field


def test_what_is_wrong_is_found() -> None:
    drive = {"drive_id": "a", "is_root_device": False}
    assert OURS.faults(drive, "Drive") == []
    wrong = {"is_root_device": 1, "cache_type": "Never", "rate_limiter": {"ops": {"size": -1}}, "colour": "red"}
    assert OURS.faults(wrong, "Drive") == [
        "$: without drive_id",
        "$.is_root_device: 1 is no boolean",
        "$.cache_type: 'Never' is not one of ['Unsafe', 'Writeback']",
        "$.rate_limiter.ops: without refill_time",
        "$.rate_limiter.ops.size: -1 is out of bounds",
        "$: nobody knows colour",
    ]
    assert OURS.faults({"vcpu_count": 33, "mem_size_mib": True}, "MachineConfiguration") == [
        "$.vcpu_count: 33 is out of bounds",
        "$.mem_size_mib: True is no integer",
    ]
