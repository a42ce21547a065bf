"""Where the cluster is, and who we are there: kubectl's file, or a pod's own service account. All of it blocks.

https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from ..errors import EngineUnavailable
from .credentials import Plugin, plugin_of
from .spec import KubernetesSettings

__all__ = ["Access", "find_access"]

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MEND = "Give kubeconfig and context in Settings(engines={'kubernetes': {...}}), as kubectl takes them"


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """`server`: a URL; `token_file`: read again and again, since it is renewed; `plugin`: what is asked for a token."""

    server: str
    namespace: str
    tls: ssl.SSLContext | None = None
    token: str = ""
    token_file: Path | None = None
    plugin: Plugin | None = None

    def headers(self) -> dict[str, str]:
        """What says who we are. Raises `EngineUnavailable`."""
        try:
            token = self.token_file.read_text().strip() if self.token_file is not None else self.token
        except OSError as error:
            raise _unusable(f"{self.token_file} cannot be read: {error.strerror}") from error
        return {"Authorization": f"Bearer {token}"} if token else {}


def find_access(settings: KubernetesSettings) -> Access:
    """Raises `EngineUnavailable`."""
    named = settings.kubeconfig or os.environ.get("KUBECONFIG", "")
    if not named and _ACCOUNT.is_dir() and "KUBERNETES_SERVICE_HOST" in os.environ:
        return _of_the_pod(settings)
    paths = [Path(name) for name in named.split(os.pathsep) if name] or [Path.home() / ".kube" / "config"]
    configs = [(path, _load(path)) for path in paths if path.exists()]
    if not configs:
        raise _unusable(f"there is no kubeconfig ({os.pathsep.join(map(str, paths))})")
    chosen = settings.context or next((c["current-context"] for _, c in configs if c.get("current-context")), "")
    _, context = _named(configs, "contexts", "context", chosen)
    folder, cluster = _named(configs, "clusters", "cluster", str(context.get("cluster", "")))
    home, user = _named(configs, "users", "user", str(context.get("user", "")))
    for field in ("auth-provider", "username"):
        if user.get(field):
            raise _unusable(f"the kubeconfig's user authenticates by {field}, which this engine does not do yet")
    token_file = user.get("tokenFile")
    return Access(
        server=str(cluster.get("server", "")).rstrip("/"),
        namespace=settings.namespace or str(context.get("namespace") or "default"),
        tls=_tls(cluster, folder, user, home),
        token=str(user.get("token") or ""),
        token_file=home / token_file if token_file and not user.get("token") else None,
        plugin=plugin_of(user["exec"], home, cluster)
        if user.get("exec") and not (user.get("token") or token_file)
        else None,
    )


def _of_the_pod(settings: KubernetesSettings) -> Access:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    own = _ACCOUNT / "namespace"
    try:
        namespace = settings.namespace or (own.read_text().strip() if own.exists() else "")
        tls = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
    except (OSError, ValueError) as error:
        raise _unusable(f"this pod's service account cannot be used ({_ACCOUNT}): {error}") from error
    if not namespace:  # `default` would be somebody else's
        raise EngineUnavailable(
            f"nothing says in which namespace jobs are to be: {own} names none",
            mend="Give namespace in Settings(engines={'kubernetes': {...}})",
        )
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=namespace,
        tls=tls,
        token_file=_ACCOUNT / "token",
    )


def _load(path: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise _unusable(f"{path} cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise _unusable(f"{path} is no kubeconfig")
    return loaded


def _named(configs: list[tuple[Path, dict[str, Any]]], group: str, kind: str, name: str) -> tuple[Path, dict[str, Any]]:
    """The first of that name, and the folder that its paths are relative to."""
    for path, config in configs:
        for entry in config.get(group) or []:
            if entry.get("name") == name:
                return path.absolute().parent, dict(entry.get(kind) or {})
    raise _unusable(f"the kubeconfig has no {kind} {name!r}")


def _tls(cluster: dict[str, Any], folder: Path, user: dict[str, Any], home: Path) -> ssl.SSLContext | None:
    if not str(cluster.get("server", "")).startswith("https://"):
        return None
    try:
        authority = _content(cluster, "certificate-authority", folder)
        context = ssl.create_default_context(cadata=authority.decode("ascii") if authority else None)
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate, key = _content(user, "client-certificate", home), _content(user, "client-key", home)
        if certificate and key:
            _show(context, certificate, key)
    except (OSError, ValueError, binascii.Error) as error:
        raise _unusable(f"the kubeconfig's certificates cannot be used: {error}") from error
    return context


def _content(entry: dict[str, Any], field: str, folder: Path) -> bytes:
    if entry.get(f"{field}-data"):
        return base64.b64decode(entry[f"{field}-data"])
    return (folder / entry[field]).read_bytes() if entry.get(field) else b""


def _show(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL's binding takes files only."""
    with tempfile.TemporaryDirectory(prefix="dms-executor-") as folder:
        path = Path(folder) / "client.pem"
        path.touch(mode=0o600)
        path.write_bytes(certificate + b"\n" + key)
        context.load_cert_chain(path)


def _unusable(problem: str) -> EngineUnavailable:
    return EngineUnavailable(problem, mend=_MEND)
