"""A user that authenticates by a program, as the clouds' clusters have it: the program is asked, and its token kept.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from ..errors import EngineUnavailable, StartFailed
from ..supervisor import tether

__all__ = ["Plugin", "Tickets", "plugin_of"]

_GROUP = "client.authentication.k8s.io/"
_DEADLINE = 60.0  # it may ask a cloud
_EARLY = timedelta(seconds=60)
_MEND = "Try the same program by hand (`kubectl get pods`), or use a kubeconfig with a token"


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """`told`: what it is told of the cluster, where it wants that."""

    command: str
    args: list[str]
    environment: dict[str, str]
    version: str
    hint: str = ""
    told: dict[str, Any] | None = None


def plugin_of(entry: dict[str, Any], folder: Path, cluster: dict[str, Any]) -> Plugin:
    """Out of a kubeconfig's user. A command with a slash is relative to the file. Raises `EngineUnavailable`."""
    command, version = str(entry.get("command") or ""), str(entry.get("apiVersion") or "")
    if not command or not version.startswith(_GROUP):
        raise _unusable(f"the kubeconfig's user names no program that authenticates it ({_GROUP}v1)")
    if entry.get("interactiveMode") == "Always":
        raise _unusable(f"{command}, which authenticates the kubeconfig's user, asks at a terminal")
    told: dict[str, Any] | None = None
    if entry.get("provideClusterInfo"):
        names = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
        told = {name: cluster[name] for name in names if name in cluster}
    return Plugin(
        command=str(folder / command) if "/" in command else command,
        args=[str(word) for word in entry.get("args") or []],
        environment={str(pair["name"]): str(pair["value"]) for pair in entry.get("env") or []},
        version=version,
        hint=" ".join(str(entry.get("installHint") or "").split()),
        told=told,
    )


class _Status(msgspec.Struct, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    expiration_timestamp: datetime | None = None


class _Answer(msgspec.Struct, rename="camel"):
    status: _Status


class Tickets:
    """One user's token: asked for at the first need, before it expires, and after it was refused."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._asking = asyncio.Lock()
        self._token = ""
        self._expires: datetime | None = None

    async def token(self) -> str:
        """Raises `EngineUnavailable`."""
        async with self._asking:
            if not self._token or (self._expires is not None and datetime.now(UTC) >= self._expires - _EARLY):
                status = await _asked(self._plugin)
                self._token, self._expires = status.token, _in_utc(status.expiration_timestamp)
            return self._token

    def refused(self, token: str) -> None:
        """It counts no more, if no other has been asked for since."""
        if self._token == token:
            self._token = ""


async def _asked(plugin: Plugin) -> _Status:
    environment = {**os.environ, **plugin.environment}
    program = await asyncio.to_thread(_found, plugin.command, environment.get("PATH"))
    if program is None:
        raise EngineUnavailable(
            f"{plugin.command}, which authenticates the kubeconfig's user, is not installed", mend=plugin.hint or _MEND
        )
    spec: dict[str, Any] = {"interactive": False, **({"cluster": plugin.told} if plugin.told is not None else {})}
    info = json.dumps({"apiVersion": plugin.version, "kind": "ExecCredential", "spec": spec})
    environment["KUBERNETES_EXEC_INFO"] = info
    try:
        done = await tether.run([program, *plugin.args], environment=environment, deadline=_DEADLINE)
    except StartFailed as error:
        raise _unusable(f"{plugin.command} did not answer within {_DEADLINE:g} s") from error
    if done.code != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[-300:]
        raise _unusable(f"{plugin.command} failed with code {done.code}: {said}")
    try:
        status = msgspec.json.decode(done.stdout, type=_Answer).status
    except msgspec.MsgspecError:
        raise _unusable(f"{plugin.command} does not answer with an ExecCredential") from None
    if not status.token:
        raise _unusable(f"{plugin.command} gave no token; client certificates by a program are not taken")
    return status


def _in_utc(moment: datetime | None) -> datetime | None:
    """One without a zone is taken for that."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _found(command: str, path: str | None) -> str | None:
    found = shutil.which(command, path=path)
    return str(Path(found).absolute()) if found is not None else None


def _unusable(problem: str) -> EngineUnavailable:
    return EngineUnavailable(problem, mend=_MEND)
