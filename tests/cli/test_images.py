"""`dms-executor images`, with a real registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..images.conftest import Layout, layout
from ..registry import Registry, running_registry
from .conftest import Cli

__all__ = ["layout"]


@pytest.fixture
def registry(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """One that is trusted by an authority of the test's own, as an administrator would say it."""
    with running_registry(tmp_path / "registry", tls=True) as running:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "registry/authority/ca.crt"))
        monkeypatch.setenv("HOME", str(tmp_path))
        yield running


def test_pull_list_remove(cli: Cli, root: str, registry: Registry, layout: Layout) -> None:
    image = registry.push(layout({"Cmd": ["echo", "hi"]}), "busy:1")
    pulled = cli("images", "pull", image)
    assert (pulled.code, pulled.err) == (0, "")  # no bar where nobody sees it
    digest = pulled.out.decode().strip()
    assert digest.startswith("sha256:")
    listed = cli("images").out.decode()
    assert listed.splitlines()[0].split()[:3] == ["REFERENCE", "DIGEST", "ENGINE"]
    assert image in listed
    assert digest[:19] in listed
    (info,) = [json.loads(line) for line in cli("--json", "images", "ls").out.splitlines()]
    assert (info["digest"], info["references"], info["engine"], info["pinned"]) == (digest, [image], "oci", False)
    assert cli("images", "ls", "-q").out.decode() == f"{digest}\n"
    ran = cli("run", "--pull", "never", image)
    assert (ran.code, ran.out) == (0, b"hi\n")
    removed = cli("images", "rm", digest[7:19])
    assert (removed.code, removed.out.decode().split()[:2]) == (0, [digest, "removed,"])
    assert cli("images", "ls", "-q").out == b""
    gone = cli("images", "rm", image)
    assert gone.code == 1
    assert "images ls" in gone.err


def test_prune_and_json(cli: Cli, root: str, registry: Registry, layout: Layout) -> None:
    image = registry.push(layout(), "busy:1")
    (info,) = [json.loads(line) for line in cli("--json", "images", "pull", image).out.splitlines()]
    assert info["references"] == [image]
    assert json.loads(cli("--json", "images", "prune", "--older", "1h").out) == {"images": 0, "bytes_freed": 0}
    assert json.loads(cli("--json", "images", "prune", "--size", "10GiB").out)["images"] == 0
    assert cli("images", "prune").out.decode().startswith("1 images removed, ")
    missing = cli("--json", "images", "pull", f"{registry.host}/nothing")
    assert missing.code == 1
    assert json.loads(missing.err)["type"] == "ImageNotFound"


def test_removing_by_name(cli: Cli, root: str, registry: Registry, layout: Layout) -> None:
    image = registry.push(layout(), "busy")
    cli("images", "pull", image)
    assert cli("images", "rm", image).code == 0
    assert cli("images", "ls", "-q").out == b""


def test_wrong_words(cli: Cli) -> None:
    assert cli("images", "prune", "--older", "soon").code == 2
    assert cli("images", "pull").code == 2
    assert cli("images", "rm").code == 2
    invalid = cli("images", "pull", "A B")
    assert invalid.code == 1
    assert "no image's name" in invalid.err
