"""Boots the host that `build` made, runs one command in it, brings back its output, report and exit code.

The checkout goes in as a tar on a disk (what git would commit of it, the two compiled programs, and what
`brought` names), the root image is written to a throwaway layer, the folder `out` is shared by 9p.
The host has no network. See docs/host.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

# A script runs from its own folder, a test imports the package.
if __package__:
    from . import machines
    from .brought import brought, variables
else:
    import machines
    from brought import brought, variables

ROOT = Path(__file__).parents[2]
OUT_OF_TIME = 124  # like timeout(1)
NO_ANSWER = 125
_PROBE_SECONDS = 15.0
_SLOW = {"tcg", "uml"}
_TEST_SECONDS = 1800  # pytest's limit of one test where all is emulated


def main() -> int:
    arguments = parsed(sys.argv[1:])
    cache = Path(arguments.cache)
    if not arguments.command:
        return 0
    out = Path(arguments.out or tempfile.mkdtemp(prefix="dms-executor-host."))
    out.mkdir(parents=True, exist_ok=True)
    accel = os.environ.get("DMS_EXECUTOR_HOST_ACCEL") or _accelerator(cache, arguments.light)
    words = command_of(arguments.command, accel, arguments.processes)
    (out / "command").write_bytes(_joined(words))
    (out / "environment").write_bytes(_joined(_variables(accel)))
    (out / "user").write_text(arguments.user)
    (out / "init").write_text("systemd" if arguments.systemd else "inside")
    (out / "exit").unlink(missing_ok=True)
    _write_metadata(out / "site")
    with tempfile.TemporaryDirectory(prefix="dms-executor-host.") as scratch:
        checkout = Path(scratch) / "checkout.tar"
        _pack(checkout)
        began = time.monotonic()
        if accel == "uml":
            machine = machines.uml(cache, checkout, out, Path(scratch))
        else:
            machine = machines.qemu(cache, accel, checkout, out)
        ended = _run(machine, arguments.timeout, out / "output")
    print(f"host: {accel}, {time.monotonic() - began:.0f} s; report and logs: {out}", file=sys.stderr)
    if not ended:
        print(f"host: killed after {arguments.timeout:g} s", file=sys.stderr)
        return OUT_OF_TIME
    try:
        return int((out / "exit").read_text())
    except (FileNotFoundError, ValueError):
        print(f"host: ended without an exit code; its console:\n{_tail(out / 'console')}", file=sys.stderr)
        return NO_ANSWER


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """Options before the command are ours, all behind its first word is its own."""
    parser = argparse.ArgumentParser(prog="scripts/host")
    parser.add_argument("--cache", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--user", default="root", help="root, or guest: an ordinary user with a delegated cgroup")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds, for all of it")
    parser.add_argument("--out", help="where report and logs go; a new temporary folder")
    parser.add_argument("--processes", type=int, default=1, help="how many of pytest share the tests")
    parser.add_argument("--systemd", action="store_true", help="boot with systemd, D-Bus, logind and users' managers")
    parser.add_argument(
        "--light", action="store_true", help="where no KVM works, a kernel as a program: sooner, has less"
    )
    parser.add_argument("--build", action="store_true", help="only build")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args(words)
    if not arguments.command and not arguments.build:
        parser.error("a command is missing, e.g. pytest tests/oci")
    return arguments


def command_of(words: Sequence[str], accel: str, processes: int = 1) -> list[str]:
    """What is run in the host; pytest writes a report, and has its deadlines stretched where all is emulated."""
    if words[0] != "pytest":
        return list(words)
    # Python's own tracebacks: pytest parses sources for its own, in which Debian's 3.11.2 may end the whole session
    # (https://github.com/python/cpython/issues/106905).
    report = ["--junitxml=/run/report/junit.xml", "-p", "no:cacheprovider", "--tb=native"]
    slow = ["-p", "tests.host.slow"] if accel in _SLOW else []
    runner = ["pytest"] if processes == 1 else ["tests.host.shards", str(processes)]
    return ["python", "-m", *runner, *slow, *report, *words[1:]]


def _variables(accel: str) -> list[str]:
    """Ours go along, but those that are meant for this script; a test's limit of time fits an emulated machine."""
    chosen = {name: value for name, value in os.environ.items() if name.startswith("DMS_EXECUTOR_")}
    chosen = {name: value for name, value in chosen.items() if not name.startswith("DMS_EXECUTOR_HOST")}
    chosen |= variables(brought(), kvm=accel != "uml")
    if accel in _SLOW:
        chosen["PYTEST_TIMEOUT"] = str(_TEST_SECONDS)
        chosen.setdefault("DMS_EXECUTOR_SLOW", "10")
        # It doubles what each test takes here, and is on in every run outside.
        chosen["PYTHONASYNCIODEBUG"] = ""
    return [f"{name}={value}" for name, value in chosen.items()] + ["COLUMNS=150", "NO_COLOR=1"]


