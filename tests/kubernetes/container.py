"""A container of a pod as the stand-in has it: a process of this host in namespaces and a root of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from dms_executor.kubernetes.names import INIT, INIT_FOLDER, REPORT
from dms_executor.supervisor.binary import init_path

__all__ = ["Container"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INSIDE = ["unshare", "--pid", "--mount", "--uts", "--fork", "--kill-child=KILL", "--"]
# What a kubelet and a runtime make of a root; without its limits, its user and its seccomp filter.
_ROOT = f"""set -e
folder=$1 lower=$2 programs=$3 directory=$4 mounts=$5; shift 5
mount -t tmpfs tmpfs "$folder/mount"; cd "$folder/mount"; mkdir upper work root
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$PWD/upper,workdir=$PWD/work" root; cd root
mkdir -p proc sys dev tmp etc; hostname > etc/hostname
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs dev
mount -t tmpfs tmpfs sys; mkdir -p sys/fs/cgroup; mount --rbind /sys/fs/cgroup sys/fs/cgroup
for node in null zero full random urandom tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
mkdir dev/pts; mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts; ln -s pts/ptmx dev/ptmx
mkdir -m 1777 dev/shm
mkdir -m 755 .{INIT_FOLDER}; mount --bind "$programs" .{INIT_FOLDER}
while read -r how source target; do
    [ -n "$how" ] || continue
    if [ -d "$source" ]; then mkdir -p ".$target"; else mkdir -p ".$(dirname "$target")"; touch ".$target"; fi
    mount --bind "$source" ".$target"
    [ "$how" = rw ] || mount -o remount,bind,ro ".$target"
done <<END
$mounts
END
touch .{REPORT}; mount --bind "$folder/report" .{REPORT}
exec chroot . /bin/sh -c 'mkdir -p "$0"; cd "$0"; exec "$@"' "$directory" "$@"
"""


class Container:
    """The process, and the files that a node has of it. `lower`: what its root begins as."""

    def __init__(self, folder: Path, lower: Path) -> None:
        self.folder = folder
        self.lower = lower
        self.log, self.report = folder / "log", folder / "report"
        for path in (self.log, self.report):
            path.touch()
        self.report.chmod(0o666)
        (folder / "mount").mkdir()
        self.written = asyncio.Event()
        self.ended = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self.first = 0
        self._env: dict[str, str] = {}

    async def start(self, spec: dict[str, Any], volumes: dict[str, Path]) -> None:
        """Returns once its init is there to be talked to. `volumes`: the pod's folders, by name."""
        self._env = {"PATH": _PATH, **{e["name"]: e["value"].replace("$$", "$") for e in spec.get("env", [])}}
        words = [word.replace("$$", "$") for word in spec["command"]]
        programs = (await asyncio.to_thread(init_path)).parent
        mounts = await asyncio.to_thread(_mounts, spec["volumeMounts"], volumes)
        place = [str(self.folder), str(self.lower), str(programs), spec.get("workingDir", "/"), mounts]
        self.process = await asyncio.create_subprocess_exec(
            *_INSIDE, "sh", "-c", _ROOT, "sh", *place, *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=self._env,
        )  # fmt: skip
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while self.process.returncode is None and not self.first:
            # Its init's first word, or its own name where it has none: before it nobody is there to be talked to.
            found = (await asyncio.to_thread(_read, children)).split()
            there = found and await asyncio.to_thread(_read, Path(f"/proc/{found[0]}/cmdline"))
            if there and there.startswith(INIT) and (REPORT not in words or self.report.stat().st_size):
                self.first = int(found[0])
            else:
                await asyncio.sleep(0.005)

    async def execute(self, words: list[str], *, has_input: bool) -> asyncio.subprocess.Process:
        """A further process in it."""
        return await asyncio.create_subprocess_exec(
            *["nsenter", f"--target={self.first}", "--pid", "--mount", "--uts", "--root", "--wd", "--", *words],
            stdin=asyncio.subprocess.PIPE if has_input else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._env,
        )

    async def run(self) -> int:
        """To its end."""
        assert self.process is not None
        assert self.process.stdout is not None
        with self.log.open("ab") as log:
            while piece := await self.process.stdout.read(1 << 16):
                log.write(piece)
                log.flush()
                self.written.set()
        code = await self.process.wait()
        self.ended.set()
        return code if code >= 0 else 128 - code

    def end(self, grace: float) -> None:
        """As a kubelet does."""
        if self.process is None or self.process.returncode is not None or not self.first or not grace:
            self.kill()
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first, signal.SIGTERM)
        asyncio.get_running_loop().call_later(grace, self.kill)

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()


def _mounts(mounts: list[dict[str, Any]], volumes: dict[str, Path]) -> str:
    """A line each: how, what and where."""
    lines = []
    for mount in mounts:
        if mount["name"] in volumes:
            source = volumes[mount["name"]] / mount.get("subPath", ".")
            if not source.exists():
                source.mkdir(mode=0o777)
            lines.append(f"{'ro' if mount.get('readOnly') else 'rw'} {source} {mount['mountPath']}")
    return "\n".join(lines)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
