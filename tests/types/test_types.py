"""Sizes, requests from Python, JSON and YAML, results as JSON, the schema, and errors that travel."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from dms_executor import (
    ByteSize,
    ExecutionRequest,
    ExecutionResult,
    ExecutionStatus,
    LogStreamRequest,
    Resources,
    SpecConfig,
)
from dms_executor import errors as errors_module
from dms_executor.errors import ExecutorError, InvalidRequest
from dms_executor.types import decode_request, encode, json_schema, signal_number, validated


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MiB", 512 * 2**20), ("512MB", 512 * 10**6), ("1.5GB", 1_500_000_000), ("4096", 4096), (" 2 kib ", 2048)],
)
def test_a_size_is_read_as_it_is_written(text: str, size: int) -> None:
    assert ByteSize(text) == size
    assert ByteSize(str(ByteSize(text))) == size, "what is shown can be read back"


@pytest.mark.parametrize("text", ["", "-1", "12 apples", "1.0001KiB", "1e9", "9999999PiB", "MiB", "１GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ByteSize(text)


def request(**fields: Any) -> ExecutionRequest:
    return ExecutionRequest(**{"job_id": "j", "execution_id": "e", "engine_spec": SpecConfig(type="oci"), **fields})


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"execution_id": "../x"}, "$.execution_id"),
        ({"execution_id": "a\0b"}, "$.execution_id"),
        ({"execution_id": "a" * 1000}, "$.execution_id"),
        ({"job_id": "a/b"}, "$.job_id"),
        ({"resources": Resources(memory=-5)}, "$.resources.memory"),  # type: ignore[arg-type]
        ({"resources": Resources(cpu=float("nan"))}, "$.resources.cpu"),
        ({"resources": Resources(pids=0)}, "$.resources.pids"),
        ({"timeout": 0}, "$.timeout"),
        ({"persist_logs": -1}, "$.persist_logs"),
        ({"environment": {"A=": "b"}}, "$.environment"),
        ({"labels": {"": "b"}}, "$.labels"),
        ({"stdin": b"x", "stdin_file": "/x"}, "$.stdin_file"),
        ({"provision_scripts": {"../x": b""}}, "$.provision_scripts"),
        ({"network": 7}, "$.network"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validated(request(**fields), ExecutionRequest)
    assert caught.value.path == path, str(caught.value)
    assert caught.value.mend


def test_a_request_is_the_same_from_python_json_and_yaml() -> None:
    built = validated(request(resources=Resources(memory=ByteSize("1MiB")), stdin=b"\xff\0"), ExecutionRequest)
    assert decode_request(encode(built)) == built
    assert decode_request(encode(built), yaml=True) == built  # JSON is YAML


def test_an_unknown_field_of_a_job_file_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="memroy"):
        decode_request(b"{job_id: a, execution_id: b, engine_spec: {type: oci}, resources: {memroy: 1}}", yaml=True)
    with pytest.raises(InvalidRequest):
        decode_request(b"not json")


@pytest.mark.parametrize("since", ["yesterday", "2026-01-01T00:00:00", float("inf")])
def test_a_time_that_is_not_aware_is_refused(since: str | float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validated(LogStreamRequest(execution_id="e", since=since), LogStreamRequest)
    assert caught.value.path == "$.since"


def test_output_that_is_no_text_stands_beside_its_text() -> None:
    result = ExecutionResult(
        execution_id="e",
        status=ExecutionStatus.SUCCESS,
        reason="exited",
        stdout=b"caf\xe9\n",
        stderr="café\n".encode(),
        exit_code=0,
        finished_at=datetime.now(UTC),
    )
    plain = json.loads(json.dumps(result.to_builtins(), default=str))
    assert (plain["stdout"], plain["stdout_base64"]) == ("caf�\n", "Y2Fm6Qo=")
    assert plain["stderr"] == "café\n"
    assert "stderr_base64" not in plain


@pytest.mark.parametrize(("name", "number"), [(15, 15), ("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("2", 2)])
def test_signals_have_names_and_numbers(name: int | str, number: int) -> None:
    assert signal_number(name) == number


@pytest.mark.parametrize("name", [0, 65, "NOPE", "", True])
def test_what_is_no_signal_is_refused(name: int | str) -> None:
    with pytest.raises(InvalidRequest):
        signal_number(name)


def test_the_schema_has_every_type_and_no_loose_end() -> None:
    schema = json_schema()
    text = json.dumps(schema)
    named = set(schema["$defs"])
    assert {"ExecutionRequest", "ExecutionResult", "LogStreamRequest", "Event", "Settings", "Probe"} <= named
    for reference in {part.split('"')[0] for part in text.split("#/$defs/")[1:]}:
        assert reference in named


@pytest.mark.parametrize("name", errors_module.__all__)
def test_every_error_travels_to_another_process(name: str) -> None:
    kind: type[ExecutorError] = getattr(errors_module, name)
    error = kind("what was wrong", mend="How to mend it", execution_id="e")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.mend, copy.execution_id) == (str(error), "How to mend it", "e")
    assert vars(copy) == vars(error)
