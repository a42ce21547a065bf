"""crun, runc or runsc: which one, how it is called, and what it complained about.

`run --detach` starts the container and exits, so that no process of the runtime stays in memory; the job's pid 1 is
reparented to the shim, a subreaper. `delete` is not needed: the shim removes the cgroups, `destroy` the folders.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..cgroups import Cgroups
from ..engine import Execution
from ..errors import EngineUnavailable, StartFailed
from ..programs import ENVIRONMENT, SEARCH_PATH
from ..supervisor import tether
from ..typed import known
from .flavours import CRUN, FLAVOURS, Flavour, flavour_of
from .spec import OciSettings

__all__ = [
    "Runtime",
    "choose",
    "complaint",
    "exec_argv",
    "last_words",
    "program",
    "run_argv",
    "start_failure",
    "state_folder",
    "tried",
    "version_of",
]

_VERSION_DEADLINE = 5.0
_TRIAL_DEADLINE = 20.0
_COMPLAINT = 4096
_MEND_START = "Check params: cmd, entrypoint, working_directory and user, and that the image has them"
_EXEC_ERRORS = (
    ("not found in $path", errno.ENOENT),
    ("no such file or directory", errno.ENOENT),
    ("permission denied", errno.EACCES),
    ("exec format error", errno.ENOEXEC),
    ("is a directory", errno.EISDIR),
)
_FIRST_PRESERVED = 3
_MERE = ("debug", "info", "warning")


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """`why` says why it was taken. `platform`: how runsc reaches the processor, where the settings say it."""

    flavour: Flavour
    path: str
    why: str
    platform: str | None = None

    def umounts(self, cgroups: Cgroups) -> list[str]:
        """What has to be out of its sight in the shim's mount namespace.

        crun refuses a version 2 hierarchy beside version 1 ("cgroups in hybrid mode not supported").
        """
        return list(cgroups.unified_mounts) if self.flavour.hides_unified else []


def choose(settings: OciSettings) -> Runtime:
    """crun where it is installed, since it takes a third of runc's time. Raises `EngineUnavailable`. Blocks."""
    wanted = settings.runtime
    if wanted is None:
        chosen = _first_installed()
    else:
        path = wanted if wanted.startswith("/") else shutil.which(wanted, path=SEARCH_PATH)
        flavour = flavour_of(Path(path or wanted).name)
        if path is None or not os.access(path, os.X_OK):
            raise EngineUnavailable(f"the runtime {wanted!r} is not installed", mend=flavour.mend)
        chosen = Runtime(flavour=flavour, path=path, why="the settings name it", platform=settings.platform)
    if settings.platform is not None and settings.platform not in chosen.flavour.platforms:
        raise EngineUnavailable(
            f"the setting platform is {settings.platform!r}, and {chosen.flavour.name} has no platforms",
            mend="Leave it out, or choose the runtime runsc",
        )
    return chosen


def _first_installed() -> Runtime:
    found = [(flavour, shutil.which(flavour.name, path=SEARCH_PATH)) for flavour in FLAVOURS]
    installed = [(flavour, path) for flavour, path in found if path is not None]
    if not installed:
        raise EngineUnavailable("none of crun, runc and runsc is installed", mend=CRUN.mend)
    flavour, path = installed[0]
    why = "crun is installed, and the fastest one" if flavour is CRUN else f"{flavour.name} is installed, crun is not"
    return Runtime(flavour=flavour, path=path, why=why)


def state_folder(runtime: Runtime, folder: Path, room: str) -> str:
    """Where the runtime keeps what it knows of the job."""
    return f"{room}/runtime" if runtime.flavour.keeps_state else f"{folder}/runtime"


def run_argv(
    runtime: Runtime, folder: Path, token: str, preserved: int, *, room: str, network: str, options: Sequence[str] = ()
) -> list[str]:
    """The command that the shim runs. `preserved`: how many descriptors the job gets; `options`: of this host."""
    flavour = runtime.flavour
    argv = [runtime.path, "--root", state_folder(runtime, folder, room), "--log", f"{folder}/bundle/runtime.log"]
    argv += [*flavour.options, *options]
    if runtime.platform is not None:
        argv += ["--platform", runtime.platform]
    if flavour.says_network:
        # "host": the socket calls are made in the namespace that the configuration names, be it the host's or not.
        argv += ["--network", "none" if network == "none" else "host"]
    argv += ["run", "--detach", "--bundle", f"{folder}/bundle", "--pid-file", f"{folder}/pid", *flavour.run_options]
    if flavour.pairs:
        for fd in range(_FIRST_PRESERVED, _FIRST_PRESERVED + preserved):
            argv += ["--pass-fd", f"{fd}:{fd}"]
    elif preserved:
        argv += ["--preserve-fds", str(preserved)]
    return [*argv, token]


