"""The user namespace of a job: whether it can have one here, and what was applied.

Root in the job is an unprivileged id of the host. The image and the volumes are id-mapped mounts, so that their files
have the same owners inside as outside. https://man7.org/linux/man-pages/man7/user_namespaces.7.html
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from ..errors import EngineUnavailable, ExecutorError, NotSupported, StartFailed
from ..images.users import User
from .idranges import COUNT, FIRST, RANGES

__all__ = ["Unmapped", "Userns", "check_host", "check_user", "problem_of_host", "refusal", "unmapped"]

_LEAST_KERNEL = (5, 19)  # id-mapped layers of an overlay
_REFUSED = "cannot id-map"  # docs/protocol.md, section 2, how a shim's FAILED begins then
_MEND = "Mend it, or open the executor with the setting userns 'auto' or 'off' of the engine oci"
_EMPTY = re.compile("/sys/(fs|kernel|hypervisor)/|/proc/(sys/fs/binfmt_misc|fs/nfsd)( |$)")


class Userns(msgspec.Struct, frozen=True, kw_only=True):
    """What a job has: a range from `first` on, or none; then `why`."""

    first: int | None = None
    why: str = ""

    @property
    def told(self) -> str:
        """For `inspect`."""
        return "host" if self.first is None else f"{self.first}+{COUNT}"


class Unmapped(StartFailed):
    """Something of this execution cannot be id-mapped."""


def unmapped(error: StartFailed) -> bool:
    """It fails because of the user namespace, and not for another reason."""
    return isinstance(error, Unmapped) or error.message.startswith(_REFUSED)


def check_host(setting: str, problem: str) -> None:
    """Raises `EngineUnavailable` where each job must have one and none can."""
    if setting == "required" and problem:
        raise EngineUnavailable(f"no job can have a user namespace here: {problem}", mend=_MEND)


def refusal(why: str) -> ExecutorError:
    """For userns 'required', where this one execution cannot."""
    return NotSupported(f"engine oci cannot give a user namespace: {why}", engine="oci", what="userns", mend=_MEND)


def check_user(user: User) -> None:
    """Raises `Unmapped`."""
    highest = max(user.uid, user.gid, *user.groups)
    if highest >= COUNT:
        raise Unmapped(f"the user's id {highest} is not below {COUNT}")


def problem_of_host() -> str:
    """Why no job can have a user namespace here; empty where nothing speaks against it. Blocks."""
    try:
        return _problem_of_kernel() or _problem_of_ids() or _problem_of_mounts()
    except (OSError, ValueError) as error:
        return f"it cannot be found out: {error}"


def _problem_of_kernel() -> str:
    release = os.uname().release
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _LEAST_KERNEL:
        return f"Linux {release} has no id-mapped layers of overlays: use 5.19 or newer"
    most = Path("/proc/sys/user/max_user_namespaces")
    if not most.exists() or int(most.read_text()) == 0:
        return "user namespaces are switched off: sysctl -w user.max_user_namespaces=10000 switches them on"
    return ""


def _problem_of_ids() -> str:
    last = FIRST + RANGES * COUNT - 1
    for name in ("uid_map", "gid_map"):
        lines = [line.split() for line in Path(f"/proc/self/{name}").read_text().splitlines()]
        ranges = [(int(line[0]), int(line[0]) + int(line[2])) for line in lines]
        if not any(begin <= FIRST and end > last for begin, end in ranges):
            return f"this process is in a user namespace that has too few ids: it takes {FIRST} to {last}"
    return ""


def _problem_of_mounts() -> str:
    """A new /proc or /sys takes one of which all is seen (`mount_too_revealing` of the kernel's fs/namespace.c)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        place = fields[4]
        if place.startswith(("/proc/", "/sys/")) and not _EMPTY.match(place):
            return f"{place} is masked here: start the container around us with an unmasked /proc and /sys"
        if place == "/proc" and "ro" in fields[5].split(","):
            return "/proc is read-only here: mount -o remount,rw /proc"
    return ""
