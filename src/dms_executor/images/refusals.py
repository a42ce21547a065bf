"""What a registry's refusal means to whoever asked: skopeo says it in words only."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import ExecutorError, ImageNotFound, ImagePullFailed
from .reference import Reference

__all__ = ["damaged", "refused", "told"]

# https://github.com/containers/image/blob/main/docker/errors.go and the codes of
# https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes
_AUTH = re.compile(
    r"unauthorized|authentication required|denied|forbidden|invalid username/password|status 40[13]|StatusCode: 40[13]"
    r"|unable to retrieve auth token|incorrect username or password",
    re.I,
)
_MISSING = re.compile(
    r"manifest unknown|name unknown|repository name not known|not found|status 404|StatusCode: 404", re.I
)
_BUSY = re.compile(r"toomanyrequests|too many requests|status 429|StatusCode: 429", re.I)
_TLS = re.compile(r"x509|certificate|tls:|HTTP response to HTTPS client", re.I)
_FULL = re.compile(r"no space left", re.I)
_DIGEST = re.compile(r"digest did not match|does not match|digest mismatch|failed verification", re.I)
_SIGNATURE = re.compile(r"source image rejected|signature", re.I)
# A word of skopeo's log, and addresses: what stands behind their `?` may be a signature that opens a store of blobs.
_LOG_WORDS = re.compile(r'^time="[^"]*" level=\w+ msg=', re.M)
_QUERY = re.compile(r"(https?://[^\s?\"\\]*)\?[^\s\"\\]*")
_USER = re.compile(r"(https?://)[^\s/@\"]*@")


def refused(complaint: str, reference: Reference, image: str, secrets: Sequence[str] = ()) -> ExecutorError:
    """The error for what skopeo said of a registry's image."""
    said, registry = told(complaint, secrets), reference.registry
    if _FULL.search(said):
        return ImagePullFailed(f"no space left to pull {image!r}", mend="Free space below the state folder")
    if _BUSY.search(said):
        return ImagePullFailed(
            f"the registry {registry} takes no more requests for now ({image!r}): {said}",
            mend="Wait, or log in: many registries allow more then",
        )
    if _AUTH.search(said):
        return ImagePullFailed(
            f"the registry {registry} does not give {image!r} to us: {said}",
            cause_kind="auth",
            mend=f"`skopeo login {registry}` or `docker login {registry}` as this user, if the name is right",
        )
    if _MISSING.search(said) and not _TLS.search(said):
        return ImageNotFound(f"the registry {registry} has no {image!r}: {said}", mend="Look at name and tag")
    if _TLS.search(said):
        return ImagePullFailed(
            f"the registry {registry} has no certificate that is trusted here: {said}",
            mend="Name its authority's folder, or that it has none, by the engine's setting "
            f'`registries: {{"{registry}": {{"certificates": DIR}}}}` or `{{"tls": false}}`',
        )
    if _DIGEST.search(said):
        return damaged(image, said)
    if _SIGNATURE.search(said):
        return ImagePullFailed(
            f"this machine's signature policy refuses {image!r}: {said}",
            cause_kind="auth",
            mend="Its owner decides it in /etc/containers/policy.json",
        )
    return ImagePullFailed(
        f"the registry {registry} did not give {image!r}: {said}", mend="Look whether it can be reached, and try again"
    )


def damaged(image: str, why: str) -> ImagePullFailed:
    """What a registry gives is not what its name says."""
    return ImagePullFailed(
        f"what the registry gives for {image!r} is damaged: {why}", mend="Try again, or push the image again"
    )


def told(complaint: str, secrets: Sequence[str] = ()) -> str:
    """The complaint without what nobody else may read."""
    said = _USER.sub(r"\1", _QUERY.sub(r"\1?...", _LOG_WORDS.sub("", complaint)))
    for secret in secrets:
        if secret:
            said = said.replace(secret, "...")
    return said
