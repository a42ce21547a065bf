"""A stranger's paths against the owner's policy: what a text check would let through."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dms_executor.errors import InvalidRequest, PolicyDenied
from dms_executor.policy import Policy, reopen


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    """A root that the owner allows, with one file."""
    root = tmp_path / "allowed"
    root.mkdir()
    (root / "data").write_text("data")
    return root


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file beside the allowed root."""
    file = tmp_path / "secret"
    file.write_text("secret")
    return file


def content(fd: int) -> str:
    return Path(f"/proc/self/fd/{fd}").read_text()


def test_what_lies_in_the_root_is_opened(allowed: Path) -> None:
    with Policy(read_roots=[allowed]).open(str(allowed / "data")) as granted:
        assert content(granted.fd) == "data"
        assert not granted.is_dir


def test_nothing_is_allowed_by_default(allowed: Path) -> None:
    with pytest.raises(PolicyDenied, match=r"read_roots") as error:
        Policy().open(str(allowed / "data"), field="$.inputs[0].source")
    assert "$.inputs[0].source" in str(error.value)


def test_reading_does_not_allow_writing(allowed: Path) -> None:
    with pytest.raises(PolicyDenied, match=r"write_roots"):
        Policy(read_roots=[allowed]).open(str(allowed / "data"), write=True)


def test_a_write_root_may_be_read(allowed: Path) -> None:
    Policy(write_roots=[str(allowed)]).open(str(allowed / "data")).close()


@pytest.mark.parametrize("target", ["{secret}", "../secret", "{up}/../{name}/secret"])
def test_a_symlink_out_of_the_root_is_denied(allowed: Path, secret: Path, target: str) -> None:
    text = target.format(secret=secret, up=allowed, name=secret.parent.name)
    (allowed / "link").symlink_to(text)
    with pytest.raises(PolicyDenied, match="leads out"):
        Policy(read_roots=[allowed]).open(str(allowed / "link"))


def test_dots_out_of_the_root_are_denied(allowed: Path, secret: Path) -> None:
    with pytest.raises(PolicyDenied):
        Policy(read_roots=[allowed]).open(f"{allowed}/../{secret.name}")


