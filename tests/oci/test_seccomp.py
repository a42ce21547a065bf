"""The seccomp filter: compiled, cached, and refusing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dms_executor.seccomp import libseccomp
from dms_executor.seccomp import profile as seccomp


def program(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def test_it_is_compiled_once(tmp_path: Path) -> None:
    first = program(seccomp.compiled(tmp_path / "cache"))
    assert first
    assert len(first) % 8 == 0
    assert len(first) // 8 <= 4096  # BPF_MAXINSNS
    [file] = (tmp_path / "cache").iterdir()
    before = file.stat().st_ino
    assert program(seccomp.compiled(tmp_path / "cache")) == first
    assert file.stat().st_ino == before


def test_another_profile_is_another_program(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}))
    program(seccomp.compiled(tmp_path / "cache"))
    program(seccomp.compiled(tmp_path / "cache", str(profile)))
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("text", ["{", "{}", '{"defaultAction": "NONSENSE"}'])
def test_a_bad_profile_is_told(tmp_path: Path, text: str) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(text)
    with pytest.raises(ValueError, match="not a seccomp profile"):
        seccomp.compiled(tmp_path / "cache", str(profile))
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_conditions_are_decided() -> None:
    chosen = seccomp.load_profile()
    allowed = {
        name for rule in chosen.rules if rule.action == "SCMP_ACT_ALLOW" and not rule.args for name in rule.names
    }
    assert {"read", "execve", "chroot"} <= allowed  # chroot needs CAP_SYS_CHROOT, which Docker gives
    assert not {"mount", "bpf", "reboot", "init_module", "unshare", "setns", "clone3"} & allowed
    form = seccomp.oci_form(chosen)
    assert form["defaultAction"] == chosen.default_action
    assert json.dumps(form)


def test_without_containers_common_our_own_list_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "PROFILE", str(tmp_path / "nothing"))
    chosen = seccomp.load_profile()
    denied = {name for rule in chosen.rules if rule.action == "SCMP_ACT_ERRNO" for name in rule.names}
    assert {"mount", "keyctl", "unshare", "setns", "bpf", "clone3"} <= denied
    file = tmp_path / "own.bpf"
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    libseccomp.export_bpf(chosen, fd)
    os.close(fd)
    assert file.stat().st_size
