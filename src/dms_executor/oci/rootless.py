"""An ordinary user's way to containers: a user namespace in which the caller is root, and what it takes to make one.

Ids past root are the caller's ranges of `/etc/subuid` and `/etc/subgid`; `newuidmap` and `newgidmap`, set-user-id
programs of the package uidmap, alone have more rights than the caller's. All jobs of a caller share the map.
https://man7.org/linux/man-pages/man7/user_namespaces.7.html, https://man7.org/linux/man-pages/man5/subuid.5.html
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..errors import EngineUnavailable, StartFailed
from ..images.users import User
from ..programs import SEARCH_PATH
from ..supervisor import binary

__all__ = ["Rootless", "explained", "find_rootless", "room_of", "why_no_namespace"]

_LEAST_KERNEL = (5, 11)  # an overlay may be mounted in a user namespace
_LEAST_IDS = 65535  # beside root: with fewer, ids of usual images (nobody is 65534) have no place
_MOST_RANGES = 20  # native/userns.c
_OVERFLOW = 65534  # whom the kernel shows where an id has none: user_namespaces(7)
_PROC_SYS = "/proc/sys"
_ETC = "/etc"


class Rootless(msgspec.Struct, frozen=True, kw_only=True):
    """The two programs and their maps: words, three for each range (inside, outside, count); how many ids in all."""

    newuidmap: str
    newgidmap: str
    uid_map: str
    gid_map: str
    ids: int

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` as root of such a namespace. Blocks the first time."""
        return [binary.shim_path(), "userns", *self.maps, *argv]

    @property
    def maps(self) -> tuple[str, str, str, str]:
        """For the shim."""
        return self.newuidmap, self.newgidmap, self.uid_map, self.gid_map

    @property
    def told(self) -> str:
        """For `inspect`: who is root inside, and which ids of the host the others are."""
        words = self.uid_map.split()
        ranges = ",".join(f"{first}+{count}" for first, count in zip(words[1::3], words[2::3], strict=True))
        return f"rootless {ranges}"

    def knows(self, status: os.stat_result) -> bool:
        """Whether that file's owner and group have ids in the namespace."""
        return _maps(self.uid_map, status.st_uid) and _maps(self.gid_map, status.st_gid)

    def outside(self, user: User) -> tuple[int, set[int]]:
        """The host's ids of a user of a job and of its groups, as far as they have any."""
        gids = (_outside(self.gid_map, gid) for gid in (user.gid, *user.groups))
        uid = _outside(self.uid_map, user.uid)
        return _OVERFLOW if uid is None else uid, {gid for gid in gids if gid is not None}

    def check_user(self, user: User) -> None:
        """Raises `StartFailed` for ids that nobody has in the namespace."""
        highest = max(user.uid, user.gid, *user.groups)
        if highest >= self.ids:
            raise StartFailed(
                f"the user's id {highest} is not below {self.ids}: this user's ranges hold no more",
                mend="Take another user, or enlarge the ranges in /etc/subuid and /etc/subgid",
            )


def find_rootless() -> Rootless:
    """What an ordinary user needs. Raises `EngineUnavailable`, which tells how to mend it. Blocks."""
    _check_kernel()
    name = _name()
    programs = [_program(program) for program in ("newuidmap", "newgidmap")]
    uids = _ranges(f"{_ETC}/subuid", {name, str(os.getuid())}, name)
    gids = _ranges(f"{_ETC}/subgid", {name, str(os.getuid())}, name)
    return Rootless(
        newuidmap=programs[0],
        newgidmap=programs[1],
        uid_map=_map(os.geteuid(), uids),
        gid_map=_map(os.getegid(), gids),
        ids=1 + min(sum(count for _, count in uids), sum(count for _, count in gids)),
    )


