"""What an image's name means: a transport in front, or a registry's reference."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from ..errors import InvalidRequest, NotSupported

__all__ = ["Reference", "Transport", "parse_reference"]

Transport = Literal["rootfs", "oci", "oci-archive", "docker-archive"]
_FIELD = "$.engine_spec.params.image"
_KNOWN: tuple[Transport, ...] = ("rootfs", "oci", "oci-archive", "docker-archive")
_ELSEWHERE = ("docker", "docker-daemon", "containers-storage", "dir", "sif", "tarball", "atomic", "ostree")
# The end of an OCI layout's name that is a tag, as containers-image reads it: no slash behind the colon.
_TAG = re.compile(r"(?P<path>/.*?)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]*(?::[A-Za-z0-9._-]+)?))?", re.DOTALL)


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """`path` is a host path, to be granted by the policy; `tag` None: the layout's only image, or "latest"."""

    transport: Transport
    path: str
    tag: str | None = None


def parse_reference(image: str, engine: str = "") -> Reference:
    """Raises `InvalidRequest` on a malformed one, `NotSupported` on a transport that this release does not have."""
    transport, separator, rest = image.partition(":")
    for known in _KNOWN:
        if separator and transport == known:
            return _local(known, rest)
    where = transport if separator and transport in _ELSEWHERE else "a registry"
    raise NotSupported(
        f"engine {engine} takes no image from {where} yet ({_FIELD}: {image!r})",
        engine=engine,
        what=_FIELD,
        mend="Use rootfs:DIR, oci:DIR[:TAG], oci-archive:FILE or docker-archive:FILE; "
        "`skopeo copy docker://NAME oci:DIR:TAG` fetches one",
    )


def _local(transport: Transport, rest: str) -> Reference:
    if not rest.startswith("/") or "\0" in rest:
        raise InvalidRequest(f"{rest!r} is no absolute path", path=_FIELD, mend=f"E.g. '{transport}:/srv/image'")
    if transport == "rootfs":
        return Reference(transport=transport, path=rest)
    match = _TAG.fullmatch(rest)
    if match is None:
        raise InvalidRequest(f"{rest!r} is no path", path=_FIELD, mend=f"E.g. '{transport}:/srv/image'")
    return Reference(transport=transport, path=match["path"], tag=match["tag"])
