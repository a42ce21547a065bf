"""The engine for an ordinary user: what a job sees, what is left of it, and what cannot be had without root."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from dms_executor.errors import EngineUnavailable
from dms_executor.oci import rootless

from ..images.conftest import Layout, layout
from .someone import Someone

__all__ = ["layout"]

KEPT = {"exit", "log", "request.json", "handle.json", "result.json", "shim.log", "intent.json", "started.json"}
Root = dict[str, Any]


@pytest.fixture
def root(someone: Someone, busybox: Path) -> Path:
    """The busybox tree, as that user's own."""
    target = someone.folder / "root"
    subprocess.run(["cp", "-a", str(busybox), str(target)], check=True)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "-h", f"{someone.uid}:{someone.gid}", str(target)], check=True)
    return target


def request(root: Path, *cmd: str, execution_id: str = "e", params: Root | None = None, **fields: Any) -> Root:
    spec = {"type": "oci", "params": {"image": f"rootfs:{root}", "cmd": list(cmd), **(params or {})}}
    return {"job_id": "j", "execution_id": execution_id, "engine_spec": spec, **fields}


def left(someone: Someone) -> list[str]:
    """What an execution may not leave in its folder, and processes that have something of it."""
    found = [str(path) for folder in (someone.folder / "state" / "executions").iterdir() for path in folder.iterdir()]
    tokens = [folder.name for folder in (someone.folder / "state" / "executions").iterdir()]
    return [path for path in found if Path(path).name not in KEPT] + strays(*tokens)