def exec_argv(
    runtime: Runtime, folder: Path, token: str, preserved: int, *, room: str, options: Sequence[str] = ()
) -> list[str]:
    """The command by which the shim starts a process of a session; its description is the descriptor after those.

    Detached, so that the runtime ends and the init of the session becomes the shim's child.
    """
    argv = [runtime.path, "--root", state_folder(runtime, folder, room), *options, "exec", "--detach"]
    argv += ["--preserve-fds", str(preserved), "--process", f"/proc/self/fd/{_FIRST_PRESERVED + preserved}"]
    return [*argv, token]


def program(name: str) -> str:
    """The path of a host's program. Raises `EngineUnavailable`. Blocks."""
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise EngineUnavailable(f"{name} is not installed", mend=f"apt-get install {name}")
    return found


async def version_of(runtime: Runtime) -> str:
    """ "crun 1.8.1". Raises `EngineUnavailable`."""
    done = await tether.run([runtime.path, "--version"], environment=ENVIRONMENT, deadline=_VERSION_DEADLINE)
    first = done.stdout.decode("utf-8", "replace").partition("\n")[0]
    if done.code != 0 or " version " not in first:
        raise EngineUnavailable(f"{runtime.path} --version fails", mend=f"Reinstall it: {done.stderr[:200]!r}")
    await tried(runtime)
    return first.replace(" version ", " ").strip()


async def tried(runtime: Runtime) -> None:
    """Runs something, where it is in doubt that anything runs. Raises `EngineUnavailable`.

    A KVM that opens may still run no guest: the sandbox then spins for ever.
    """
    if runtime.platform not in runtime.flavour.doubtful:
        return
    # One that is killed leaves what it made there.
    folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="dms-executor-")
    argv = [runtime.path, "--root", folder, "--platform", str(runtime.platform), "--network", "none"]
    try:
        done = await tether.run(
            [*argv, "--ignore-cgroups", "do", "true"],
            environment={**ENVIRONMENT, "TMPDIR": folder},
            deadline=_TRIAL_DEADLINE,
        )
        said = "" if done.code == 0 else done.complaint or f"code {done.code}"
    except StartFailed:
        said = f"no answer in {_TRIAL_DEADLINE:g} s"
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)
    if said:
        raise EngineUnavailable(
            f"{runtime.flavour.name} cannot run anything on the platform {runtime.platform} here: {said}",
            mend="Leave the setting platform out, or run on a host whose KVM works",
        )


def complaint(folder: Path) -> str:
    """What the runtime wrote to its log, on one line; empty where it wrote nothing. Blocks."""
    try:
        with open(folder / "bundle" / "runtime.log", "rb") as file:
            text = file.read(_COMPLAINT).decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line for line in text.splitlines() if line.strip()]
    return " | ".join(said for line in lines if (said := _message(line)))


def last_words(folder: Path) -> str:
    """What shim and runtime complained about, as the end of a sentence. Blocks."""
    try:
        text = (folder / "shim.log").read_bytes()[-1000:].decode("utf-8", "replace").strip()
    except OSError:
        text = ""
    said = " | ".join(part for part in (text.replace("\n", " | "), complaint(folder)) if part)
    return f": {said}" if said else ""


def start_failure(error: StartFailed, said: str, x: Execution) -> StartFailed:
    """What the shim said, with what the runtime said beside it; and what execve(2) said of the job's command.

    With our init that is the init's word. Without it the runtime executes the command and says it in its own words.
    """
    message = f"{error.message}: {said}" if said and said not in error.message else error.message
    number = error.errno
    if number is None and not x.request.init and "exec" in said:
        number = next((found for words, found in _EXEC_ERRORS if words in said.casefold()), None)
    return StartFailed(message, errno=number, mend=_MEND_START, execution_id=x.id)


def _message(line: str) -> str:
    """What a line of the log complains about; empty for a mere warning. The file may hold anything.

    runc: `time="..." level=error msg="..."`; crun: time and the message; runsc: an object of JSON.
    """
    if line.startswith("{"):
        try:
            told = msgspec.json.decode(line, type=known(dict[str, str]))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return line
        return told.get("msg", line) if told.get("level") not in _MERE else ""
    if any(f"level={level}" in line for level in _MERE):
        return ""
    _, separator, message = line.partition(' msg="')
    if separator:
        return message.rstrip().removesuffix('"').replace('\\"', '"')
    stamp, _, rest = line.partition(": ")
    return rest if stamp[:4].isdecimal() and rest else line