def why_no_namespace(said: str) -> EngineUnavailable:
    """For a namespace that could not be made though nothing was missing: what the kernel has against it. Blocks."""
    if _number("kernel/apparmor_restrict_unprivileged_userns") == 1:
        return EngineUnavailable(
            f"AppArmor keeps this user from a user namespace of use ({said})",
            mend="As root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (and in /etc/sysctl.d, to last), "
            f"or give {binary.shim_path()} an AppArmor profile with `userns,`",
        )
    return EngineUnavailable(
        f"this user cannot enter a user namespace: {said}",
        mend="In a container: let its seccomp profile allow unshare and mount; else look at /proc/sys/user, `dmesg`",
    )


def explained(error: StartFailed) -> Exception:
    """A shim's failure at birth that is about the namespace, told with its mend; else the same. Blocks."""
    about = error.message.startswith(("cannot make a user namespace", "newuidmap failed", "newgidmap failed"))
    if about or _number("kernel/apparmor_restrict_unprivileged_userns") == 1:
        return why_no_namespace(error.message)
    return error


def room_of(state_dir: Path) -> str:
    """The folder on which an ordinary user's shims mount their tmpfs: the login's own, else one in the state folder."""
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    try:
        if runtime_dir.startswith("/") and Path(runtime_dir).stat().st_uid == os.geteuid():
            return f"{runtime_dir}/dms-executor"
    except OSError:
        pass  # set, and gone with the login that it was made for
    return str(state_dir.absolute() / "room")


def _check_kernel() -> None:
    release = os.uname().release
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _LEAST_KERNEL:
        raise EngineUnavailable(
            f"Linux {release} mounts no overlay for an ordinary user", mend="Take Linux 5.11 or newer, or run as root"
        )
    for name, mend in (
        ("user/max_user_namespaces", "sysctl -w user.max_user_namespaces=15000"),
        ("kernel/unprivileged_userns_clone", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ):
        if _number(name) == 0:
            raise EngineUnavailable(
                f"user namespaces are switched off ({name.replace('/', '.')}=0)",
                mend=f"As root: {mend} (and in /etc/sysctl.d, to last)",
            )


def _number(name: str) -> int | None:
    try:
        return int(Path(_PROC_SYS, name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # kernels differ in what they have


def _name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _program(name: str) -> str:
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise EngineUnavailable(f"{name} is not installed", mend="apt-get install uidmap (elsewhere: shadow-utils)")
    if not Path(found).stat().st_mode & 0o4000 and "security.capability" not in os.listxattr(found):
        raise EngineUnavailable(
            f"{found} is neither set-user-id nor has it capabilities", mend=f"As root: chmod u+s {found}"
        )
    return found


def _ranges(file: str, names: set[str], name: str) -> list[tuple[int, int]]:
    """First id and count of each."""
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    entries = [line.split(":") for line in lines]
    found = [
        (int(entry[1]), int(entry[2]))
        for entry in entries
        if len(entry) == 3 and entry[0] in names and entry[1].isdecimal() and entry[2].isdecimal() and int(entry[2])
    ][:_MOST_RANGES]
    if sum(count for _, count in found) < _LEAST_IDS:
        kind = "uids" if file.endswith("subuid") else "gids"
        raise EngineUnavailable(
            f"{name} has {'too few' if found else 'no'} ids in {file}",
            mend=f"As root: usermod --add-sub{kind} 100000-165535 {name} (a range that nobody else has there)",
        )
    return found


def _maps(words: str, outside: int) -> bool:
    numbers = [int(word) for word in words.split()]
    ranges = zip(numbers[1::3], numbers[2::3], strict=True)
    return any(first <= outside < first + count for first, count in ranges)


def _outside(words: str, inside: int) -> int | None:
    numbers = [int(word) for word in words.split()]
    for first, start, count in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
        if first <= inside < first + count:
            return start + inside - first
    return None


def _map(own: int, ranges: list[tuple[int, int]]) -> str:
    words = [0, own, 1]
    inside = 1
    for first, count in ranges:
        words += [inside, first, count]
        inside += count
    return " ".join(str(word) for word in words)