def _joined(words: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _write_metadata(site: Path) -> None:
    """The checkout as an installed package: a path, and the entry points by which the engines are found."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = site / f"dms_executor-{project['version']}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (site / "dms_executor.pth").write_text("/checkout/src\n")
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dms-executor\nVersion: {project['version']}\n")
    groups = {**project["entry-points"], "console_scripts": project["scripts"]}
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in groups.items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines))


def _pack(target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    names = [os.fsdecode(name) for name in listed.split(b"\0") if name] + ["src/dms_executor/bin"]
    with tarfile.open(target, "w") as archive:
        for name in sorted(set(names)):
            if os.path.lexists(ROOT / name):
                archive.add(ROOT / name, arcname=name, filter=_as_root)
        for name, path in brought().items():
            archive.add(path, arcname=name, filter=_as_root)


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    return entry


def _accelerator(cache: Path, light: bool) -> str:
    """KVM where it really boots a guest; else, where little is needed, a kernel as a program. Asked once a boot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = cache / "accel"
    if not known.exists() or known.read_text().split()[:1] != [boot]:
        has_kvm = os.access("/dev/kvm", os.R_OK | os.W_OK) and _boots(cache, "kvm")
        found = ["kvm", "kvm"] if has_kvm else ["tcg", "uml" if _boots(cache, "uml") else "tcg"]
        written = known.with_suffix(f".{os.getpid()}")
        written.write_text(" ".join([boot, *found]))
        written.rename(known)
    return known.read_text().split()[2 if light else 1]


def _boots(cache: Path, accel: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="dms-executor-host.") as scratch:
        console = Path(scratch) / "console"
        if accel == "kvm":
            words = machines.bare(cache, "kvm", f"{machines.KERNEL} host.probe", "512", 1, console)
        else:
            words = machines.uml_bare(cache, "512", console, Path(scratch), "host.probe")
        _run(words, _PROBE_SECONDS, Path(scratch) / "output", quiet=True)
        return console.exists() and b"host: up" in console.read_bytes()


def _run(words: Sequence[str], seconds: float, output: Path, quiet: bool = False) -> bool:
    """False where the time ran out. What the guest writes goes to our stdout as it comes, and to `output`."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    if process.stdout is None or process.stderr is None:
        raise RuntimeError("no pipes")
    late = threading.Event()

    def kill() -> None:
        # A kernel that is a program has helpers, which would keep its output open.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def kill_late() -> None:
        late.set()
        kill()

    def stop(signum: int, frame: object) -> None:
        kill()
        sys.exit(128 + signum)

    timer = threading.Timer(seconds, kill_late)
    complaints = threading.Thread(target=_copy, args=(process.stderr, sys.stderr.buffer if not quiet else None))
    before = signal.signal(signal.SIGTERM, stop)
    try:
        timer.start()
        complaints.start()
        with output.open("wb") as kept:
            _copy(process.stdout, sys.stdout.buffer if not quiet else None, kept)
        process.wait()
    finally:
        timer.cancel()
        kill()
        process.wait()
        complaints.join()
        signal.signal(signal.SIGTERM, before)
    return not late.is_set()


def _copy(source: IO[bytes], *targets: IO[bytes] | None) -> None:
    while data := os.read(source.fileno(), 1 << 16):
        for target in targets:
            if target is not None:
                target.write(data)
                target.flush()


def _tail(path: Path) -> str:
    if not path.exists():
        return "(nothing)"
    return path.read_bytes()[-3000:].decode(errors="replace")


if __name__ == "__main__":
    if shutil.which(machines.QEMU) is None:
        sys.exit(f"{machines.QEMU} is missing: apt-get install qemu-system-x86")
    sys.exit(main())
