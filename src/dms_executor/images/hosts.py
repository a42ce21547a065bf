"""How a registry is spoken to, as the owner of the machine decides it."""

from __future__ import annotations

import msgspec

__all__ = ["RegistryHost"]


class RegistryHost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tls` False: its certificate is not verified, and plain HTTP will do. `certificates`: a folder with `*.crt` of
    further authorities, and `*.cert` and `*.key` of a client's own
    (https://github.com/containers/image/blob/main/docs/containers-certs.d.5.md).
    """

    tls: bool = True
    certificates: str | None = None