def strays(*tokens: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            text = path.read_text()
        except OSError:
            continue  # it has ended, and may not even be reaped yet
        found += [str(path) for token in tokens if token in text]
    return found


def test_root_inside_is_the_caller_outside(someone: Someone, root: Path, runtime: str) -> None:
    script = "id -u; cat /proc/self/uid_map; echo x >/etc/new; chown app:app /etc/new; stat -c %u:%g /etc/new /; exit 3"
    result, info = someone.does(runtime, ("run", request(root, "sh", "-c", script)), ("inspect", "e"))
    words = result["stdout"].split()
    assert (result["exit_code"], words[:4]) == (3, ["0", "0", str(someone.uid), "1"]), result
    assert words[4] == "1"
    assert words[-2:] == ["1000:1001", "0:0"]
    assert info["engine_ids"]["userns"].startswith(f"rootless {someone.uid}+1,{words[5]}+")
    assert not (root / "etc" / "new").exists()
    assert left(someone) == []


def test_what_a_job_made_as_others_is_removed(someone: Someone, root: Path, runtime: str) -> None:
    script = "mkdir -p /d/a/b; echo x >/d/a/b/f; chown -R app:app /d; chmod 0700 /d /d/a; chmod 0 /d/a/b; ls -ld /d"
    result, removed = someone.does(runtime, ("run", request(root, "sh", "-c", script)), ("remove", "e"))
    assert (result["exit_code"], removed) == (0, None), result
    assert list((someone.folder / "state" / "executions").iterdir()) == []


def test_outputs_are_the_callers(someone: Someone, root: Path, runtime: str) -> None:
    script = (
        "cd /out; mkdir -p p/q; echo x >p/q/f; cp /bin/busybox p/suid; ln -s /etc/shadow link; echo r >mine;"
        "chown -h -R app:app p link; chmod 4755 p/suid; chmod 0700 p; echo said; echo wrong >&2"
    )
    fields = {"outputs": [{"target": "/out"}], "results_dir": str(someone.folder / "results")}
    (result,) = someone.does(runtime, ("run", request(root, "sh", "-c", script, **fields)))
    assert result["status"] == "success", result
    results = someone.folder / "results"
    found = {path: path.lstat() for path in results.rglob("*")}
    assert {(status.st_uid, status.st_gid) for status in found.values()} == {(someone.uid, someone.gid)}
    out = results / "outputs" / "out"
    assert stat.S_IMODE(found[out / "p" / "suid"].st_mode) & 0o6000 == 0
    assert found[out / "link"].st_mode & stat.S_IFLNK == stat.S_IFLNK
    assert (results / "stdout").read_text(), (results / "stderr").read_text() == ("said\n", "wrong\n")
    assert someone.run("rm", "-r", str(results)).returncode == 0


def test_inputs_and_a_private_stdin(someone: Someone, root: Path, runtime: str) -> None:
    for name in ("ro", "rw"):
        someone.run("sh", "-c", f"mkdir {name}; echo {name} >{name}/f; chmod 0600 {name}/f")
    inputs = [
        {"source": str(someone.folder / "ro"), "target": "/ro"},
        {"source": str(someone.folder / "rw"), "target": "/rw", "read_only": False},
    ]
    fields = {"inputs": inputs, "stdin_file": str(someone.folder / "ro" / "f")}
    script = "cat /ro/f /rw/f /dev/stdin; echo new >/rw/f; (echo x >/ro/f) 2>/dev/null || echo kept"
    (result,) = someone.does(runtime, ("run", request(root, "sh", "-c", script, **fields)))
    assert result["stdout"] == "ro\nrw\nro\nkept\n", result
    assert (someone.folder / "ro" / "f").read_text() == "ro\n"
    assert (someone.folder / "rw" / "f").read_text() == "new\n"


def test_the_hosts_network(someone: Someone, root: Path, runtime: str) -> None:
    script = "[ -e /sys/class/net/lo ] && echo lo; ls /sys/fs /sys/kernel | grep -v : ; ls /sys/fs/cgroup 2>/dev/null"
    (result,) = someone.does(runtime, ("run", request(root, "sh", "-c", script, network="host")))
    assert result["stdout"].split()[:1] == ["lo"], result
    assert not {"uevent_helper", "profiling", "unified", "memory"} & set(result["stdout"].split())


def test_a_tree_of_roots_own_can_be_used(someone: Someone, root: Path, runtime: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("takes root to make")
    subprocess.run(["chown", "-R", "-h", "root:root", str(root)], check=True)
    script = (
        "echo t >/tmp/new && echo e >/etc/new && cat /tmp/new /etc/new; (echo x >/etc/passwd) 2>/dev/null || echo no"
    )
    (result,) = someone.does(runtime, ("run", request(root, "sh", "-c", script)))
    assert result["stdout"] == "t\ne\nno\n", result


def test_a_user_without_an_id_is_refused(someone: Someone, root: Path, runtime: str) -> None:
    (refused,) = someone.does(runtime, ("run", request(root, "id", params={"user": "70000000"})))
    assert refused["error"] == "StartFailed"
    assert "70000000" in refused["message"]
    assert "/etc/subuid" in refused["mend"]


def test_limits_without_a_delegated_cgroup(someone: Someone, root: Path, runtime: str) -> None:
    (probe,) = someone.does(runtime, ("probe", "oci"))
    assert probe["usable"], probe
    if "memory" in probe["capabilities"]:
        pytest.skip("a control group is delegated to this user")
    assert not {"cpu", "memory", "pids", "disk", "pause", "stats", "oom_detection"} & set(probe["capabilities"])
    assert "No control group is delegated" in probe["mend"]
    named = request(root, "true", resources={"memory": "64MiB"})
    refused, result, info = someone.does(runtime, ("run", named), ("run", request(root, "true")), ("inspect", "e"))
    assert refused["error"] == "NotSupported"
    assert "unenforced=('memory',)" in refused["mend"]
    assert "delegated" in refused["mend"]
    assert (result["exit_code"], sorted(info["unenforced"])) == (0, ["memory", "pids"])
    strict = {"read_roots": [str(someone.folder)]}
    (refused,) = someone.does(runtime, ("run", request(root, "true", execution_id="f")), policy=strict)
    assert (refused["error"], "its default" in refused["message"]) == ("NotSupported", True)
    lenient = {**strict, "unenforced": ["memory", "pids"]}
    (result,) = someone.does(runtime, ("run", {**named, "execution_id": "g"}), policy={**lenient})
    assert result["exit_code"] == 0


def test_the_disk_takes_root(someone: Someone, root: Path) -> None:
    (refused,) = someone.does("crun", ("run", request(root, "true", resources={"disk": "8MiB"})))
    assert (refused["error"], "a loop device takes root" in refused["message"]) == ("NotSupported", True)


def test_runsc_takes_root(someone: Someone, root: Path) -> None:
    runtime = someone.folder / "runsc"
    runtime.write_text("#!/bin/sh\nexit 0\n")
    runtime.chmod(0o755)
    probe, refused = someone.does(str(runtime), ("probe", "oci"), ("run", request(root, "true")))
    assert (probe["usable"], probe["problem"]) == (False, "the runtime runsc needs root here")
    assert (refused["error"], "crun or runc" in refused["mend"]) == ("EngineUnavailable", True), refused


@pytest.mark.parametrize("init", [True, False])
def test_a_killed_shim_takes_its_job_along(someone: Someone, root: Path, runtime: str, init: bool) -> None:
    asked = request(root, "sleep", "1000", init=init)
    steps = (("start", asked), ("inspect", "e"), ("kill shim", "e"), ("wait", "e"), ("remove", "e"))
    answers = someone.does(runtime, *steps)
    assert (answers[3]["status"], answers[3]["reason"]) == ("failed", "engine_lost")
    assert answers[4] is None
    assert list((someone.folder / "state" / "executions").iterdir()) == []
    assert strays(answers[1]["engine_ids"]["container"]) == []


def test_it_outlives_its_caller_and_is_cancelled_by_another(someone: Someone, root: Path) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    started = someone.cli("run", "-d", "--id", "e", f"rootfs:{root}", "sh", "-c", script)
    assert started.returncode == 0, started.stderr
    end = time.monotonic() + 60
    while "ready" not in someone.cli("logs", "e").stdout:
        assert time.monotonic() < end
    assert someone.cli("cancel", "e").returncode == 0
    assert someone.cli("logs", "e").stdout == "ready\nbye\n"
    assert left(someone) == []


def test_the_command_line(someone: Someone, root: Path) -> None:
    done = someone.cli("run", f"rootfs:{root}", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert "oci" in someone.cli("engines").stdout
    lacking = someone.cli("run", f"rootfs:{root}", "no-such-program")
    assert lacking.returncode == 127
    assert left(someone) == []


def test_an_image_whose_files_are_of_many(someone: Someone, layout: Layout) -> None:
    if not all(shutil.which(name) for name in ("umoci", "skopeo")):
        pytest.skip("no umoci or no skopeo: apt-get install umoci skopeo")
    extra = [tarfile.TarInfo("home/app"), tarfile.TarInfo("home/app/file"), tarfile.TarInfo("home/app/deep")]
    for info in extra:
        info.uid, info.gid, info.mode = 1000, 1001, 0o700
    extra[0].type = extra[2].type = tarfile.DIRTYPE
    made = layout({"Cmd": ["sh"]}, extra=extra)
    image = someone.folder / "image"
    shutil.copytree(made, image)
    spec = {"type": "oci", "params": {"image": f"oci:{image}", "user": "app"}}
    spec["params"]["cmd"] = ["sh", "-c", "id -u; echo x >/home/app/file && cat /home/app/file"]
    asked = {"job_id": "j", "execution_id": "e", "engine_spec": spec}
    again = {**asked, "execution_id": "f"}
    first, second = someone.does("crun", ("run", asked), ("run", again))
    assert (first["stdout"], second["stdout"]) == ("1000\nx\n", "1000\nx\n"), first
    file = next((someone.folder / "state" / "images").glob("*/rootfs/home"))
    owner = (file / "app").stat().st_uid
    assert owner not in (0, 1000, someone.uid)
    assert list((someone.folder / "state" / "images" / "tmp").iterdir()) == []
    assert left(someone) == []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of files: `etc/subuid`, `sys/user/max_user_namespaces`, ..., and programs in `bin`."""
    for name in ("etc", "sys/user", "sys/kernel", "bin"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("newuidmap", "newgidmap"):
        (tmp_path / "bin" / name).write_text("")
        (tmp_path / "bin" / name).chmod(0o4755)
    for name in ("subuid", "subgid"):
        (tmp_path / "etc" / name).write_text(f"# ours\n{os.getuid()}:100000:65536\nother:1:1\n")
    (tmp_path / "sys" / "user" / "max_user_namespaces").write_text("1000\n")
    monkeypatch.setattr(rootless, "_ETC", str(tmp_path / "etc"))
    monkeypatch.setattr(rootless, "_PROC_SYS", str(tmp_path / "sys"))
    monkeypatch.setattr(rootless, "SEARCH_PATH", str(tmp_path / "bin"))
    return tmp_path


def test_nothing_is_missing(machine: Path) -> None:
    found = rootless.find_rootless()
    assert found.uid_map == f"0 {os.getuid()} 1 1 100000 65536"
    assert found.ids == 65537


def test_ranges_in_several_lines(machine: Path) -> None:
    (machine / "etc" / "subuid").write_text(f"{os.getuid()}:100000:1000\n{os.getuid()}:500000:65536\nbroken\n")
    assert rootless.find_rootless().uid_map == f"0 {os.getuid()} 1 1 100000 1000 1001 500000 65536"


@pytest.mark.parametrize(
    ("file", "text", "problem", "mend"),
    [
        ("etc/subuid", "", "no ids in .*subuid", "usermod --add-subuids"),
        ("etc/subgid", None, "no ids in .*subgid", "usermod --add-subgids"),
        ("etc/subuid", "ME:100000:1000\n", "too few ids", "usermod --add-subuids"),
        ("bin/newuidmap", None, "newuidmap is not installed", "apt-get install uidmap"),
        ("sys/user/max_user_namespaces", "0\n", "switched off", "sysctl -w user.max_user_namespaces="),
        ("sys/kernel/unprivileged_userns_clone", "0\n", "switched off", "kernel.unprivileged_userns_clone=1"),
    ],
)
def test_each_missing_thing_tells_its_mend(machine: Path, file: str, text: str | None, problem: str, mend: str) -> None:
    if text is None:
        (machine / file).unlink()
    else:
        (machine / file).write_text(text.replace("ME", str(os.getuid())))
    with pytest.raises(EngineUnavailable, match=problem) as caught:
        rootless.find_rootless()
    assert mend in caught.value.mend


def test_a_helper_without_its_bit(machine: Path) -> None:
    (machine / "bin" / "newgidmap").chmod(0o755)
    with pytest.raises(EngineUnavailable, match="neither set-user-id") as caught:
        rootless.find_rootless()
    assert "chmod u+s" in caught.value.mend


def test_a_kernel_too_old(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = os.uname_result(("Linux", "host", "5.10.0-28-amd64", "#1", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: old)
    with pytest.raises(EngineUnavailable, match=r"5\.10\.0") as caught:
        rootless.find_rootless()
    assert "5.11" in caught.value.mend


@pytest.mark.parametrize(("value", "mend"), [("1", "apparmor_restrict_unprivileged_userns=0"), ("0", "seccomp")])
def test_apparmor_is_named_where_it_is_on(machine: Path, value: str, mend: str) -> None:
    (machine / "sys" / "kernel" / "apparmor_restrict_unprivileged_userns").write_text(value)
    assert mend in rootless.why_no_namespace("mount: permission denied").mend


def test_engines_says_what_is_missing(someone: Someone) -> None:
    if os.geteuid() != 0:
        pytest.skip("takes root to take the ranges away")
    ranges = [line.split(":")[1:] for line in Path("/etc/subuid").read_text().splitlines() if someone.name in line]
    span = f"{ranges[0][0]}-{int(ranges[0][0]) + int(ranges[0][1]) - 1}"
    subprocess.run(["usermod", "--del-subuids", span, someone.name], check=True)
    try:
        told = someone.cli("engines").stdout
        assert f"oci: {someone.name} has no ids in /etc/subuid" in told
        assert "usermod --add-subuids" in told
    finally:
        subprocess.run(["usermod", "--add-subuids", span, someone.name], check=True)
