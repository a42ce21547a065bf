"""The credentials of a registry in the form in which a daemon takes them along with a pull.

https://docs.docker.com/reference/api/engine/version/v1.41/#section/Authentication
"""

from __future__ import annotations

import base64

import msgspec

from ..images import Reference
from ..images.credentials import find_credentials

__all__ = ["auth_headers"]

_HUB = "https://index.docker.io/v1/"


async def auth_headers(reference: Reference, auth_file: str | None) -> dict[str, str]:
    """`X-Registry-Auth`; nothing where nobody has credentials. Raises `ImagePullFailed` (auth)."""
    found = await find_credentials(reference, auth_file)
    if found is None:
        return {}
    told = {"serveraddress": _HUB if reference.registry == "docker.io" else reference.registry}
    if found.token:
        told["identitytoken"] = found.token
    else:
        told |= {"username": found.user, "password": found.secret}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(msgspec.json.encode(told)).decode()}
