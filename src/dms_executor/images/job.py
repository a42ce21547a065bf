"""What a job of an image is, as Docker has it: its environment and its working directory."""

from __future__ import annotations

from ..engine import merged_environment
from ..types import ExecutionRequest
from .config import ImageConfig
from .params import ImageParams
from .users import User

__all__ = ["directory_of", "environment_of"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # Docker's default


def environment_of(
    params: ImageParams, image: ImageConfig, request: ExecutionRequest, user: User, hostname: str
) -> dict[str, str]:
    """Docker's defaults, the image, params, request, secrets; the later counts."""
    terminal = {"TERM": "xterm"} if request.tty else {}
    defaults = {"PATH": _PATH, "HOSTNAME": hostname, **terminal, **image.environment}
    environment = merged_environment(defaults, params.environment, request)
    environment.setdefault("HOME", user.home)
    return environment


def directory_of(params: ImageParams, image: ImageConfig) -> str:
    """Made where it is missing."""
    return params.working_directory or image.working_directory or "/"
