"""What an image's name means: a transport in front, or a registry's reference as Docker reads it."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from ..errors import InvalidRequest, NotSupported

__all__ = ["Reference", "Transport", "parse_reference"]

Transport = Literal["rootfs", "oci", "oci-archive", "docker-archive", "docker"]
_FIELD = "$.engine_spec.params.image"
_LOCAL: tuple[Transport, ...] = ("rootfs", "oci", "oci-archive", "docker-archive")
_ELSEWHERE = ("docker-daemon", "containers-storage", "dir", "sif", "tarball", "atomic", "ostree")
# The end of an OCI layout's name that is a tag, as containers-image reads it: no slash behind the colon.
_TAG = re.compile(r"(?P<path>/.*?)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]*(?::[A-Za-z0-9._-]+)?))?", re.DOTALL)
# https://github.com/distribution/reference/blob/main/regexp.go
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_NAMED = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_LONGEST = 255  # of a repository with its host, as Docker has it


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """`path`: a host path, to be granted by the policy; of a registry's image (`docker`) its name, whole.

    `tag` None: a layout's only image, or "latest". `registry` is the host that a registry's image comes from.
    """

    transport: Transport
    path: str
    tag: str | None = None
    registry: str = ""
    repository: str = ""
    digest: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether `path` is a host path."""
        return self.transport != "docker"

    def by_digest(self, digest: str) -> str:
        """The name of one image of the same repository."""
        return f"{self.registry}/{self.repository}@{digest}"


def parse_reference(image: str, engine: str = "") -> Reference:
    """Raises `InvalidRequest` on a malformed one, `NotSupported` on a transport that this release does not have."""
    transport, separator, rest = image.partition(":")
    for known in _LOCAL:
        if separator and transport == known:
            return _local(known, rest)
    if separator and transport in _ELSEWHERE and not re.fullmatch(r"[0-9]+(/.*)?", rest):
        raise NotSupported(
            f"engine {engine} takes no image from {transport} ({_FIELD}: {image!r})",
            engine=engine,
            what=_FIELD,
            mend="Name a registry's image, or use oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE or rootfs:DIR",
        )
    return _remote(image.removeprefix("docker://"))


def _local(transport: Transport, rest: str) -> Reference:
    if not rest.startswith("/") or "\0" in rest:
        raise InvalidRequest(f"{rest!r} is no absolute path", path=_FIELD, mend=f"E.g. '{transport}:/srv/image'")
    if transport == "rootfs":
        return Reference(transport=transport, path=rest)
    match = _TAG.fullmatch(rest)
    if match is None:
        raise InvalidRequest(f"{rest!r} is no path", path=_FIELD, mend=f"E.g. '{transport}:/srv/image'")
    return Reference(transport=transport, path=match["path"], tag=match["tag"])


def _remote(name: str) -> Reference:
    """As Docker completes it: the first part is a host if it has a dot or a colon or is "localhost"."""
    match = _NAMED.fullmatch(name)
    if match is None:
        raise InvalidRequest(
            f"{name[:300]!r} is no image's name",
            path=_FIELD,
            mend="E.g. 'alpine:3.20', 'registry.example/team/image@sha256:...', or a local one: 'oci:/srv/image'",
        )
    host, path, tag, digest = match["host"], match["path"], match["tag"], match["digest"]
    if host is not None and not (set(host) & set(".:[") or host == "localhost" or host != host.lower()):
        host, path = None, f"{host}/{path}"
    if host in (None, "index.docker.io", "registry-1.docker.io"):
        host = "docker.io"
    if host == "docker.io" and "/" not in path:
        path = f"library/{path}"
    if len(f"{host}/{path}") > _LONGEST:
        raise InvalidRequest(f"an image's name has at most {_LONGEST} characters", path=_FIELD, mend="Shorten it")
    tag = tag or (None if digest else "latest")
    whole = f"{host}/{path}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    return Reference(transport="docker", path=whole, tag=tag, registry=host or "", repository=path, digest=digest)
