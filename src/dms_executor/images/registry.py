"""Registries, spoken to by `skopeo`: which image a name means now, and that image as an OCI layout.

What skopeo is told stands in its arguments: names, and folders of ours. Credentials go to it in a memory file.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from ..errors import ImagePullFailed, StartFailed
from ..supervisor import tether
from ..threads import finished
from ..typed import known
from .config import Descriptor, Manifest
from .credentials import callers_environment, find_credentials
from .hosts import RegistryHost
from .layout import MOST_LAYERS, for_this_host
from .programs import program
from .reference import Reference
from .refusals import damaged, refused

__all__ = ["Registries", "Remote"]

_DEPTH = 4
_RETRIES = "2"  # of a copy, with pauses of 1 and 2 s; complete layers are not fetched again


class Remote(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a registry, for this host: the digest of its manifest names it for ever."""

    digest: str
    layers: list[Descriptor]
    config: Descriptor

    @property
    def folder(self) -> str:
        """The digest as it may name a folder: "sha256-..."."""
        return self.digest.replace(":", "-")

    @property
    def blobs(self) -> list[str]:
        """The digests of what it is made of."""
        return list(dict.fromkeys(entry.digest for entry in (self.config, *self.layers)))


class Registries:
    """`hosts`: what the owner decided for each host; `auth_file`: where credentials are, else the usual places."""

    def __init__(
        self,
        *,
        skopeo: str | None = None,
        hosts: Mapping[str, RegistryHost] | None = None,
        auth_file: str | None = None,
    ) -> None:
        self._skopeo = skopeo
        self._hosts = dict(hosts or {})
        self._auth_file = auth_file

    async def resolve(self, reference: Reference, image: str, deadline: float) -> Remote:
        """The image that the name means now. Raises `ImageNotFound`, `ImagePullFailed`, `EngineUnavailable`."""
        async with self._access(reference) as (options, secrets):
            name, wanted = (
                (reference.by_digest(reference.digest), reference.digest)
                if reference.digest
                else (reference.path, None)
            )
            for _ in range(_DEPTH):
                data = await self._manifest(name, options, secrets, reference, image, deadline)
                digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
                if wanted not in (None, digest):
                    raise damaged(image, f"the registry gives {digest} for {wanted}")
                manifest = _decoded(data, image)
                if manifest.manifests is None:
                    break
                wanted = for_this_host(manifest.manifests, image).digest
                name = reference.by_digest(wanted)
            if manifest.manifests is not None or manifest.config is None:
                raise damaged(image, "its manifest has no configuration")
            if len(manifest.layers or []) > MOST_LAYERS:
                raise damaged(image, f"it has more than {MOST_LAYERS} layers")
            return Remote(digest=digest, layers=manifest.layers or [], config=manifest.config)

    async def copy(self, reference: Reference, remote: Remote, layout: str, image: str, deadline: float) -> None:
        """The image as a layout; what of it lies there already is not fetched. Raises as `resolve` does."""
        policy = [] if await asyncio.to_thread(_has_signature_policy) else ["--insecure-policy"]
        async with self._access(reference) as (options, secrets):
            argv = [
                *(await asyncio.to_thread(program, "skopeo", self._skopeo), *policy, "copy", "--quiet"),
                *("--retry-times", _RETRIES, "--dest-oci-accept-uncompressed-layers", "--dest-compress-format", "gzip"),
                *(f"--src-{option}" for option in options),
                *(f"docker://{reference.by_digest(remote.digest)}", f"oci:{layout}"),
            ]
            await self._run(argv, secrets, reference, image, deadline)

    async def _manifest(
        self, name: str, options: list[str], secrets: list[str], reference: Reference, image: str, deadline: float
    ) -> bytes:
        argv = [await asyncio.to_thread(program, "skopeo", self._skopeo), "inspect", "--raw"]
        argv += [*(f"--{option}" for option in options), f"docker://{name}"]
        return await self._run(argv, secrets, reference, image, deadline)

    async def _run(
        self, argv: list[str], secrets: list[str], reference: Reference, image: str, deadline: float
    ) -> bytes:
        try:
            done = await tether.run(argv, environment=callers_environment(), deadline=deadline)
        except StartFailed as error:
            raise ImagePullFailed(
                f"the registry {reference.registry} did not give {image!r} within {deadline:g} s",
                mend="Raise prepare_timeout, or look whether the registry can be reached",
            ) from error
        if done.code != 0:
            raise refused(done.complaint, reference, image, secrets)
        return done.stdout

    @asynccontextmanager
    async def _access(self, reference: Reference) -> AsyncIterator[tuple[list[str], list[str]]]:
        """Skopeo's options, without their dashes, and what must not be told."""
        host = self._hosts.get(reference.registry, RegistryHost())
        options = [] if host.tls else ["tls-verify=false"]
        options += [f"cert-dir={host.certificates}"] if host.certificates is not None else []
        found = await find_credentials(reference, self._auth_file)
        if found is None:
            yield options, []
            return
        fd = await finished(os.close, _in_memory, found.auth_file(reference.registry))
        try:
            yield [*options, f"authfile=/proc/{os.getpid()}/fd/{fd}"], [found.secret, found.token]
        finally:
            os.close(fd)


def _decoded(data: bytes, image: str) -> Manifest:
    try:
        return msgspec.json.decode(data, type=known(Manifest))
    except msgspec.DecodeError as error:
        raise damaged(image, f"its manifest is not readable ({error})") from error


def _in_memory(data: bytes) -> int:
    fd = os.memfd_create("auth.json", os.MFD_CLOEXEC)
    os.write(fd, data)
    return fd


def _has_signature_policy() -> bool:
    """Without one skopeo refuses all: https://github.com/containers/image/blob/main/docs/containers-policy.json.5.md"""
    config = os.environ.get("XDG_CONFIG_HOME") or f"{callers_environment()['HOME']}/.config"
    return any(Path(path).exists() for path in (f"{config}/containers/policy.json", "/etc/containers/policy.json"))
