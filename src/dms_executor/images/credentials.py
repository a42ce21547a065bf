"""The credentials of a registry, where the other tools of this machine look for them.

https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md and the `config.json` of
https://docs.docker.com/reference/cli/docker/login/. Found anew for each pull, handed to skopeo in memory, never kept.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import pwd
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ..errors import ImagePullFailed, StartFailed
from ..supervisor import tether
from ..typed import known
from .reference import Reference

__all__ = ["Credentials", "callers_environment", "find_credentials"]

_LOG = logging.getLogger("dms_executor.images")
_LIMIT = 1 << 20
_DEADLINE = 60.0  # a helper may ask an agent or a cloud
_TOKEN = "<token>"  # the user name by which a helper says that its secret is an identity token
_DOCKER_HUB = "https://index.docker.io/v1/"
# What skopeo, its helpers and proxies go by; nothing else of the caller's environment reaches them.
_PASSED = (
    *("HOME", "PATH", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "DBUS_SESSION_BUS_ADDRESS"),
)


class Credentials(msgspec.Struct, frozen=True):
    """Never shown: a `repr` tells nothing."""

    user: str = ""
    secret: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"

    def auth_file(self, registry: str) -> bytes:
        """An `auth.json` with nothing but these."""
        pair = base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()
        entry = {"auth": pair, "identitytoken": self.token} if self.token else {"auth": pair}
        return msgspec.json.encode({"auths": {registry: entry}})


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    auth: str | None = None
    identitytoken: str | None = None


class _AuthFile(msgspec.Struct, frozen=True, kw_only=True):
    auths: dict[str, _Entry | None] | None = None
    helpers: dict[str, str] | None = msgspec.field(default=None, name="credHelpers")
    store: str | None = msgspec.field(default=None, name="credsStore")


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    user: str = msgspec.field(default="", name="Username")
    secret: str = msgspec.field(default="", name="Secret")


def callers_environment() -> dict[str, str]:
    """What of the caller's environment a registry's client needs."""
    found = {name: os.environ[name] for name in _PASSED if name in os.environ}
    found.setdefault("HOME", _home())
    return found


async def find_credentials(reference: Reference, given: str | None = None) -> Credentials | None:
    """Those for a registry's image; None: nobody has any. `given`: the one file to look into.

    Raises `ImagePullFailed` (auth) where a file cannot be read or a helper fails.
    """
    for path in [Path(given)] if given is not None else _files(os.environ):
        file = await asyncio.to_thread(_read, path, given is not None)
        if file is None:
            continue
        found = await _found(file, reference, path)
        if found is not None:
            _LOG.debug("credentials of %s: from %s", reference.registry, path)
            return found
    return None


def _files(environment: Mapping[str, str]) -> list[Path]:
    """In the order in which skopeo looks, then Docker's."""
    named = environment.get("REGISTRY_AUTH_FILE")
    if named:
        return [Path(named)]
    home = Path(environment.get("HOME") or _home())
    runtime = Path(environment.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.geteuid()}")
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    docker = Path(environment.get("DOCKER_CONFIG") or home / ".docker")
    return [runtime / "containers/auth.json", config / "containers/auth.json", docker / "config.json"]


def _read(path: Path, must: bool) -> _AuthFile | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_LIMIT), type=known(_AuthFile))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not must:
            return None
        raise _unusable(path, "it is not there") from error
    except PermissionError as error:
        if not must:  # somebody else's home
            return None
        raise _unusable(path, "it may not be read") from error
    except OSError as error:
        raise _unusable(path, error.strerror or "it cannot be read") from error
    except msgspec.DecodeError:
        # Without the decoder's words, which could quote the file's.
        raise _unusable(path, "it is not of the form of auth.json") from None


async def _found(file: _AuthFile, reference: Reference, path: Path) -> Credentials | None:
    """A helper for the registry, the entry that names most of the image, the store of all."""
    registry = reference.registry
    hub = [_DOCKER_HUB, "index.docker.io", "registry-1.docker.io"] if registry == "docker.io" else []
    for name in (registry, *hub):
        helper = (file.helpers or {}).get(name)
        if helper:
            return await _asked(helper, [name], path)
    words = f"{registry}/{reference.repository}".split("/")
    entries = {_key(key): entry for key, entry in (file.auths or {}).items()}
    for key in ["/".join(words[:length]) for length in range(len(words), 0, -1)] + hub:
        entry = entries.get(_key(key))
        if entry is not None and (entry.auth or entry.identitytoken):
            return _decoded(entry, path)
    return await _asked(file.store, [*hub, registry], path) if file.store else None


def _key(key: str) -> str:
    """Docker writes some registries as addresses."""
    bare = key.removeprefix("https://").removeprefix("http://")
    return bare.partition("/")[0] if bare != key else key.rstrip("/")


def _decoded(entry: _Entry, path: Path) -> Credentials:
    try:
        user, separator, secret = base64.b64decode(entry.auth or "", validate=True).decode().partition(":")
    except ValueError:
        raise _unusable(path, "an `auth` in it is not base64 of user:password") from None
    if entry.identitytoken:
        return Credentials(user or _TOKEN, "", entry.identitytoken)
    if not separator:
        raise _unusable(path, "an `auth` in it is not base64 of user:password")
    return Credentials(user, secret.rstrip("\0"))


async def _asked(helper: str, names: list[str], path: Path) -> Credentials | None:
    """What `docker-credential-<helper> get` says; None where it knows nothing of the registry.

    https://github.com/docker/docker-credential-helpers#development
    """
    environment = callers_environment()
    program = f"docker-credential-{helper}"
    found = None if "/" in helper else await asyncio.to_thread(_program, program, environment.get("PATH"))
    if found is None:
        raise _unusable(path, f"it names the credential helper {helper!r}, and {program} is not in PATH")
    for name in names:
        try:
            done = await tether.run([found, "get"], environment=environment, deadline=_DEADLINE, stdin=name.encode())
        except StartFailed as error:
            raise _unusable(path, f"its helper {program} did not answer within {_DEADLINE:g} s") from error
        if done.code != 0:
            # The protocol's words for "I have none", on stdout.
            if b"credentials not found" in done.stdout + done.stderr:
                continue
            raise _unusable(path, f"its helper {program} failed with code {done.code}")
        try:
            answer = msgspec.json.decode(done.stdout, type=known(_Answer))
        except msgspec.DecodeError:
            raise _unusable(path, f"its helper {program} does not answer as one") from None
        if answer.user == _TOKEN:
            return Credentials(_TOKEN, "", answer.secret)
        return Credentials(answer.user, answer.secret) if answer.secret else None
    return None


def _program(name: str, path: str | None) -> str | None:
    found = shutil.which(name, path=path)
    return str(Path(found).absolute()) if found is not None else None


def _home() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


def _unusable(path: Path, why: str) -> ImagePullFailed:
    return ImagePullFailed(
        f"the credentials in {path} cannot be used: {why}", cause_kind="auth", mend="Mend that file, or log in again"
    )
