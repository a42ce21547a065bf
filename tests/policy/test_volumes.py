"""What a request may say of its volumes, and what is brought home."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dms_executor.errors import InvalidRequest, NotSupported, PolicyDenied, ResourcesUnavailable
from dms_executor.logs import LogWriter
from dms_executor.policy import Policy
from dms_executor.types import ExecutionRequest, SpecConfig, StorageVolume
from dms_executor.volumes import (
    check_volumes,
    collect,
    grant_volumes,
    results_grant,
    verify_volumes,
)


def asking(**fields: Any) -> ExecutionRequest:
    return ExecutionRequest(job_id="j", execution_id="e", engine_spec=SpecConfig(), **fields)


def bind(target: str, source: str | None = "/srv", **fields: Any) -> StorageVolume:
    return StorageVolume(target=target, source=source, **fields)


@pytest.mark.parametrize(
    "target",
    [
        "relative",
        "/",
        "//data",
        "/a/../b",
        "/a/",
        "/a//b",
        "/./a",
        "/proc",
        "/proc/1",
        "/sys/x",
        "/dev",
        "/dev/shm",
        "/a\0",
    ],
)
def test_targets_are_absolute_normalised_and_not_the_jobs_own(target: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        check_volumes(asking(inputs=[bind("/fine"), bind(target)]))
    assert error.value.path == "$.inputs[1].target"


def test_targets_are_unique() -> None:
    with pytest.raises(InvalidRequest, match="too"):
        check_volumes(asking(inputs=[bind("/a")], outputs=[bind("/a")]))
    check_volumes(asking(inputs=[bind("/process"), bind("/device")]))


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"outputs": [bind("/o", read_only=True)]}, "$.outputs[0].read_only"),
        ({"outputs": [bind("/o", None)]}, "$.outputs[0].source"),
        ({"inputs": [bind("/i", None)]}, "$.inputs[0].source"),
        ({"inputs": [bind("/i", "relative")]}, "$.inputs[0].source"),
        ({"inputs": [StorageVolume(type="tmpfs", target="/t", source="/x")]}, "$.inputs[0].source"),
        ({"inputs": [StorageVolume(type="tmpfs", target="/t", size=0)]}, "$.inputs[0].size"),  # type: ignore[arg-type]
        ({"outputs": [StorageVolume(type="tmpfs", target="/t")]}, "$.outputs[0].type"),
        ({"results_dir": "relative"}, "$.results_dir"),
        ({"stdin_file": "relative"}, "$.stdin_file"),
        ({"results_dir": "/r", "outputs": [bind("/o", "/r/x")]}, "$.outputs[0].source"),
        ({"results_dir": "/r/x", "outputs": [bind("/o", "/r")]}, "$.outputs[0].source"),
        ({"results_dir": "/r", "outputs": [bind("/a/o", None), bind("/b/o", None)]}, "$.outputs[1].source"),
    ],
)
def test_what_makes_no_sense_is_invalid(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        check_volumes(asking(**fields))
    assert error.value.path == path


def test_named_volumes_are_not_supported() -> None:
    with pytest.raises(NotSupported, match="oci"):
        check_volumes(asking(inputs=[StorageVolume(type="volume", source="v", target="/v")]), "oci")


def test_a_writable_input_needs_a_write_root(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    request = asking(inputs=[bind("/in", str(tmp_path / "in"), read_only=False)])
    with pytest.raises(PolicyDenied, match="write_roots"):
        verify_volumes(request, Policy(read_roots=[tmp_path]), ())
    verify_volumes(request, Policy(write_roots=[tmp_path]), ())


def test_verifying_makes_nothing(tmp_path: Path) -> None:
    request = asking(results_dir=str(tmp_path / "r"), outputs=[bind("/o", None), bind("/p", str(tmp_path / "p"))])
    verify_volumes(request, Policy(write_roots=[tmp_path]), ())
    assert list(tmp_path.iterdir()) == []


def test_results_dir_has_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "old").touch()
    with pytest.raises(InvalidRequest, match="not empty"):
        verify_volumes(asking(results_dir=str(tmp_path / "r")), Policy(write_roots=[tmp_path]), ())


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """An execution's folder with a log of both streams."""
    folder = tmp_path / "execution"
    folder.mkdir()
    with LogWriter.open(folder, 1 << 20, 1 << 18) as writer:
        writer.write("stdout", 1, b"out\xff")
        writer.write("stderr", 1, b"err")
        writer.write("stdout", 1, b"put")
        writer.end()
    return folder


def test_results_are_written_whole_and_again(tmp_path: Path, logged: Path) -> None:
    request = asking(results_dir=str(tmp_path / "r"), outputs=[bind("/data/o", None)])
    volumes = grant_volumes(request, Policy(write_roots=[tmp_path]), ())
    (tmp_path / "r" / "outputs" / "o" / "made").touch()
    (tmp_path / "r" / "outputs" / "o" / "link").symlink_to("/etc/passwd")
    for _ in range(2):
        [output] = collect(volumes, logged, 3)
    assert (tmp_path / "r" / "stdout").read_bytes() == b"out\xffput"
    assert (tmp_path / "r" / "stderr").read_bytes() == b"err"
    assert (tmp_path / "r" / "exit_code").read_text() == "3\n"
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["exit_code", "outputs", "stderr", "stdout"]
    assert output.path == str(tmp_path / "r" / "outputs" / "o")
    assert (tmp_path / "r" / "outputs" / "o" / "link").is_symlink()


def test_a_swapped_results_dir_is_not_written(tmp_path: Path, logged: Path) -> None:
    volumes = grant_volumes(asking(results_dir=str(tmp_path / "r")), Policy(write_roots=[tmp_path]), ())
    (tmp_path / "r").rename(tmp_path / "moved")
    (tmp_path / "victim").mkdir()
    (tmp_path / "r").symlink_to("victim")
    with pytest.raises(PolicyDenied):
        collect(volumes, logged, 0)
    assert list((tmp_path / "victim").iterdir()) == []


def test_a_link_planted_in_results_dir_is_not_followed(tmp_path: Path, logged: Path) -> None:
    volumes = grant_volumes(asking(results_dir=str(tmp_path / "r")), Policy(write_roots=[tmp_path]), ())
    (tmp_path / "victim").write_text("untouched")
    for name in ("stdout", ".stdout.tmp", "exit_code"):
        (tmp_path / "r" / name).symlink_to(tmp_path / "victim")
    collect(volumes, logged, None)
    assert (tmp_path / "victim").read_text() == "untouched"
    assert (tmp_path / "r" / "exit_code").read_text() == ""


def test_a_link_planted_as_outputs_is_told(tmp_path: Path, logged: Path) -> None:
    volumes = grant_volumes(asking(results_dir=str(tmp_path / "r")), Policy(write_roots=[tmp_path]), ())
    (tmp_path / "r" / "outputs").rmdir()
    (tmp_path / "r" / "outputs").symlink_to(tmp_path)
    with pytest.raises(ResourcesUnavailable):
        collect(volumes, logged, None)


def test_grants_survive_on_disk(tmp_path: Path) -> None:
    import msgspec

    volumes = grant_volumes(asking(results_dir=str(tmp_path / "r")), Policy(write_roots=[tmp_path]), ())
    state = msgspec.json.decode(msgspec.json.encode({"volumes": msgspec.to_builtins(volumes)}))
    assert results_grant(state) == volumes.results
    assert results_grant({}) is None
