"""The job's user: names resolved in the image's own `/etc/passwd` and `/etc/group`, as Docker does.

https://docs.docker.com/reference/dockerfile/#user; the files are the image's and so hostile: they are opened in the
root as their process would, bounded, and never executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from ..beneath import inside_root
from ..errors import StartFailed

__all__ = ["User", "resolve_account", "resolve_user"]

_LARGEST = 2**31 - 1  # what runc and crun take
_NUMBER = re.compile("[0-9]{1,10}", re.ASCII)


class User(msgspec.Struct, frozen=True, kw_only=True):
    """`home` is the passwd entry's, "/" without one."""

    uid: int = 0
    gid: int = 0
    groups: list[int] = []
    home: str = "/"


def resolve_user(root: int, text: str) -> User:
    """`text` is "", "user", "uid", "user:group" or "uid:gid", in the opened folder `root`. Raises `StartFailed`."""
    return resolve_account(inside_root(root, "/etc/passwd"), inside_root(root, "/etc/group"), text)


def resolve_account(passwd: bytes | None, group: bytes | None, text: str) -> User:
    """`resolve_user` by what these files hold; None: there is no such file."""
    wanted, separator, wanted_group = text.partition(":")
    accounts = list(_entries(passwd, 7))
    groups = list(_entries(group, 4))
    account = _account(accounts, wanted or "0")
    if account is None and not _NUMBER.fullmatch(wanted or "0"):
        raise StartFailed(
            f"the image has no user {wanted!r}", mend="Name a user of its /etc/passwd, or a number in params.user"
        )
    uid = _number(account[2] if account else wanted or "0", wanted)
    gid = _group(groups, wanted_group) if separator and wanted_group else _number(account[3], wanted) if account else 0
    # An explicit group replaces the supplementary ones, as in Docker.
    others = [] if separator and wanted_group else _supplementary(groups, account[0] if account else None, gid)
    return User(uid=uid, gid=gid, groups=others, home=(account[5] if account else "") or "/")


def _account(accounts: list[list[str]], wanted: str) -> list[str] | None:
    for entry in accounts:
        if entry[0] == wanted:
            return entry
    return next((entry for entry in accounts if _same_number(entry[2], wanted)), None)


def _group(groups: list[list[str]], wanted: str) -> int:
    for entry in groups:
        if entry[0] == wanted:
            return _number(entry[2], wanted)
    if not _NUMBER.fullmatch(wanted):
        raise StartFailed(
            f"the image has no group {wanted!r}", mend="Name a group of its /etc/group, or a number in params.user"
        )
    return _number(wanted, wanted)


def _supplementary(groups: list[list[str]], name: str | None, gid: int) -> list[int]:
    if name is None:
        return []
    found = {_number(entry[2], name) for entry in groups if name in entry[3].split(",")}
    return sorted(found - {gid})


def _number(text: str, wanted: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > _LARGEST:
        raise StartFailed(f"{wanted!r} has the id {text!r}, which is none", mend="Ids lie between 0 and 2^31-1")
    return int(text)


def _same_number(left: str, right: str) -> bool:
    return bool(_NUMBER.fullmatch(left) and _NUMBER.fullmatch(right)) and int(left) == int(right)


def _entries(data: bytes | None, fields: int) -> Iterator[list[str]]:
    for line in (data or b"").decode("utf-8", "replace").split("\n"):
        entry = line.split(":")
        if len(entry) >= fields and not line.startswith("#") and entry[0]:
            yield entry
