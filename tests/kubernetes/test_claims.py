"""In which namespace a claim is looked for: the one that the pod is made in, whatever says which that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dms_executor.errors import EngineUnavailable, InvalidRequest
from dms_executor.kubernetes import kubeconfig
from dms_executor.kubernetes.client import Client
from dms_executor.kubernetes.spec import KubernetesSettings
from dms_executor.types import StorageVolume
from tests.registry import make_authority

from .apiserver import ApiServer
from .conftest import opened

_DATA = [StorageVolume(type="volume", source="data", target="/data")]


@pytest.mark.parametrize(
    ("context", "settings", "params", "where"),
    [
        ("", {}, {}, "default"),
        (", namespace: ''", {}, {}, "default"),
        (", namespace: team", {}, {}, "team"),
        (", namespace: team", {"namespace": "jobs"}, {}, "jobs"),
        (", namespace: team", {"allowed": {"namespaces": ["other"]}}, {"namespace": "other"}, "other"),
        (", namespace: team", {}, {"namespace": "team"}, "team"),
    ],
    ids=["nothing", "empty", "context", "settings", "request", "repeated"],
)
async def test_a_claim_is_looked_for_where_the_pod_will_be(
    server: ApiServer, state_dir: Path, context: str, settings: dict[str, Any], params: dict[str, Any], where: str
) -> None:
    text = server.kubeconfig.read_text()
    server.kubeconfig.write_text(text.replace("user: u}", f"user: u{context}}}"))
    server.claims |= {f"{name}/data" for name in {"default", "team", "jobs", "other"} - {where}}
    async with opened(state_dir, str(server.kubeconfig), **settings) as bench:
        with pytest.raises(InvalidRequest, match=f"the namespace {where} has no PersistentVolumeClaim 'data'"):
            await bench.run("true", params=params, inputs=_DATA)
        assert (server.pods, server.maps) == ({}, {})
        server.claims = {f"{where}/data"}
        job = await bench.start("sleep", "1000", params=params, inputs=_DATA)
        made = [pod["metadata"]["namespace"] for pod in server.pods.values()]
        assert (await bench.executor.inspect(job)).engine_ids["namespace"] == where
    assert made == [where]


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pod's own service account, of which `namespace` is not said."""
    folder = tmp_path / "serviceaccount"
    make_authority(folder)
    (folder / "token").write_text("t")
    monkeypatch.setattr(kubeconfig, "_ACCOUNT", folder)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    return folder


@pytest.mark.parametrize("said", [None, "\n"], ids=["no file", "empty"])
async def test_in_a_pod_whose_namespace_nothing_tells_no_job_begins(
    account: Path, state_dir: Path, said: str | None
) -> None:
    if said is not None:
        (account / "namespace").write_text(said)
    async with opened(state_dir, "") as bench:
        with pytest.raises(EngineUnavailable, match="in which namespace") as caught:
            await bench.run("true", inputs=_DATA)
        assert "namespace" in caught.value.mend
        assert await bench.executor.list() == []


async def test_in_a_pod_jobs_are_in_its_own_namespace_or_that_of_the_settings(account: Path) -> None:
    assert await Client(KubernetesSettings(namespace="jobs")).namespace() == "jobs"
    (account / "namespace").write_text("team\n")
    assert await Client(KubernetesSettings()).namespace() == "team"
    assert await Client(KubernetesSettings(namespace="jobs")).namespace() == "jobs"


async def test_an_account_of_a_pod_without_an_authority_is_told_as_what_it_is(account: Path) -> None:
    (account / "namespace").write_text("team")
    (account / "ca.crt").unlink()
    with pytest.raises(EngineUnavailable, match="service account cannot be used"):
        await Client(KubernetesSettings()).namespace()
