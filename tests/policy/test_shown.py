"""A folder that shows a refused one by a mount, under a path that says nothing of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dms_executor.errors import PolicyDenied
from dms_executor.policy import Policy
from dms_executor.shown import shown

Bind = Callable[[Path, Path], None]


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Mounts a folder once more, as the machine's owner would; gone after the test."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    places: list[Path] = []

    def mount(source: Path, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", str(source), str(place)], check=True)
        places.append(place)

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "lib" / "state"
    (folder / "executions" / "one").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("source", ["lib", "lib/state", "lib/state/executions"])
@pytest.mark.parametrize("granted", ["given", "given/deep", "given/deep/with space"])
def test_a_mount_of_the_owners_beneath_it_or_at_it(
    tmp_path: Path, state: Path, bind: Bind, source: str, granted: str
) -> None:
    bind(tmp_path / source, tmp_path / "given" / "deep" / "with space")
    for write in (False, True):
        with pytest.raises(PolicyDenied, match="any policy") as caught:
            Policy.trusted().open(str(tmp_path / granted), write=write, refused=[state])
        assert str(state) in caught.value.message


def test_what_lies_in_such_a_mount(tmp_path: Path, state: Path, bind: Bind) -> None:
    bind(state / "executions", tmp_path / "given")
    with pytest.raises(PolicyDenied, match="any policy"):
        Policy.trusted().open(str(tmp_path / "given" / "one"), refused=[state])
    with pytest.raises(PolicyDenied, match="any policy"):
        Policy.trusted().make_folder(str(tmp_path / "given" / "new"), field="$", refused=[state])
    assert os.listdir(state / "executions") == ["one"]


def test_a_mount_of_something_else_is_fine(tmp_path: Path, state: Path, bind: Bind) -> None:
    (tmp_path / "lib" / "other").mkdir()
    (tmp_path / "lib" / "state-of-others").mkdir()
    bind(tmp_path / "lib" / "other", tmp_path / "given" / "other")
    bind(tmp_path / "lib" / "state-of-others", tmp_path / "given" / "others")
    for path in ("given", "given/other", "given/others"):
        Policy.trusted().open(str(tmp_path / path), write=True, refused=[state]).close()
    Policy.trusted().make_folder(str(tmp_path / "given" / "other" / "new"), field="$", refused=[state]).close()


def test_a_socket_that_is_not_there_yet(tmp_path: Path, bind: Bind) -> None:
    (tmp_path / "run").mkdir()
    bind(tmp_path / "run", tmp_path / "given" / "run")
    fd = os.open(tmp_path / "given", os.O_PATH)
    try:
        assert shown(fd, [tmp_path / "run" / "docker.sock"]) == str(tmp_path / "run" / "docker.sock")
        assert shown(fd, [tmp_path / "elsewhere" / "docker.sock"]) is None
    finally:
        os.close(fd)