def test_dots_behind_a_symlink_count_where_the_link_leads(allowed: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (allowed / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    with pytest.raises(PolicyDenied):
        Policy(read_roots=[allowed]).open(f"{allowed}/link/../../allowed/data")


def test_dots_within_the_root_are_fine(allowed: Path) -> None:
    (allowed / "sub").mkdir()
    Policy(read_roots=[allowed]).open(f"{allowed}/sub/../data").close()


@pytest.mark.parametrize("link", ["/proc/self/root", "/proc/self/cwd", "/proc/self/exe"])
def test_magic_links_are_denied_even_to_the_trusted(link: str) -> None:
    with pytest.raises(PolicyDenied, match="magic link"):
        Policy.trusted().open(link)


def test_absolute_symlinks_work_for_the_trusted(allowed: Path, secret: Path) -> None:
    (allowed / "link").symlink_to(secret)
    with Policy.trusted().open(str(allowed / "link")) as granted:
        assert content(granted.fd) == "secret"


@pytest.mark.parametrize("path", ["/", "//", "/.", "/usr/..", "/run", "/var/../run"])
def test_the_root_and_what_holds_container_sockets_are_refused(path: str) -> None:
    with pytest.raises(PolicyDenied, match="any policy"):
        Policy.trusted().open(path)


def test_a_container_socket_named_by_the_environment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        (tmp_path / "link").symlink_to(path)
        for name in ("d.sock", "link"):
            with pytest.raises(PolicyDenied, match="any policy"):
                Policy.trusted().open(str(tmp_path / name))


@pytest.mark.parametrize("inside", [".", "executions", "executions/file", "..", "../link"])
def test_the_state_folder_what_is_in_it_and_what_holds_it_are_refused(tmp_path: Path, inside: str) -> None:
    state = tmp_path / "above" / "state"
    (state / "executions").mkdir(parents=True)
    (state / "executions" / "file").touch()
    (tmp_path / "above" / "link").symlink_to("state/executions")
    with pytest.raises(PolicyDenied, match="any policy"):
        Policy.trusted().open(f"{state}/{inside}", refused=[state])


def test_beside_the_state_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "beside").mkdir()
    Policy.trusted().open(str(tmp_path / "beside"), refused=[tmp_path / "state"]).close()
    Policy.trusted().make_folder(str(tmp_path / "new" / "deep"), field="$", refused=[tmp_path / "state"]).close()


def test_no_folder_is_made_in_the_state_folder(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(PolicyDenied, match="any policy"):
        Policy.trusted().make_folder(str(tmp_path / "state" / "new"), field="$", refused=[tmp_path / "state"])
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.parametrize("path", ["relative", "", "./x", "/a\0b"])
def test_relative_paths_and_nul_are_invalid(path: str) -> None:
    with pytest.raises(InvalidRequest):
        Policy.trusted().open(path, field="$.results_dir")


def test_what_does_not_exist_is_invalid(allowed: Path) -> None:
    with pytest.raises(InvalidRequest, match="does not exist"):
        Policy(read_roots=[allowed]).open(str(allowed / "nothing"))


def test_a_path_may_hold_any_bytes(allowed: Path) -> None:
    name = os.fsdecode(b"odd \xff\n name")
    (allowed / name).write_text("odd")
    with Policy(read_roots=[allowed]).open(str(allowed / name)) as granted:
        assert content(granted.fd) == "odd"
        with reopen(granted.grant) as again:
            assert content(again.fd) == "odd"


def test_a_swapped_file_is_not_opened_again(allowed: Path, secret: Path) -> None:
    with Policy(read_roots=[allowed]).open(str(allowed / "data")) as granted:
        grant = granted.grant
    (allowed / "data").rename(allowed / "kept")
    (allowed / "data").symlink_to(secret)
    with pytest.raises(PolicyDenied):
        reopen(grant, field="$.inputs[0].source")
    (allowed / "data").unlink()
    (allowed / "data").write_text("another")
    with pytest.raises(PolicyDenied, match="swapped"):
        reopen(grant, field="$.inputs[0].source")


def test_a_path_swapped_in_a_race_never_leads_out(allowed: Path, secret: Path) -> None:
    (allowed / "real").write_text("data")
    (allowed / "evil").symlink_to(secret)
    (allowed / "it").write_text("data")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for source in ("real", "evil"):
                temporary = allowed / "temporary"
                if source == "evil":
                    temporary.symlink_to(secret)
                else:
                    temporary.write_text("data")
                temporary.rename(allowed / "it")

    swapper = threading.Thread(target=swap)
    swapper.start()
    policy = Policy(read_roots=[allowed])
    opened = 0
    try:
        for _ in range(2000):
            try:
                with policy.open(str(allowed / "it")) as granted:
                    # An unlinked file has no name in /proc any more; its content is what counts.
                    fd = os.open(f"/proc/self/fd/{granted.fd}", os.O_RDONLY)
                    with open(fd) as file:
                        assert file.read() in ("data", "")
                    opened += 1
            except PolicyDenied:
                continue
    finally:
        stop.set()
        swapper.join()
    assert opened


def test_an_absent_folder_is_made_beneath_the_root_only(allowed: Path, tmp_path: Path) -> None:
    policy = Policy(write_roots=[allowed])
    assert policy.find_folder(f"{allowed}/a/b", field="$") is None
    assert not (allowed / "a").exists()
    policy.make_folder(f"{allowed}/a/b", field="$").close()
    assert (allowed / "a" / "b").is_dir()
    (allowed / "link").symlink_to(tmp_path)
    with pytest.raises(PolicyDenied):
        policy.make_folder(f"{allowed}/link/out", field="$")
    with pytest.raises(PolicyDenied):
        policy.make_folder(f"{allowed}/../out", field="$")
    assert not (tmp_path / "out").exists()


def test_a_folder_through_a_file_is_invalid(allowed: Path) -> None:
    with pytest.raises(InvalidRequest):
        Policy(write_roots=[allowed]).make_folder(f"{allowed}/data/x", field="$")
    with pytest.raises(InvalidRequest, match="not a folder"):
        Policy(write_roots=[allowed]).make_folder(f"{allowed}/data", field="$")


def test_networks() -> None:
    Policy().check_network("none")
    Policy.trusted().check_network("host")
    with pytest.raises(PolicyDenied, match="networks"):
        Policy().check_network("host")


def test_registries() -> None:
    Policy().check_registry("registry.example:5000", field="$")
    Policy.trusted().check_registry("registry.example:5000", field="$")
    named = Policy(registries=("docker.io",))
    named.check_registry("docker.io", field="$")
    with pytest.raises(PolicyDenied, match="registries") as error:
        named.check_registry("127.0.0.1:5000", field="$.image")
    assert str(error.value).startswith("$.image")
