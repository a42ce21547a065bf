"""Images by the daemon: what it has, and what it fetches. One pull serves many askers."""

from __future__ import annotations

from typing import Any

import msgspec

from ..engine import Report
from ..errors import ExecutorError, ImageNotFound, ImagePullFailed
from ..images import ImageConfig
from ..images.config import check_platform
from ..images.flight import Flights
from ..typed import known
from ..types import Progress
from .client import ApiError, Client
from .spec import DockerParams

__all__ = ["Images"]

_DENIED = ("unauthorized", "authentication required", "denied: ", "no basic auth")
_MISSING = ("not found", "manifest unknown", "does not exist", "no such image")
_PLATFORM = ("no matching manifest", "no match for platform")
_SEND = "Name an image that the daemon has (`docker load`, `docker pull`), or allow its pull"


class _Inner(msgspec.Struct, rename="pascal"):
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    stop_signal: str = ""


class _Image(msgspec.Struct, rename="pascal"):
    id: str
    architecture: str = ""
    os: str = ""
    config: _Inner | None = None


class Images:
    """One daemon's."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._flights = Flights()

    async def find(self, params: DockerParams, report: Report) -> tuple[str, ImageConfig]:
        """The image's id and configuration. Raises `ImageNotFound`, `ImagePullFailed`, `EngineUnreachable`."""
        found = None if params.pull == "always" else await self._look(params.image)
        if found is None:
            if params.pull == "never":
                raise ImageNotFound(f"the daemon has no image {params.image!r}", mend=_SEND)
            await self._flights.join(f"{params.image} {params.platform}", lambda tell: self._pull(params, tell), report)
            found = await self._look(params.image)
        if found is None:
            raise ImageNotFound(f"the daemon has no image {params.image!r} after its pull", mend=_SEND)
        if params.platform is None:
            check_platform(found.architecture, found.os, params.image)
        inner = found.config or _Inner()
        return found.id, ImageConfig(
            entrypoint=inner.entrypoint, cmd=inner.cmd, stop_signal=inner.stop_signal, architecture=found.architecture
        )

    async def _look(self, image: str) -> _Image | None:
        try:
            return msgspec.convert(await self._client.get(f"/images/{image}/json"), known(_Image))
        except ApiError as error:
            if error.status == 404:
                return None
            raise ImageNotFound(error.message, mend=_SEND) from error

    async def _pull(self, params: DockerParams, report: Report) -> None:
        """https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Image/operation/ImageCreate"""
        name = params.image
        if "@" not in name and ":" not in name.rpartition("/")[2]:
            name += ":latest"  # else all of its tags come
        query = {"fromImage": name, **({"platform": params.platform} if params.platform else {})}
        try:
            async with self._client.stream("POST", "/images/create", query=query) as answer:
                async for line in answer.lines():
                    if "error" in line:
                        raise _failure(params.image, str(line["error"]))
                    _tell(line, report)
        except ApiError as error:
            raise _failure(params.image, error.message) from error


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
