"""Compiles the programs of `native/`. The one place that knows their sources; the build hook and the tests use it.

python native/build.py OUTPUT [--sanitize] [--fuzz]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

NATIVE = Path(__file__).resolve().parent

SHARED = ["sys.c", "frame.c"]
PROGRAMS: dict[str, list[str]] = {
    "dms-shim": [
        *SHARED,
        *("shim_main.c", "run.c", "life.c", "end.c", "report.c", "config.c", "clients.c", "streams.c", "job.c"),
        *("log.c", "record.c", "json.c", "usage.c", "timers.c", "complain.c", "mounts.c", "idmap.c", "loopdev.c"),
        *("provision.c", "devnodes.c", "detach.c", "userns.c", "network.c", "netspace.c", "tether.c", "keeper.c"),
        *("session.c", "open.c", "input.c", "suspend.c", "log_past.c"),
        *("files.c", "look.c", "pack.c", "links.c", "clear.c", "attempt.c", "unpack.c", "extents.c"),
        *("tar_read.c", "tar_write.c"),
    ],
    "dms-init": [
        *SHARED,
        *("init.c", "scripts.c", "search.c", "seccomp.c", "terminal.c", "reportfile.c", "usage.c"),
        *("options.c", "calling.c", "descendants.c", "console.c"),
        *("lines.c", "output.c", "passing.c", "sending.c", "handed.c", "standing.c", "errands.c", "deadline.c"),
    ],
    "dms-vm": [
        *SHARED,
        *("vm.c", "vm_out.c", "vm_clients.c", "vm_terminal.c", "vmm.c", "terminal.c"),
        *("vm_api.c", "vm_fire.c", "vm_options.c", "vm_raw.c", "vm_tap.c", "vm_way.c", "vm_warm.c"),
        *("vm_monitor.c", "vm_suspend.c", "vm_kept.c"),
    ],
    "dms-vm-exec": [*SHARED, "vm_exec.c", "vm_terminal.c", "terminal.c"],
    "dms-pod": [
        *SHARED,
        *("pod.c", "pod_begin.c", "guest_config.c", "guest_streams.c", "guest_link.c", "guest_modes.c", "files.c"),
        *("look.c", "pack.c", "clear.c", "attempt.c", "unpack.c", "links.c", "extents.c", "tar_read.c", "tar_write.c"),
    ],
    "dms-guest": [
        *SHARED,
        *("guest.c", "guest_config.c", "guest_link.c", "guest_root.c", "guest_job.c", "guest_limits.c"),
        *(
            "guest_session.c",
            "guest_streams.c",
            "guest_groups.c",
            "guest_files.c",
            "guest_modes.c",
            "guest_port.c",
            "guest_network.c",
            "guest_freeze.c",
            "guest_wake.c",
            "guest_outputs.c",
            "usage.c",
            "files.c",
            "look.c",
            "pack.c",
            "clear.c",
            "attempt.c",
            "unpack.c",
            "links.c",
            "extents.c",
            "tar_read.c",
            "tar_write.c",
        ),
    ],
}
FUZZ: dict[str, list[str]] = {
    "dms-fuzz": [*SHARED, "fuzz.c", "config.c", "usage.c", "json.c", "open.c", "guest_config.c"]
}

WARNINGS = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Werror"]
# musl's CMSG_NXTHDR compares a size with a difference.
WARNINGS += ["-Wno-sign-compare"]
RELEASE = ["-static", "-Os", "-fno-asynchronous-unwind-tables", "-ffunction-sections", "-Wl,--gc-sections", "-s"]
SANITIZE = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]

ARCHITECTURES = ("x86_64", "aarch64")


class BuildError(Exception):
    """No compiler, or the compiler refused."""


def architecture() -> str:
    """The architecture to build for: `DMS_EXECUTOR_ARCH`, else this machine's."""
    name = os.environ.get("DMS_EXECUTOR_ARCH") or platform.machine()
    if name not in ARCHITECTURES:
        raise BuildError(f"no build for {name}: DMS_EXECUTOR_ARCH takes {' or '.join(ARCHITECTURES)}")
    return name


def compiler() -> list[str]:
    """The command of a compiler that can link statically.

    zig is first, since it brings a libc and builds for every architecture alike.
    """
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture()}-linux-musl"]
    chosen = os.environ.get("DMS_EXECUTOR_CC")
    if chosen:
        return shlex.split(chosen)
    raise BuildError(
        "no compiler for dms-shim: install zig (pip install ziglang), or set DMS_EXECUTOR_CC to a C compiler that "
        "can link statically (for example musl-gcc)"
    )


def stamp(command: list[str], flags: list[str]) -> str:
    """What a build depends on, as one digest."""
    digest = hashlib.sha256(repr((command, flags, PROGRAMS)).encode())
    for path in sorted([*NATIVE.glob("*.c"), *NATIVE.glob("*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def compile_program(command: list[str], flags: list[str], sources: list[str], output: Path) -> None:
    """Compiles one program under a temporary name and renames it into place."""
    temporary = output.with_name(output.name + ".new")
    paths = [str(NATIVE / source) for source in sources]
    done = subprocess.run([*command, *WARNINGS, *flags, *paths, "-o", str(temporary)], capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"{shlex.join(command)} could not build {output.name}:\n{done.stderr}")
    temporary.chmod(0o755)
    temporary.replace(output)


def build(folder: Path, *, sanitize: bool = False, fuzz: bool = False) -> list[Path]:
    """Builds all programs into `folder`, unless they are there and their sources unchanged."""
    command = ["gcc"] if sanitize or fuzz else compiler()
    flags = SANITIZE if sanitize or fuzz else RELEASE
    programs = FUZZ if fuzz else PROGRAMS
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [folder / name for name in programs]
    digest = stamp(command, flags)
    mark = NATIVE / "build" / (hashlib.sha256(os.fsencode(outputs[0].resolve())).hexdigest()[:16] + ".stamp")
    mark.parent.mkdir(exist_ok=True)
    if mark.exists() and mark.read_text() == digest and all(output.exists() for output in outputs):
        return outputs
    sanitizer = ["sanitize.c"] if sanitize or fuzz else []
    for output, sources in zip(outputs, programs.values(), strict=True):
        compile_program(command, flags, [*sources, *sanitizer], output)
    mark.write_text(digest)
    return outputs


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compiles dms-shim, dms-init, dms-vm and dms-guest.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--sanitize", action="store_true", help="with gcc and its address and undefined sanitizers")
    parser.add_argument("--fuzz", action="store_true", help="the parsers' fuzz target, with the same sanitizers")
    chosen = parser.parse_args()
    try:
        outputs = build(chosen.output, sanitize=chosen.sanitize, fuzz=chosen.fuzz)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(*outputs, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
