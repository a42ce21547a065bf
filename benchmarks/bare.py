"""The bare runtime's own `run` of the bundle that this package makes, as the peer to measure against."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from failed import Failed
from spawner import spawn

HYBRID = Path("/sys/fs/cgroup/unified")


class Bare:
    """`RUNTIME run` of a bundle: same mounts, limits and namespaces, no shim, no init, overlay by a small C helper.

    `enter`: the words before it all by which an ordinary user becomes root of a user namespace.
    """

    def __init__(
        self,
        runtime: str,
        rootfs: Path,
        config: dict,
        scratch: Path,
        options: tuple[str, ...] = (),
        enter: Sequence[str] = (),
    ) -> None:
        self.command = [shutil.which(runtime) or runtime, *options]
        self.enter = list(enter)
        if enter:
            self.command += ["--root", str(scratch / "runtime")]
        self.detach = str(HYBRID) if Path(runtime).name == "crun" and HYBRID.is_dir() else "-"
        mappings = config["linux"].get("uidMappings", [])
        self.first_id = mappings[0]["hostID"] if mappings else 0
        self.rootfs = _given_to(rootfs, self.first_id, scratch)
        self.scratch = scratch
        scratch.chmod(0o711)  # the root of a user namespace walks through it
        self.numbers = itertools.count(1)  # several threads may launch at once
        self.config = config
        self.helper = scratch / "overlay_run"
        source = Path(__file__).with_name("overlay_run.c")
        subprocess.run(["cc", "-O2", "-o", str(self.helper), str(source)], check=True)

    def run(self) -> float:
        """One launch of the bundle's job to its end, its output read; seconds. What it leaves is cleaned unmeasured."""
        bundle, command = self._prepared([])
        began = time.perf_counter()
        output, code = spawn(command)
        took = time.perf_counter() - began
        if (code, output) != (0, b"hi\n"):
            raise Failed(f"the bare side failed: {code} {output!r}")
        _gone(bundle)
        return took

    def cancel(self) -> float:
        """`kill ID TERM` of a job that obeys, until the runtime's `run` has ended; seconds."""
        bundle, command = self._prepared(["bench", "obey"])
        with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as child:
            assert child.stdout is not None
            if child.stdout.read(3) != b"up\n":
                raise Failed("the bare side did not come up")
            began = time.perf_counter()
            # It sees no control groups that crun refuses: in the mount namespace of the run.
            enter = ["nsenter", f"--mount=/proc/{child.pid}/ns/mnt"]
            subprocess.run([*enter, *self.command, "kill", bundle.name, "TERM"], check=True)
            child.wait()
            took = time.perf_counter() - began
        _gone(bundle)
        return took

    def _prepared(self, args: list[str]) -> tuple[Path, list[str]]:
        """A bundle of its own, and the words that run it."""
        name = f"bare-{Path(self.command[0]).name}-{os.getpid()}-{next(self.numbers)}"
        bundle = self.scratch / name
        (bundle / "merged").mkdir(parents=True)
        bundle.chmod(0o711)
        config = {**self.config, "root": {"path": str(bundle / "merged"), "readonly": False}}
        if args:
            config["process"] = {**config["process"], "args": args}
        if "cgroupsPath" in config["linux"]:
            config["linux"] = {**config["linux"], "cgroupsPath": f"/dms-executor-bench/{name}"}
        (bundle / "config.json").write_text(json.dumps(config))
        layers = [str(self.rootfs), str(bundle / "upper"), str(bundle / "work"), str(bundle / "merged")]
        helper = [str(self.helper), *layers, str(self.first_id), self.detach]
        return bundle, [*self.enter, *helper, *self.command, "run", "--bundle", str(bundle), name]


def _gone(bundle: Path) -> None:
    # An overlay's work folder has mode 0.
    (bundle / "work" / "work").chmod(0o700)
    shutil.rmtree(bundle)


def _given_to(rootfs: Path, first_id: int, scratch: Path) -> Path:
    """The root as the bare runtime can use it in a user namespace: a copy that belongs to the namespace's root."""
    if first_id == 0:
        return rootfs
    copy = scratch / f"root-{first_id}"
    if not copy.exists():
        subprocess.run(["cp", "-a", str(rootfs), str(copy)], check=True)
        subprocess.run(["chown", "-hR", f"{first_id}:{first_id}", str(copy)], check=True)
    return copy


def bare_config(config: dict, bundle_files: Path) -> dict:
    """A config.json of this package as the bare runtime can run it: no init, nothing of the shim's room."""
    mounts = []
    room = Path(config["root"]["path"]).parent
    for mount in config["mounts"]:
        source = mount["source"]
        if source == f"{room}/init":
            continue
        if source.startswith(f"{room}/bundle/"):
            mount = {**mount, "source": str(bundle_files / Path(source).name)}
        mounts.append(mount)
    return {**config, "process": {**config["process"], "args": ["echo", "hi"]}, "mounts": mounts}
