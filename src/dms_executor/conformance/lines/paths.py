"""Section 7: host paths beneath what the policy allows, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ...errors import ExecutorError, InvalidRequest, PolicyDenied
from ...policy import Policy
from ...types import StorageVolume
from ..bench import Bench
from ..line import line


def _fields(kind: str, path: Path | str) -> dict[str, Any]:
    volume = StorageVolume(source=str(path), target="/data")
    fields: dict[str, dict[str, Any]] = {
        "input": {"inputs": [volume]},
        "output": {"outputs": [volume]},
        "results_dir": {"results_dir": str(path)},
        "stdin_file": {"stdin_file": str(path)},
    }
    return fields[kind]


async def _denied(bench: Bench, fields: dict[str, Any], kind: type[ExecutorError] = PolicyDenied) -> ExecutorError:
    with pytest.raises(kind) as caught:
        await bench.run(**fields)
    assert await bench.ids() == [], "a denied request left a record"
    return caught.value


_KINDS = ["input", "output", "results_dir", "stdin_file"]


@line("7", needs={"volumes"})
@pytest.mark.parametrize("kind", _KINDS)
async def test_a_path_outside_the_roots_is_denied(bench: Bench, kind: str) -> None:
    error = await _denied(bench, _fields(kind, "/etc/hostname"))
    assert "roots" in error.mend, f"the mend names no option: {error}"


@line("7", needs={"volumes"})
@pytest.mark.parametrize("kind", _KINDS)
async def test_a_symlink_out_of_the_roots_is_denied(bench: Bench, kind: str) -> None:
    (bench.folder / "link").symlink_to("/etc")
    path = bench.folder / "link" / ("hostname" if kind == "stdin_file" else "")
    await _denied(bench, _fields(kind, path))


@line("7", needs={"volumes"})
async def test_dots_do_not_lead_out(bench: Bench) -> None:
    await _denied(bench, _fields("input", f"{bench.folder}/../../../../../../etc"))


@line("7", needs={"volumes"})
@pytest.mark.parametrize("kind", ["input", "output", "results_dir"])
async def test_the_state_folder_is_refused_under_any_policy(bench: Bench, kind: str) -> None:
    await bench.open(policy=Policy.trusted())
    for path in (bench.state, bench.state / "executions", bench.folder):
        await _denied(bench, _fields(kind, path), ExecutorError)


@line("7", needs={"volumes"})
async def test_the_hosts_root_is_refused_under_any_policy(bench: Bench) -> None:
    await bench.open(policy=Policy.trusted())
    await _denied(bench, _fields("input", "/"))


@line("7", needs={"volumes"})
async def test_magic_links_are_refused_under_any_policy(bench: Bench) -> None:
    await bench.open(policy=Policy.trusted())
    await _denied(bench, _fields("input", "/proc/self/cwd"))


@line("7", needs={"volumes"})
async def test_a_writable_input_needs_a_write_root(bench: Bench) -> None:
    (bench.folder / "data").mkdir()
    given = bench.subject.policy(bench.folder)
    await bench.open(policy=Policy(read_roots=given.read_roots, missing_defaults="record"))
    volume = StorageVolume(source=str(bench.folder / "data"), target="/data", read_only=False)
    error = await _denied(bench, {"inputs": [volume]})
    assert "write_roots" in error.mend


@line("7", needs={"volumes"})
@pytest.mark.parametrize("path", ["relative", "/a\0b", "absent"])
async def test_a_source_that_is_none_is_invalid(bench: Bench, path: str) -> None:
    source = str(bench.folder / path) if path == "absent" else path
    await _denied(bench, _fields("input", source), InvalidRequest)


@line("7")
async def test_a_network_that_the_policy_does_not_name_is_refused(bench: Bench) -> None:
    await _denied(bench, {"network": "host"}, ExecutorError)
