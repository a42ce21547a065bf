"""Users that authenticate by a program, over what stands in for a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from dms_executor.errors import EngineUnavailable
from dms_executor.kubernetes.client import Client
from dms_executor.kubernetes.spec import KubernetesSettings

from .apiserver import ApiServer

_PROGRAM = """#!/bin/sh
echo x >> "$COUNT"
case "$KUBERNETES_EXEC_INFO" in *'"interactive": false'*) ;; *) exit 3;; esac
echo '{"kind": "ExecCredential", "status": {"token": "'$(wc -l < "$COUNT")'", "expirationTimestamp": "'$EXPIRES'"}}'
"""


def client(server: ApiServer, folder: Path, *, expires: str = "2100-01-01T00:00:00Z", command: str = "./ask") -> Client:
    """One whose kubeconfig names a program beside it."""
    program = folder / "ask"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    text = server.kubeconfig.read_text()
    plugin = (
        f"{{apiVersion: client.authentication.k8s.io/v1, command: {command}, interactiveMode: Never, "
        f"installHint: get it, env: [{{name: COUNT, value: {folder}/count}}, {{name: EXPIRES, value: '{expires}'}}]}}"
    )
    path = folder / "kubeconfig"
    path.write_text(text.replace("{token: t}", f"{{exec: {plugin}}}"))
    return Client(KubernetesSettings(kubeconfig=str(path)))


async def test_a_time_without_a_zone_is_taken_for_utc(server: ApiServer, tmp_path: Path) -> None:
    asker = client(server, tmp_path, expires="2100-01-01T00:00:00")
    try:
        for _ in range(2):
            await asker.call("GET", "pods")
        assert (tmp_path / "count").read_text() == "x\n"
    finally:
        await asker.close()


async def test_a_program_is_asked_once_until_its_token_expires_or_is_refused(server: ApiServer, tmp_path: Path) -> None:
    asker = client(server, tmp_path)
    try:
        server.refuses.add("Bearer 1")
        for _ in range(3):
            await asker.call("GET", "pods")
        assert (tmp_path / "count").read_text() == "x\nx\n", "the first was refused, the second is kept"
    finally:
        await asker.close()


async def test_a_token_that_is_about_to_expire_is_renewed(server: ApiServer, tmp_path: Path) -> None:
    asker = client(server, tmp_path, expires="2020-01-01T00:00:00Z")
    try:
        for _ in range(2):
            await asker.call("GET", "pods")
        assert (tmp_path / "count").read_text() == "x\nx\n"
    finally:
        await asker.close()


async def test_a_program_that_is_missing_is_told_with_its_own_hint(server: ApiServer, tmp_path: Path) -> None:
    asker = client(server, tmp_path, command="no-such-program")
    try:
        with pytest.raises(EngineUnavailable, match="not installed") as caught:
            await asker.call("GET", "pods")
        assert caught.value.mend == "get it"
    finally:
        await asker.close()
