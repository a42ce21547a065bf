"""What an ordinary user was given of the control groups: found, and told where it is missing, on trees of files."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from .someone import Someone

LOGIN = "user.slice/user-{uid}.slice"
MANAGER = f"{LOGIN}/user@{{uid}}.service"
LIMITS = "cpu io memory pids"

# In a process of that user, since access is what counts: it says what it finds for the cgroup `own`.
ASK = """
import json, os, sys
from dms_executor.cgroups import Cgroups, Hierarchy
from dms_executor.oci.delegation import delegated, settle
asked = json.load(sys.stdin)
mount, own = asked["mount"], asked["own"]
if asked["alone"]:
    open(f"{mount}{own}/cgroup.procs", "w").write(str(os.getpid()))
made = [Hierarchy(mount=mount, version=version, controllers=frozenset(), own=own) for version in asked["versions"]]
found = delegated(Cgroups(hierarchies=tuple(made)))
told = {name: getattr(found, name) for name in ("base", "mend", "manager", "alone")}
settled = settle(found).cgroups.hierarchies
print(json.dumps({**told, "limits": sorted(found.cgroups.limits), "own": [each.own for each in settled]}))
"""


class Tree:
    """Cgroups as folders, some of which belong to the user."""

    def __init__(self, someone: Someone) -> None:
        self.someone = someone
        self.mount = someone.folder / "cgroup"
        self.mount.mkdir()

    def add(self, path: str, *, mine: bool, has: str = LIMITS, gives: str = "", processes: str = "") -> str:
        path = path.format(uid=self.someone.uid)
        folder = self.mount / path
        folder.mkdir(parents=True)
        texts = {"cgroup.controllers": has, "cgroup.subtree_control": gives, "cgroup.procs": processes}
        for name, text in texts.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o644)
        if mine and os.geteuid() == 0:
            for path_of in (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control"):
                os.chown(path_of, self.someone.uid, self.someone.gid)
        return path

    def asked(self, own: str, *versions: int, alone: bool = False) -> dict[str, Any]:
        own = f"/{own.format(uid=self.someone.uid)}"
        told = {"mount": str(self.mount), "own": own, "versions": versions or (2,), "alone": alone}
        done = self.someone.python("-c", ASK, stdin=json.dumps(told))
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def tree(someone: Someone) -> Tree:
    if os.geteuid() != 0:
        pytest.skip("takes root to make what is not the user's")
    return Tree(someone)


def test_nothing_is_delegated(tree: Tree) -> None:
    tree.add("system.slice/ssh.service", mine=False, processes="1\n")
    found = tree.asked("system.slice/ssh.service")
    assert (found["base"], found["limits"]) == ("", [])
    assert found["mend"].startswith("No control group is delegated to this user.")
    assert "systemd-run --user --scope -p Delegate=yes" in found["mend"]


@pytest.mark.parametrize("versions", [(1,), (1, 2)])
def test_version_1_cannot_be(tree: Tree, versions: tuple[int, ...]) -> None:
    tree.add("a", mine=True)
    assert "systemd.unified_cgroup_hierarchy=1" in tree.asked("a", *versions)["mend"]


def test_the_uppermost_that_is_ours(tree: Tree) -> None:
    tree.add("box", mine=False)
    tree.add("box/given", mine=True, gives=LIMITS)
    tree.add("box/given/deep", mine=True, processes="1\n")
    found = tree.asked("box/given/deep")
    assert (found["base"], found["limits"], found["mend"]) == ("box/given/", ["cpu", "memory", "pids"], "")


def test_a_folder_alone_is_no_delegation(tree: Tree) -> None:
    """All three must be writable: the folder, `cgroup.procs` and `cgroup.subtree_control`."""
    tree.add("box", mine=True)
    os.chown(tree.mount / "box" / "cgroup.subtree_control", 0, 0)
    assert tree.asked("box")["base"] == ""


@pytest.mark.parametrize(("missing", "has"), [("pids", "cpu io memory"), ("cpu, memory", "io pids")])
def test_a_controller_that_was_not_given_is_named(tree: Tree, missing: str, has: str) -> None:
    tree.add("box", mine=True, has=has)
    tree.add("box/leaf", mine=True, has="")
    found = tree.asked("box/leaf")
    assert missing not in found["limits"]
    assert found["mend"] == f"/box has no controller {missing}: name it in Delegate= of user@.service, or of the unit"


def test_processes_of_others_in_it_keep_controllers_from_its_children(tree: Tree) -> None:
    tree.add("box", mine=True, processes="1\n2\n")
    found = tree.asked("box")
    assert (found["alone"], found["limits"]) == (False, [])
    assert "Delegate=" in found["mend"]


def test_who_is_alone_in_it_moves_to_a_leaf(tree: Tree) -> None:
    """A service with Delegate=yes."""
    tree.add("box", mine=True)
    found = tree.asked("box", alone=True)
    assert (found["alone"], found["base"], found["own"]) == (True, "box/", ["/box/caller"])
    assert found["limits"] == ["cpu", "memory", "pids"]
    assert (tree.mount / "box/caller/cgroup.procs").read_text() == (tree.mount / "box/cgroup.procs").read_text()


def test_a_login_asks_its_systemd_for_a_scope(tree: Tree) -> None:
    """What lies below the manager is the manager's to divide: its own cgroup is named, and it is asked."""
    tree.add(LOGIN, mine=False)
    manager = tree.add(MANAGER, mine=True)
    tree.add(f"{LOGIN}/session-1.scope", mine=False, processes="1\n")
    session = f"{LOGIN}/session-1.scope"
    # A manager that cannot be reached is none: no runtime folder, as with `su`.
    assert tree.asked(session)["manager"] == ""
    runtime_dir = tree.someone.folder / "runtime"
    (runtime_dir / "systemd").mkdir(parents=True)
    (runtime_dir / "systemd" / "private").write_text("")
    for path in (runtime_dir, runtime_dir / "systemd", runtime_dir / "systemd" / "private"):
        os.chown(path, tree.someone.uid, tree.someone.gid)
    tree.someone.environment["XDG_RUNTIME_DIR"] = str(runtime_dir)
    found = tree.asked(session)
    assert (found["manager"], found["base"]) == (f"/{manager}", f"{manager}/")
    assert found["limits"] == ["cpu", "memory", "pids"]


def test_another_users_manager_is_not_ours(tree: Tree) -> None:
    tree.add("user.slice/user-1.slice/user@1.service", mine=False)
    tree.add("user.slice/user-1.slice/session-2.scope", mine=False, processes="1\n")
    found = tree.asked("user.slice/user-1.slice/session-2.scope")
    assert (found["manager"], found["base"]) == ("", "")
