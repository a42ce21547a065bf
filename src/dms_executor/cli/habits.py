"""Habits of docker and podman: names that mean the same here, and a sentence for those that do not."""

from __future__ import annotations

__all__ = ["ALIASES", "nearest", "of_command", "of_option"]

ALIASES = {"stop": "cancel", "unpause": "resume", "image": "images", "ls": "ps", "list": "ps", "remove": "rm"}
"""Names that are understood and not listed."""

_COMMANDS = {
    "build": "Images are built elsewhere: buildah, or docker build, then `run docker-archive:FILE`",
    "commit": "A job's writable layer ends with it: bring files home with --output",
    "compose": "One job is one command; write several job files and `run -d -f` each",
    "container": "Leave out the word: `dms-executor ps`, `dms-executor rm`",
    "create": "There is no job that waits to be started: `dms-executor start` begins one",
    "diff": "Copy out what you want to compare: `dms-executor cp ID:PATH -`",
    "export": "`dms-executor cp ID:/ - > root.tar` while it runs",
    "history": "`skopeo inspect --config docker://NAME` shows how an image was made",
    "info": "`dms-executor engines` says what this machine can do",
    "load": "Name the archive: `dms-executor run docker-archive:FILE`",
    "login": "Credentials are those of `skopeo login`, `podman login` or `docker login`",
    "prune": "`dms-executor cleanup`, `dms-executor images prune`",
    "pull": "`dms-executor images pull NAME`; `run` pulls what is missing",
    "push": "Images are pushed elsewhere: `skopeo copy`, docker push",
    "rmi": "`dms-executor images rm NAME`",
    "rename": "An id is for ever: choose it with --id",
    "restart": "An execution runs once: `run` it again, with a new id",
    "system": "`dms-executor cleanup`, `dms-executor engines`",
    "top": "`dms-executor exec ID ps`",
    "update": "Limits are those of the request: `run` it again",
    "version": "`dms-executor --version`",
    "volume": "Mount folders: `run -v SRC:DST`",
}

_UNENFORCED = "A job has no capability but Docker's default ones"
_OPTIONS = {
    "--add-host": "Bind a hosts file: -v ./hosts:/etc/hosts:ro",
    "--cap-add": _UNENFORCED,
    "--cap-drop": "A user that is not root has none: -u 1000",
    "--dns": "Bind a resolv.conf: -v ./resolv.conf:/etc/resolv.conf:ro",
    "--filter": "Say --status, --label or --job-id",
    "--format": "Use --json, and jq",
    "--privileged": f"{_UNENFORCED}; a device is given with --device",
    "--restart": "An execution runs once; who watches it may `run` it again",
    "--security-opt": "seccomp, no_new_privileges and a user namespace are there always",
    "--shm-size": "Mount one: --tmpfs /dev/shm:SIZE",
    "--stop-timeout": "Said when it is cancelled: cancel --grace SECONDS",
    "--ulimit": "Limits are --memory, --cpus, --pids and --disk",
    "--userns": "A user namespace is made wherever it can be; `inspect` tells",
}


def of_command(name: str) -> str:
    """How a command of docker's that is not here is said here; empty for one that docker does not have either."""
    return _COMMANDS.get(name, "")


def of_option(name: str) -> str:
    """The same of an option."""
    return _OPTIONS.get(name, "")


def nearest(name: str, known: list[str]) -> str:
    """What may have been meant, as a sentence; empty where nothing is near."""
    from difflib import get_close_matches

    found = get_close_matches(name, known, n=1)
    return f"Did you mean `{found[0]}`?" if found else ""
