"""Images by the daemon: what it has, and what it fetches. One pull serves many askers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec

from ..engine import Report
from ..errors import ExecutorError, ImageNotFound, ImagePullFailed
from ..images import ImageConfig, parse_reference
from ..images.config import check_platform
from ..images.flight import Flights
from ..threads import finished
from ..typed import known
from ..types import Progress
from .client import ApiError, Client
from .kept import Kept
from .login import auth_headers

__all__ = ["Found", "Images"]

Pull = Literal["missing", "always", "never"]

_DENIED = ("unauthorized", "authentication required", "denied: ", "no basic auth")
_MISSING = ("not found", "manifest unknown", "does not exist", "no such image")
_PLATFORM = ("no matching manifest", "no match for platform")
_SEND = "Name an image that the daemon has (`docker load`, `docker pull`), or allow its pull"


class _Inner(msgspec.Struct, rename="pascal"):
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    stop_signal: str = ""


class Found(msgspec.Struct, frozen=True, rename="pascal"):
    """What of an image's inspection is looked at. `size` in bytes; `repo_tags`: all that names it at the daemon."""

    id: str
    architecture: str = ""
    os: str = ""
    variant: str = ""
    size: int = 0
    repo_tags: list[str] | None = None
    config: _Inner | None = None

    @property
    def platform(self) -> str:
        """OS and architecture, with a variant where it has one."""
        return "/".join([self.os or "linux", self.architecture or "unknown", *([self.variant] if self.variant else [])])

    def is_for(self, platform: str) -> bool:
        """Whether it is what was asked for; a variant that was not asked for is any."""
        return f"{self.platform}/".startswith(f"{platform.rstrip('/')}/")

    def to_config(self) -> ImageConfig:
        """What its jobs go by here; the daemon merges the rest itself."""
        inner = self.config or _Inner()
        return ImageConfig(
            entrypoint=inner.entrypoint, cmd=inner.cmd, stop_signal=inner.stop_signal, architecture=self.architecture
        )


class Images:
    """One daemon's. `auth_file`: the one file to look into for credentials; None: the usual ones."""

    def __init__(self, client: Client, kept: Kept, auth_file: str | None) -> None:
        self._client = client
        self._kept = kept
        self._auth_file = auth_file
        self._flights = Flights()

    async def find(self, image: str, platform: str | None, pull: Pull, token: str, report: Report) -> Found:
        """The image, which nothing of ours takes away while the execution of `token` lives.

        Raises `ImageNotFound`, `ImagePullFailed`, `EngineUnreachable`.
        """
        found = None if pull == "always" else await self._pinned(image, platform, token)
        if found is None and pull == "never":
            raise ImageNotFound(
                f"the daemon has no image {image!r}" + (f" for {platform}" if platform else ""), mend=_SEND
            )
        if found is None:
            before = await self._flights.join(
                f"{image} {platform}", lambda tell: self._pull(image, platform, tell), report
            )
            found = await self._pinned(image, None, token, pulled=True, before=before)
        if found is None:
            raise ImageNotFound(f"the daemon has no image {image!r} after its pull", mend=_SEND)
        if platform is None:
            check_platform(found.architecture, found.os, image)
        elif not found.is_for(platform):
            raise ImagePullFailed(
                f"image {image!r} is for {found.platform}, and not for {platform}",
                cause_kind="platform",
                mend="Name another platform or image",
            )
        return found

    async def look(self, image: str) -> Found | None:
        """By name or id; None: the daemon has none."""
        try:
            return msgspec.convert(await self._client.get(f"/images/{image}/json"), known(Found))
        except ApiError as error:
            if error.status == 404:
                return None
            raise ImageNotFound(error.message, mend=_SEND) from error

    @asynccontextmanager
    async def locked(self, *, alone: bool) -> AsyncIterator[None]:
        """`alone`: while nobody, in no process, looks an image up and pins it."""
        lock = await finished(os.close, self._kept.lock, alone=alone)
        try:
            yield
        finally:
            os.close(lock)

    async def _pinned(
        self, image: str, platform: str | None, token: str, *, pulled: bool = False, before: str = ""
    ) -> Found | None:
        async with self.locked(alone=False):
            found = await self.look(image)
            if found is None or (platform is not None and not found.is_for(platform)):
                return None
            # What the name meant before the pull is whoever's had it brought then.
            name = parse_reference(image).path if pulled and found.id != before else None
            await asyncio.to_thread(self._keep, found.id, name, token)
        return found

    def _keep(self, digest: str, name: str | None, token: str) -> None:
        if name is not None:
            self._kept.note(digest, name)
        self._kept.pin(digest, token)

    async def _pull(self, image: str, platform: str | None, report: Report) -> str:
        """Gives the id of what the name meant before; empty: nothing.

        https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Image/operation/ImageCreate
        """
        before = await self.look(image)
        name = image
        if "@" not in name and ":" not in name.rpartition("/")[2]:
            name += ":latest"  # else all of its tags come
        query = {"fromImage": name, **({"platform": platform} if platform else {})}
        headers = await auth_headers(parse_reference(image), self._auth_file)
        try:
            async with self._client.stream("POST", "/images/create", query=query, headers=headers) as answer:
                async for line in answer.lines():
                    if "error" in line:
                        raise _failure(image, str(line["error"]))
                    _tell(line, report)
        except ApiError as error:
            raise _failure(image, error.message) from error
        return before.id if before is not None else ""


def _tell(line: dict[str, Any], report: Report) -> None:
    detail = line.get("progressDetail") or {}
    if "current" in detail:
        total = detail.get("total")
        what = f"{line.get('status', 'pulling')} {line.get('id', '')}".strip()
        report(Progress(what=what, done=int(detail["current"]), total=total, unit="bytes"))


def _failure(image: str, said: str) -> ExecutorError:
    text = said.casefold()
    message = f"image {image!r} could not be pulled: {said}"
    if any(word in text for word in _PLATFORM):
        return ImagePullFailed(message, cause_kind="platform", mend="Name another platform or image")
    if "pull access denied" in text or any(word in text for word in _MISSING):
        return ImageNotFound(message, mend=_SEND)
    if any(word in text for word in _DENIED):
        return ImagePullFailed(message, cause_kind="auth", mend="Log in with `docker login`")
    return ImagePullFailed(message, cause_kind="network", mend=_SEND)
