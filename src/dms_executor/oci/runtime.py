"""crun or runc: which one, how it is called, and what it complained about.

`run --detach` starts the container and exits, so that no process of the runtime stays in memory; the job's pid 1 is
reparented to the shim, a subreaper. `delete` is not needed: the shim removes the cgroups, `destroy` the folders.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import msgspec

from ..errors import EngineUnavailable
from ..supervisor import tether
from .cgroups import Cgroups
from .spec import OciSettings

__all__ = ["Runtime", "choose", "complaint", "last_words", "run_argv", "start_failure", "version_of"]

Flavour = Literal["crun", "runc"]
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": SEARCH_PATH, "LC_ALL": "C"}
_VERSION_DEADLINE = 5.0
_COMPLAINT = 4096


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """`why` says why it was taken."""

    flavour: Flavour
    path: str
    why: str

    def umounts(self, cgroups: Cgroups) -> list[str]:
        """What has to be out of its sight in the shim's mount namespace.

        crun refuses a version 2 hierarchy beside version 1 ("cgroups in hybrid mode not supported").
        """
        return list(cgroups.unified_mounts) if self.flavour == "crun" else []


def choose(settings: OciSettings) -> Runtime:
    """crun where it is installed, since it takes a third of runc's time. Raises `EngineUnavailable`. Blocks."""
    wanted = settings.runtime
    if wanted is None:
        return _first_installed()
    path = wanted if wanted.startswith("/") else shutil.which(wanted, path=SEARCH_PATH)
    if path is None or not os.access(path, os.X_OK):
        raise EngineUnavailable(f"the runtime {wanted!r} is not installed", mend=f"apt-get install {Path(wanted).name}")
    name = Path(path).name
    return Runtime(flavour="crun" if "crun" in name else "runc", path=path, why="the settings name it")


def _first_installed() -> Runtime:
    crun, runc = (shutil.which(name, path=SEARCH_PATH) for name in ("crun", "runc"))
    if crun is not None:
        return Runtime(flavour="crun", path=crun, why="crun is installed, and the faster one")
    if runc is not None:
        return Runtime(flavour="runc", path=runc, why="runc is installed, crun is not")
    raise EngineUnavailable("neither crun nor runc is installed", mend="apt-get install crun")


def run_argv(runtime: Runtime, folder: Path, token: str, preserved: int) -> list[str]:
    """The command that the shim runs. `preserved`: how many descriptors from 3 on the job gets."""
    argv = [runtime.path, "--root", f"{folder}/runtime", "--log", f"{folder}/bundle/runtime.log"]
    argv += ["run", "--detach", "--bundle", f"{folder}/bundle", "--pid-file", f"{folder}/pid"]
    # A kernel keyring for each job costs a quota of few hundred: https://man7.org/linux/man-pages/man7/keyrings.7.html
    argv.append("--no-new-keyring")
    if preserved:
        argv += ["--preserve-fds", str(preserved)]
    return [*argv, token]


async def version_of(runtime: Runtime) -> str:
    """ "crun 1.8.1". Raises `EngineUnavailable`."""
    done = await tether.run([runtime.path, "--version"], environment=ENVIRONMENT, deadline=_VERSION_DEADLINE)
    first = done.stdout.decode("utf-8", "replace").partition("\n")[0]
    if done.code != 0 or " version " not in first:
        raise EngineUnavailable(f"{runtime.path} --version fails", mend=f"Reinstall it: {done.stderr[:200]!r}")
    return first.replace(" version ", " ").strip()


def complaint(folder: Path) -> str:
    """What the runtime wrote to its log, on one line; empty where it wrote nothing. Blocks."""
    try:
        with open(folder / "bundle" / "runtime.log", "rb") as file:
            text = file.read(_COMPLAINT).decode("utf-8", "replace")
    except OSError:
        return ""
    # runc: time="..." level=error msg="..."; crun: time and the message.
    lines = [line for line in text.splitlines() if "level=warning" not in line and "level=info" not in line]
    return " | ".join(_message(line) for line in lines if line.strip())


def last_words(folder: Path) -> str:
    """What shim and runtime complained about, as the end of a sentence. Blocks."""
    try:
        text = (folder / "shim.log").read_bytes()[-1000:].decode("utf-8", "replace").strip()
    except OSError:
        text = ""
    said = " | ".join(part for part in (text.replace("\n", " | "), complaint(folder)) if part)
    return f": {said}" if said else ""


def start_failure(message: str, said: str) -> str:
    """What the shim said, with what the runtime said beside it."""
    return f"{message}: {said}" if said and said not in message else message


def _message(line: str) -> str:
    _, separator, message = line.partition(' msg="')
    if separator:
        return message.rstrip().removesuffix('"').replace('\\"', '"')
    stamp, _, rest = line.partition(": ")
    return rest if stamp[:4].isdecimal() and rest else line
