"""`cp`, as a user types it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from .conftest import Cli


@pytest.fixture
def job(cli: Cli, root: str) -> str:
    assert cli("run", "-d", "--id", "job", root, "sh", "-c", "echo inside > /file; exec sleep 1000").code == 0
    return "job"


def _content(cli: Cli, path: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(cli("cp", path, "-").out)) as archive:
        (entry,) = archive.getmembers()
        file = archive.extractfile(entry)
        assert file is not None
        return file.read()


def test_a_folder_goes_in_and_comes_out(cli: Cli, job: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_text("text")
    assert cli("cp", str(source), f"{job}:/new") == (0, b"", "")
    assert cli("cp", f"{job}:/new/.", str(tmp_path / "back")) == (0, b"", "")
    assert (tmp_path / "back/sub/file").read_text() == "text"
    assert _content(cli, f"{job}:/new/sub/file") == b"text"


def test_tar_goes_through_a_pipe(cli: Cli, job: str) -> None:
    archive = cli("cp", f"{job}:/file", "-")
    assert archive.code == 0
    assert cli("cp", "-", f"{job}:/etc", stdin=archive.out) == (0, b"", "")
    assert _content(cli, f"{job}:/etc/file") == b"inside\n"


def test_what_is_no_tar_is_said_so(cli: Cli, job: str) -> None:
    for stdin in (b"", b"not a tar" * 200):
        finished = cli("cp", "-", f"{job}:/etc", stdin=stdin)
        assert finished.code == 1
        assert "tar" in finished.err


def test_a_path_with_a_colon_begins_with_a_dot(cli: Cli, job: str, tmp_path: Path) -> None:
    (tmp_path / "a:b").write_text("colon")
    assert cli("cp", f"{tmp_path}/a:b", f"{job}:/colon").code == 0
    assert _content(cli, f"{job}:/colon") == b"colon"


@pytest.mark.parametrize("words", [("a", "b"), ("x:a", "y:b"), ("-", "-"), ("a",)])
def test_a_copy_between_two_of_a_kind_is_a_wrong_usage(cli: Cli, words: tuple[str, ...]) -> None:
    finished = cli("cp", *words)
    assert (finished.code, finished.out) == (2, b"")


@pytest.mark.parametrize(("source", "target"), [("job:/nosuch", "x"), ("/nosuch", "job:/x"), ("nosuch:/x", "x")])
def test_what_is_not_there_is_one_clear_error(cli: Cli, job: str, source: str, target: str) -> None:
    finished = cli("cp", source, target)
    assert (finished.code, finished.out) == (1, b"")
    assert "nosuch" in finished.err.splitlines()[0]


def test_a_reader_that_goes_away_ends_it(cli: Cli, job: str) -> None:
    process = cli.begin("cp", f"{job}:/bin", "-")
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(60) in (0, 1)
