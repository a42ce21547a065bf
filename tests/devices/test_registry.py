"""CDI specs: read from nobody but root, understood wholly or not at all, later folders before earlier ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dms_executor.devices.cdi import parse_spec
from dms_executor.devices.names import DeviceName, parse_name
from dms_executor.devices.registry import Registry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="specs must be root's")

_NODE = {"deviceNodes": [{"path": "/dev/null"}]}


def _spec(**changes: Any) -> dict[str, Any]:
    return {"cdiVersion": "0.5.0", "kind": "v.test/c", "devices": [{"name": "a", "containerEdits": _NODE}], **changes}


def _put(folder: Path, name: str = "spec.json", mode: int = 0o644, **changes: Any) -> Path:
    folder.mkdir(mode=0o755, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(_spec(**changes)))
    path.chmod(mode)
    return path


def _names(registry: Registry) -> list[str]:
    return sorted(map(str, registry.load()))


def test_one_of_root_is_read(tmp_path: Path) -> None:
    _put(tmp_path / "cdi")
    registry = Registry([str(tmp_path / "cdi"), str(tmp_path / "absent")])
    assert _names(registry) == ["v.test/c=a"]
    assert registry.refused == {}


def test_yaml_is_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "cdi").mkdir()
    text = "cdiVersion: 1.0.0\nkind: v.test/c\ndevices:\n- name: y\n  containerEdits:\n    env: [A=b]\n"
    (tmp_path / "cdi" / "spec.yaml").write_text(text)
    (tmp_path / "cdi" / "notes.txt").write_text("not looked at")
    registry = Registry([str(tmp_path / "cdi")])
    assert registry.load()[DeviceName("v.test/c", "y")].device.container_edits.env == ["A=b"]
    assert registry.refused == {}


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o777])
def test_a_file_that_others_can_write_is_left_out(tmp_path: Path, mode: int) -> None:
    path = _put(tmp_path / "cdi", mode=mode)
    registry = Registry([str(tmp_path / "cdi")])
    assert _names(registry) == []
    assert "write" in registry.refused[str(path)]


def test_a_file_of_another_user_is_left_out(tmp_path: Path) -> None:
    path = _put(tmp_path / "cdi")
    os.chown(path, 1000, 0)
    registry = Registry([str(tmp_path / "cdi")])
    assert _names(registry) == []
    assert "uid 1000" in registry.refused[str(path)]


@pytest.mark.parametrize("place", ["cdi", "above"])
@pytest.mark.parametrize("how", ["mode", "owner"])
def test_a_folder_that_others_can_change_is_left_out(tmp_path: Path, place: str, how: str) -> None:
    (tmp_path / "above").mkdir(mode=0o755)
    _put(tmp_path / "above" / "cdi")
    wrong = tmp_path / "above" / ("cdi" if place == "cdi" else "")
    if how == "mode":
        wrong.chmod(0o775)
    else:
        os.chown(wrong, 1000, 0)
    registry = Registry([str(tmp_path / "above" / "cdi")])
    assert _names(registry) == []
    assert list(registry.refused) == [str(tmp_path / "above" / "cdi")]


def test_a_symlink_to_a_file_is_left_out_and_one_to_a_folder_is_judged_by_where_it_leads(tmp_path: Path) -> None:
    path = _put(tmp_path / "mine")
    (tmp_path / "cdi").mkdir()
    (tmp_path / "cdi" / "link.json").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path / "mine")
    assert _names(Registry([str(tmp_path / "cdi")])) == []
    assert _names(Registry([str(tmp_path / "folder")])) == ["v.test/c=a"]
    os.chown(tmp_path / "mine", 1000, 0)
    assert _names(Registry([str(tmp_path / "folder")])) == []


def test_a_fifo_holds_nobody(tmp_path: Path) -> None:
    (tmp_path / "cdi").mkdir()
    os.mkfifo(tmp_path / "cdi" / "spec.json", 0o644)
    registry = Registry([str(tmp_path / "cdi")])
    assert _names(registry) == []
    assert "regular" in registry.refused[str(tmp_path / "cdi" / "spec.json")]


def test_a_later_folder_counts_more(tmp_path: Path) -> None:
    first = {"name": "a", "containerEdits": {"env": ["FROM=first"]}}
    _put(tmp_path / "one", devices=[first, {**first, "name": "b"}])
    _put(tmp_path / "two", devices=[{"name": "a", "containerEdits": {"env": ["FROM=second"]}}])
    found = Registry([str(tmp_path / "one"), str(tmp_path / "two")]).load()
    told = {name.device: each.device.container_edits.env for name, each in found.items()}
    assert told == {"a": ["FROM=second"], "b": ["FROM=first"]}


def test_one_that_stands_twice_in_a_folder_is_nobodys(tmp_path: Path) -> None:
    _put(tmp_path / "cdi", "one.json", devices=[{"name": "a"}, {"name": "b"}])
    _put(tmp_path / "cdi", "two.json", devices=[{"name": "a"}])
    registry = Registry([str(tmp_path / "cdi")])
    assert _names(registry) == ["v.test/c=b"]
    assert "one.json" in registry.refused["v.test/c=a"]
    assert "two.json" in registry.refused["v.test/c=a"]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    _put(tmp_path / "cdi")
    registry = Registry([str(tmp_path / "cdi")])
    assert _names(registry) == ["v.test/c=a"]
    _put(tmp_path / "cdi", devices=[{"name": "new"}])
    assert _names(registry) == ["v.test/c=new"]
    (tmp_path / "cdi" / "spec.json").write_text("{")
    assert _names(registry) == []
    assert str(tmp_path / "cdi" / "spec.json") in registry.refused


_EDITS = "containerEdits"


@pytest.mark.parametrize("version", ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "v1.1.0"])
def test_versions(version: str) -> None:
    assert parse_spec(json.dumps(_spec(cdiVersion=version)).encode(), yaml=False).kind == "v.test/c"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cdiVersion": "0.2.0"}, "version"),
        ({"cdiVersion": "2.0.0"}, "version"),
        ({"kind": "v.test"}, "kind"),
        ({"kind": "v.test/c/d"}, "kind"),
        ({"kind": "-v/c"}, "kind"),
        ({"unknown": 1}, "unknown"),
        ({"devices": [{"name": "a"}, {"name": "a"}]}, "twice"),
        ({"devices": [{"name": "a b"}]}, "name"),
        ({_EDITS: {"surprise": []}}, "surprise"),
        ({_EDITS: {"env": ["NOVALUE"]}}, "NOVALUE"),
        ({_EDITS: {"deviceNodes": [{"path": "dev/x"}]}}, "absolute"),
        ({_EDITS: {"deviceNodes": [{"path": "/dev/../x"}]}}, "absolute"),
        ({_EDITS: {"deviceNodes": [{"path": "/dev/x", "type": "p"}]}}, "type"),
        ({_EDITS: {"deviceNodes": [{"path": "/dev/x", "permissions": "rx"}]}}, "permissions"),
        ({_EDITS: {"deviceNodes": [{"path": "/dev/x", "major": -1}]}}, "range"),
        ({_EDITS: {"mounts": [{"hostPath": "a", "containerPath": "/b"}]}}, "absolute"),
        ({_EDITS: {"mounts": [{"hostPath": "/a", "containerPath": "/"}]}}, "absolute"),
        ({_EDITS: {"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "overlay"}]}}, "overlay"),
        ({_EDITS: {"hooks": [{"hookName": "whenever", "path": "/bin/true"}]}}, "whenever"),
        ({_EDITS: {"hooks": [{"hookName": "prestart", "path": "true"}]}}, "hook"),
        ({_EDITS: {"netDevices": [{"hostInterfaceName": "eth0", "name": "n"}]}}, "netDevices"),
        ({_EDITS: {"additionalGids": [-1]}}, "additionalGids"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_spec(json.dumps(_spec(**changes)).encode(), yaml=False)


def test_what_is_neither_yaml_nor_json() -> None:
    for data, yaml in ((b"{", False), (b"a: [", True), (b"\xff", True), (b"", False)):
        with pytest.raises(ValueError):
            parse_spec(data, yaml=yaml)


def test_names_of_devices() -> None:
    assert parse_name("vendor.com/net-x=eth0:1") == DeviceName("vendor.com/net-x", "eth0:1")
    for name in ("v.test/c=", "=x", "v.test/c", "v.test/c=-x", "v.test/c=x/y", "v/c=a\n", "1v/c=x", ""):
        with pytest.raises(ValueError):
            parse_name(name)
