"""The job's process as Docker would make it: command, environment, user, working directory."""

from __future__ import annotations

from typing import Any

import msgspec

from ..capabilities import DEFAULT_CAPABILITIES
from ..images import ImageConfig, command_of
from ..images.job import directory_of, environment_of
from ..images.users import User
from ..types import ExecutionRequest
from .provision import FOLDER
from .spec import OciParams

__all__ = ["INIT", "PUBLIC", "Process", "capabilities_of", "process_of"]

# In the job's own /dev, a tmpfs, so that the image is not touched; a file of its top, so that any user can reach it.
INIT = "/dev/.dms-executor-init"
PUBLIC = "public.json"  # in the bundle: the configuration without the secrets, where it has some
_OPEN_FILES = (1024, 524288)  # soft and hard, as systemd has them


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """`argv` is the job's own, without our init."""

    argv: list[str]
    environment: dict[str, str]
    directory: str
    user: User
    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES

    def to_oci(
        self,
        *,
        filter_fd: int | None,
        init: bool,
        scripts_fd: int | None = None,
        processes: int | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> dict[str, Any]:
        """`process` of the runtime's configuration. `filter_fd`: the seccomp program, `scripts_fd`: for our init, too.

        `processes`: how many each user of the job may have, where no cgroup counts them. `terminal`: the size of the
        one that our init makes.
        """
        wrapper: list[str] = []
        if init:
            options = ["-t", "{}x{}".format(*terminal)] if terminal is not None else []
            options += ["-s", str(filter_fd)] if filter_fd is not None else []
            options += ["-p", str(scripts_fd), FOLDER] if scripts_fd is not None else []
            wrapper = [INIT, *options, "--"]
        return {
            "terminal": False,
            "user": {"uid": self.user.uid, "gid": self.user.gid, "additionalGids": self.user.groups, "umask": 0o22},
            "args": [*wrapper, *self.argv],
            "env": [f"{name}={value}" for name, value in self.environment.items()],
            "cwd": self.directory,
            "capabilities": capabilities_of(self.user.uid, self.capabilities),
            "rlimits": _rlimits(processes),
            "noNewPrivileges": True,
        }


def process_of(params: OciParams, image: ImageConfig, request: ExecutionRequest, user: User, hostname: str) -> Process:
    """Raises `StartFailed` where nobody names a command."""
    return Process(
        argv=command_of(image, params.entrypoint, params.cmd),
        environment=environment_of(params, image, request, user, hostname),
        directory=directory_of(params, image),
        user=user,
        # By raw frames it would walk around the routes that close link-local addresses to it.
        capabilities=tuple(c for c in DEFAULT_CAPABILITIES if c != "CAP_NET_RAW" or request.network != "user"),
    )


def capabilities_of(uid: int, most: tuple[str, ...]) -> dict[str, list[str]]:
    """All of `most` are root's, as Docker has it, and none is anybody else's."""
    bounding = list(most)
    if uid != 0:
        return {"bounding": bounding, "effective": [], "permitted": [], "inheritable": [], "ambient": []}
    return {"bounding": bounding, "effective": bounding, "permitted": bounding, "inheritable": [], "ambient": []}


def _rlimits(processes: int | None) -> list[dict[str, Any]]:
    import resource

    # Raising a hard limit takes CAP_SYS_RESOURCE, which a service may lack: only what this process may set.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = _OPEN_FILES[1] if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES[1])
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": min(_OPEN_FILES[0], hard), "hard": hard},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},  # a core file would go wherever the host's core_pattern says
    ]
    if processes is not None:
        limits.append({"type": "RLIMIT_NPROC", "soft": processes, "hard": processes})
    return limits
