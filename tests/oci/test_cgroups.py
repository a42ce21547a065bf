"""The host's cgroups of version 1, version 2 and both, from the text of mountinfo."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dms_executor.cgroups.hierarchies import Cgroups, Hierarchy, detect, limits_swap, parse, usable_controllers

V1 = """\
31 23 0:28 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
"""
V1_OWN = "4:cpu,cpuacct:/system.slice/x.service\n3:memory:/\n2:pids:/\n1:name=systemd:/system.slice/x.service\n"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
ALL = frozenset({"cpu", "memory", "pids", "io"})


def v2() -> Cgroups:
    return parse(V2, "0::/system.slice/x.service\n", {"/sys/fs/cgroup": ALL})


def test_version_1() -> None:
    cgroups = parse(V1, V1_OWN)
    assert cgroups.mode == "v1"
    assert cgroups.limits == {"cpu", "memory", "pids"}
    assert cgroups.freezer("d/t") == ("/sys/fs/cgroup/freezer/d/t/freezer.state", "FROZEN", "THAWED")
    assert "/sys/fs/cgroup/cpu,cpuacct/d/t" in cgroups.folders("d/t")
    sources = {source.key: source for source in cgroups.usage("d/t")}
    assert sources["cpu_ns"].path == "/sys/fs/cgroup/cpu,cpuacct/d/t/cpuacct.usage"
    assert (sources["oom_kills"].path, sources["oom_kills"].field) == (
        "/sys/fs/cgroup/memory/d/t/memory.oom_control",
        "oom_kill",
    )
    assert cgroups.unified_mounts == ()


def test_version_2() -> None:
    cgroups = v2()
    assert cgroups.mode == "v2"
    assert cgroups.limits == {"cpu", "memory", "pids"}
    assert cgroups.folders("d/t") == ["/sys/fs/cgroup/d/t"]
    assert cgroups.freezer("d/t") == ("/sys/fs/cgroup/d/t/cgroup.freeze", "1", "0")
    assert {source.key for source in cgroups.usage("d/t")} == {
        "cpu_us",
        "memory_peak",
        "oom_kills",
        "io_read",
        "io_write",
    }
    assert cgroups.unified_mounts == ()


def test_hybrid_uses_version_1_and_hides_the_other() -> None:
    cgroups = parse(V1 + UNIFIED, V1_OWN + "0::/\n", {"/sys/fs/cgroup/unified": ALL})
    assert cgroups.mode == "hybrid"
    assert cgroups.unified_mounts == ("/sys/fs/cgroup/unified",)
    assert "/sys/fs/cgroup/unified/d/t" in cgroups.folders("d/t")
    assert "/sys/fs/cgroup/unified/d/t" not in cgroups.folders("d/t", without=cgroups.unified_mounts)


def test_a_missing_controller_is_no_limit() -> None:
    cgroups = parse(V2, "0::/\n", {"/sys/fs/cgroup": frozenset({"pids"})})
    assert cgroups.limits == {"pids"}
    assert parse(V1.replace("rw,nosuid shared:9", "ro"), V1_OWN).limits == {"memory", "pids"}
    assert parse("", "").mode == "none"


def test_a_shim_leaves_only_cgroups_that_somebody_could_kill() -> None:
    assert parse(V1, V1_OWN).joins("d/shims") == [
        "/sys/fs/cgroup/cpu,cpuacct/d/shims/cgroup.procs",
        "/sys/fs/cgroup/systemd/d/shims/cgroup.procs",
    ]
    assert v2().joins("d/shims") == ["/sys/fs/cgroup/d/shims/cgroup.procs"]
    assert parse(V2, "0::/\n").joins("d/shims") == []
    assert parse(V2, "0::/d/shims\n").joins("d/shims") == []


def test_a_container_without_a_cgroup_namespace_sees_its_own_part() -> None:
    cgroups = parse(V2.replace("0:28 / ", "0:28 /docker/abc "), "0::/docker/abc/inner\n")
    assert cgroups.joins("d") == ["/sys/fs/cgroup/d/cgroup.procs"]
    assert parse(V2.replace("0:28 / ", "0:28 /docker/abc "), "0::/docker/abc\n").joins("d") == []


def test_a_mount_with_a_space() -> None:
    assert parse(V2.replace("/sys/fs/cgroup", "/a\\040b"), "0::/\n").folders("t") == ["/a b/t"]


def test_the_state_of_the_freezer(tmp_path: Path) -> None:
    def there(version: int, mount: Path) -> Cgroups:
        controllers = frozenset({"freezer"})
        hierarchy = Hierarchy(mount=str(mount), version=1 if version == 1 else 2, controllers=controllers)
        return Cgroups(hierarchies=(hierarchy,))

    (tmp_path / "t").mkdir()
    assert there(1, tmp_path).is_frozen("t") is None
    (tmp_path / "t" / "freezer.state").write_text("FREEZING\n")
    assert there(1, tmp_path).is_frozen("t") is False
    (tmp_path / "t" / "freezer.state").write_text("FROZEN\n")
    assert there(1, tmp_path).is_frozen("t") is True
    (tmp_path / "t" / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert there(2, tmp_path).is_frozen("t") is True
    assert there(2, tmp_path).is_frozen("other") is None


def test_a_container_cannot_give_more_than_its_cgroup_does_while_it_lives_in_it(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("pids\n")
    (tmp_path / "cgroup.procs").write_text("1\n")
    # The kernel's own root has no type, and may have processes beside children.
    assert usable_controllers(str(tmp_path)) == {"cpu", "memory", "pids"}
    (tmp_path / "cgroup.type").write_text("domain\n")
    assert usable_controllers(str(tmp_path)) == {"pids"}
    (tmp_path / "cgroup.procs").write_text("")
    assert usable_controllers(str(tmp_path)) == {"cpu", "memory", "pids"}


def test_swap_is_limited_only_where_the_kernel_counts_it(tmp_path: Path) -> None:
    def limited() -> bool:
        return limits_swap((Hierarchy(mount=str(tmp_path), version=2, controllers=ALL),))

    assert limited()  # nobody has the controller yet
    (tmp_path / "system.slice").mkdir()
    (tmp_path / "system.slice" / "memory.max").touch()
    assert not limited()
    (tmp_path / "system.slice" / "memory.swap.max").touch()
    assert limited()


def test_this_host_can_be_read() -> None:
    cgroups = detect()
    assert cgroups.mode != "none"
    assert msgspec.json.encode(cgroups)
