"""What a request may choose: nothing of the owner's by default, what the settings allow, and how it reaches the pod."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dms_executor import Policy, Resources
from dms_executor.errors import InvalidRequest, NotSupported, PolicyDenied
from dms_executor.kubernetes import KubernetesSettings
from dms_executor.kubernetes.check import check_request
from dms_executor.kubernetes.choices import check_choices, chosen_by
from dms_executor.kubernetes.names import INIT
from dms_executor.kubernetes.spec import checked_params, checked_settings
from dms_executor.types import GPU, StorageVolume
from dms_executor.volumes import grant_volumes

from .apiserver import ApiServer
from .conftest import Bench, opened
from .test_breaks import WAITS
from .test_requests import places_of, pod, request

_PARAMS = "$.engine_spec.params"
_LABELS: dict[str, Any] = {"metadata": {"labels": {"team": "b"}}}
_SECRET: dict[str, Any] = {"spec": {"volumes": [{"name": "s", "secret": {"secretName": "root"}}]}}
_CHOICES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (f"{_PARAMS}.namespace", {"namespace": "other"}, {"namespaces": ["other"]}),
    (f"{_PARAMS}.service_account", {"service_account": "builder"}, {"service_accounts": ["builder"]}),
    (f"{_PARAMS}.priority_class", {"priority_class": "high"}, {"priority_classes": ["*"]}),
    (f"{_PARAMS}.runtime_class", {"runtime_class": "runc"}, {"runtime_classes": ["runc"]}),
    (f"{_PARAMS}.image_pull_secrets[0]", {"image_pull_secrets": ["r"]}, {"image_pull_secrets": ["r"]}),
    (f"{_PARAMS}.tolerations[0]", {"tolerations": [{"key": "gpu"}]}, {"tolerations": ["gpu"]}),
    (f"{_PARAMS}.tolerations[0]", {"tolerations": [{"operator": "Exists"}]}, {"tolerations": ["*"]}),
    (f"{_PARAMS}.pod_template", {"pod_template": _LABELS}, {"pod_template": ["metadata"]}),
    (f"{_PARAMS}.pod_template", {"pod_template": _SECRET}, {"pod_template": ["spec.volumes[].secret"]}),
]


def judged(params: dict[str, Any], settings: dict[str, Any] | KubernetesSettings) -> None:
    check_choices(checked_params({"image": "i", "cmd": ["x"], **params}), checked_settings(settings), "default")


@pytest.mark.parametrize(("field", "params", "allowed"), _CHOICES)
def test_a_request_chooses_what_the_owner_allows(field: str, params: dict[str, Any], allowed: dict[str, Any]) -> None:
    with pytest.raises(PolicyDenied, match="settings do not allow") as caught:
        judged(params, {"service_account": "jobs", "runtime_class": "gvisor"})
    assert caught.value.message.startswith(field)
    assert next(iter(allowed)) in caught.value.mend
    judged(params, {"allowed": allowed})
    assert chosen_by(checked_params({"image": "i", "cmd": ["x"], **params}))


def test_what_the_settings_say_may_be_repeated() -> None:
    ours = {"service_account": "jobs", "runtime_class": "gvisor", "priority_class": "low", "image_pull_secrets": ["r"]}
    judged({**ours, "namespace": "default", "tolerations": [{"key": "x"}]}, {**ours, "tolerations": [{"key": "x"}]})


@pytest.mark.parametrize(
    "params",
    [
        {"tolerations": [{"operator": "Exists"}]},
        {"pod_template": {"spec": {"volumes": [{"name": "s", "secret": {}}]}}},
        {"pod_template": {"spec": {"affinity": {}}}},
        {"pod_template": {"spec": {"nodeSelector": {"pool": "trusted"}}}},
        {"node_selector": {"pool": "trusted"}},
        {"platform": "linux/arm64"},
    ],
)
def test_what_the_owner_demands_is_not_undone(params: dict[str, Any]) -> None:
    demanded = {
        "spec": {"affinity": {"nodeAffinity": {}}, "nodeSelector": {"pool": "strangers", "kubernetes.io/arch": "amd64"}}
    }
    paths = ["spec.affinity", "spec.nodeSelector", "spec.volumes[].emptyDir"]
    with pytest.raises(PolicyDenied):
        judged(params, {"pod_template": demanded, "allowed": {"tolerations": ["gpu"], "pod_template": paths}})


@pytest.mark.parametrize(
    "params",
    [
        {"namespace": "a/b"},
        {"service_account": "Root"},
        {"tolerations": [{"keys": "a"}]},
        {"pod_template": {"spec": {"hostNetwork": True}}},
        {"pod_template": {"spec": {"nodeSelector": "pool"}}},
        {"pod_template": {"metadata": {"annotations": 1}}},
        {"pod_template": {"spec": {"containers": [{"name": "job", "volumeMounts": [{"mountPath": INIT}]}]}}},
        {"pod_template": {"spec": {"volumes": [{"name": "r", "hostPath": {"path": "/"}}]}}},
    ],
)
def test_what_no_cluster_takes_is_said_by_its_path(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        judged(params, {"allowed": {"pod_template": ["*"], "tolerations": ["*"], "service_accounts": ["*"]}})
    assert caught.value.path.startswith(f"{_PARAMS}.{next(iter(params))}")


@pytest.mark.parametrize(
    "name", ["k8s.v1.cni.cncf.io/networks", "io.katacontainers.config.hypervisor.kernel", "dev.gvisor.flag.network"]
)
def test_what_a_runtime_takes_from_annotations_is_no_requests(name: str) -> None:
    template = {"metadata": {"annotations": {"team/note": "x", name: "other"}}}
    with pytest.raises(PolicyDenied, match=name):
        judged({"pod_template": template}, {"allowed": {"pod_template": ["*"]}})
    del template["metadata"]["annotations"][name]
    judged({"pod_template": template}, {"allowed": {"pod_template": ["*"]}})
    checked_settings({"pod_template": {"metadata": {"annotations": {name: "other"}}}})


def test_every_namespace_is_named() -> None:
    with pytest.raises(InvalidRequest, match="watched"):
        checked_settings({"allowed": {"namespaces": ["*"]}})


def test_choices_reach_the_pod_beneath_what_is_the_owners() -> None:
    template = {"metadata": {"labels": {"team": "b", "more": "c"}}, "spec": {"tolerations": [{"key": "t"}]}}
    settings = checked_settings(
        {
            "service_account": "jobs",
            "priority_class": "low",
            "image_pull_secrets": ["r"],
            "tolerations": [{"key": "o"}],
            "pod_template": {"metadata": {"labels": {"team": "a"}}},
        }
    )
    told = pod(
        request(
            {
                "service_account": "builder",
                "runtime_class": "kata",
                "image_pull_secrets": ["r", "s"],
                "tolerations": [{"key": "p"}],
                "pod_template": template,
            }
        ),
        settings,
    )
    spec, labels = told["spec"], told["metadata"]["labels"]
    assert (spec["serviceAccountName"], spec["priorityClassName"], spec["runtimeClassName"]) == (
        "builder",
        "low",
        "kata",
    )
    assert spec["automountServiceAccountToken"] is False
    assert spec["imagePullSecrets"] == [{"name": "r"}, {"name": "s"}]
    assert spec["tolerations"] == [{"key": "t"}, {"key": "o"}, {"key": "p"}]
    assert (labels["team"], labels["more"]) == ("a", "c")


def test_gpus_are_the_device_plug_ins_by_number() -> None:
    settings = checked_settings(
        {"gpus": {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "gpu.intel.com/xe"}}
    )
    gpus = [GPU(vendor="nvidia"), GPU(vendor="nvidia"), GPU(vendor="amd"), GPU(vendor="intel")]
    (container,) = pod(request(resources=Resources(gpus=gpus)), settings)["spec"]["containers"]
    expected = {"nvidia.com/gpu": "2", "amd.com/gpu": "1", "gpu.intel.com/xe": "1"}
    for part in ("limits", "requests"):
        assert expected.items() <= container["resources"][part].items()
    with pytest.raises(NotSupported, match="chooses which"):
        pod(request(resources=Resources(gpus=[GPU(vendor="nvidia", index=0)])), settings)
    strict = msgspec.structs.replace(Policy.trusted(), devices=("amd.com/gpu",))
    check_request(request(resources=Resources(gpus=gpus[2:3])), strict, settings)
    with pytest.raises(PolicyDenied, match=r"nvidia.com/gpu=all"):
        check_request(request(resources=Resources(gpus=gpus[:1])), strict, settings)


def test_a_named_volume_is_a_claim() -> None:
    inputs = [
        StorageVolume(type="volume", source="data", target="/data"),
        StorageVolume(type="volume", source="cache", target="/cache", read_only=False),
    ]
    asked = request(inputs=inputs)
    spec = pod(asked, places=places_of(grant_volumes(asked, Policy.trusted(), ())))["spec"]
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in spec["volumes"]}
    assert (claims["place-0"], claims["place-1"]) == ({"claimName": "data"}, {"claimName": "cache"})
    mounts = {mount["mountPath"]: mount.get("readOnly") for mount in spec["containers"][0]["volumeMounts"]}
    assert (mounts["/data"], mounts["/cache"]) == (True, False)
    assert len(spec["containers"]) == 1


async def test_a_claim_is_looked_for_before_anything_is_made(alone: Bench, server: ApiServer, state_dir: Path) -> None:
    asked = alone.request("true", inputs=[StorageVolume(type="volume", source="data", target="/data")])
    with pytest.raises(InvalidRequest, match="default has no PersistentVolumeClaim") as caught:
        await alone.executor.run(asked)
    assert caught.value.path == "$.inputs[0].source"
    server.claims.add("default/data")
    assert (await alone.executor.run(asked)).exit_code == 0
    server.rights.remove(("persistentvolumeclaims", "get"))
    server.claims.clear()
    assert (await alone.run("true", inputs=asked.inputs)).exit_code == 0


async def test_jobs_of_two_namespaces_are_one_executors(server: ApiServer, state_dir: Path) -> None:
    allowed = {"allowed": {"namespaces": ["other"]}}
    async with opened(state_dir, str(server.kubeconfig), clears=False, **allowed) as bench:
        here = await bench.start("sh", "-c", WAITS)
        there = await bench.start("sh", "-c", WAITS, params={"namespace": "other"})
        info = await bench.executor.inspect(there)
        assert info.engine_ids["namespace"] == "other"
        assert "namespace: other" in info.loosened
        assert {pod["metadata"]["namespace"] for pod in server.pods.values()} == {"default", "other"}
        assert len({name.partition("/")[0] for name in server.maps}) == 2
        engine = await bench.executor._core.engine("kubernetes")
        assert len(await engine.survey()) == 2
    async with opened(state_dir, str(server.kubeconfig), **allowed) as bench:
        for job in (here, there):
            await bench.executor.send_signal(job, "USR1")
            result = await asyncio.wait_for(bench.executor.wait(job), 30)
            assert (result.exit_code, result.stdout) == (4, b"ready\nbye\n")
    assert server.pods == {}
