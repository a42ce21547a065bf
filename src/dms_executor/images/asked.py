"""What a request says of its image, judged before anything is made of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidRequest, NotSupported
from ..policy import Grant, Policy
from .config import host_architecture
from .params import PARAMS
from .reference import Reference

__all__ = ["check_platform_of", "grant_image"]

_IMAGE = f"{PARAMS}.image"
_PLATFORM = f"{PARAMS}.platform"
_VARIANTS = {"linux/arm64": "v8", "linux/amd64": "v1"}  # what goes without saying


def check_platform_of(platform: str | None, engine: str) -> None:
    """Raises `NotSupported` for what is not this host's."""
    host = f"linux/{host_architecture()}"
    if platform is not None and platform not in (host, f"{host}/{_VARIANTS.get(host)}"):
        raise NotSupported(
            f"engine {engine} does not have {_PLATFORM} yet",
            engine=engine,
            what=_PLATFORM,
            mend=f"This host is {host}: leave platform out",
        )


def grant_image(reference: Reference, policy: Policy, refused: Sequence[Path]) -> Grant | None:
    """The folder or file of a local image. Raises `InvalidRequest`, `PolicyDenied`. Blocks."""
    if not reference.is_local:
        return None
    with policy.open(reference.path, field=_IMAGE, refused=refused) as granted:
        archive = reference.transport.endswith("-archive")
        if granted.is_dir == archive:
            wanted = "file" if archive else "folder"
            raise InvalidRequest(f"{reference.path!r} is no {wanted}", path=_IMAGE, mend=f"Name a {wanted}")
        if archive and not stat.S_ISREG(os.fstat(granted.fd).st_mode):
            raise InvalidRequest(f"{reference.path!r} is no regular file", path=_IMAGE, mend="Name an archive")
        return granted.grant
