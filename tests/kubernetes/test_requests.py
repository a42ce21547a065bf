"""What is refused before a cluster is asked, and what a pod is made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dms_executor import ByteSize, ExecutionRequest, Executor, Policy, Resources, Settings
from dms_executor.engine import Execution
from dms_executor.errors import EngineUnavailable, InvalidRequest, NotSupported, PolicyDenied
from dms_executor.kubernetes import KubernetesSettings, KubernetesSpec
from dms_executor.kubernetes.body import pod_of
from dms_executor.kubernetes.check import check_request, limits_and_gaps
from dms_executor.kubernetes.names import INIT, INIT_FOLDER, ROOM
from dms_executor.kubernetes.places import Place, places_of
from dms_executor.kubernetes.spec import checked_params, checked_settings
from dms_executor.types import GPU, PortMapping, StorageVolume
from dms_executor.volumes import grant_volumes

_SETTINGS = KubernetesSettings()


def request(params: dict[str, Any] | None = None, **fields: Any) -> ExecutionRequest:
    spec = KubernetesSpec(**{"image": "busybox:1", "cmd": ["true"], **(params or {})}).build()
    return ExecutionRequest(job_id="j", execution_id="e", engine_spec=spec, **fields)


@pytest.mark.parametrize(
    ("field", "fields", "params"),
    [
        ("$.resources.gpus", {"resources": Resources(gpus=[GPU(vendor="nvidia")])}, {}),
        ("$.ports", {"ports": [PortMapping(container_port=80)]}, {}),
        ("$.init", {"init": False}, {}),
        ("$.network", {"network": "host"}, {}),
        ("$.engine_spec.params.cmd", {}, {"cmd": None}),
        ("$.engine_spec.params.user", {}, {"user": "nobody"}),
        ("$.engine_spec.params.image", {}, {"image": "rootfs:/"}),
        ("$.resources.disk", {"resources": Resources(disk=ByteSize("1GiB"))}, {}),
        ("$.resources.pids", {"resources": Resources(pids=10)}, {}),
    ],
)
def test_what_is_lacking_is_refused_by_its_name(field: str, fields: dict[str, Any], params: dict[str, Any]) -> None:
    with pytest.raises(NotSupported) as caught:
        asked = request(params, **fields)
        check_request(asked, Policy.trusted(), _SETTINGS)
        limits_and_gaps(asked, Policy.trusted(), _SETTINGS)
    assert (caught.value.engine, caught.value.what) == ("kubernetes", field)
    assert caught.value.mend


def test_a_network_that_nobody_cuts_off_is_refused_or_recorded() -> None:
    with pytest.raises(NotSupported, match="network_policies"):
        check_request(request(), Policy(), _SETTINGS)
    with pytest.raises(PolicyDenied, match="networks="):
        check_request(request(network="cluster"), Policy(), _SETTINGS)
    check_request(request(), Policy(), KubernetesSettings(network_policies=True))
    assert limits_and_gaps(request(), Policy.trusted(), _SETTINGS)[1] == ["pids", "network"]


def test_an_unknown_param_lists_those_that_are_known() -> None:
    with pytest.raises(InvalidRequest, match="node_selector"):
        checked_params({"image": "i", "cmd": ["x"], "unknown": 1})


def pod(
    asked: ExecutionRequest, settings: KubernetesSettings = _SETTINGS, places: list[Place] | None = None
) -> dict[str, Any]:
    check_request(asked, Policy.trusted(), settings)
    limits, _ = limits_and_gaps(asked, Policy.trusted(), settings)
    x = Execution(id="e.", token="t" * 20, executor_id="x", folder=Path("/nowhere"), request=asked)
    params = KubernetesSpec(**asked.engine_spec.params)
    return pod_of(x, params, settings, limits, executor_id="x", init="init", places=places)


def test_a_pod_has_no_more_rights_than_it_needs() -> None:
    spec = pod(request())["spec"]
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"
    assert spec["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": False,
    }
    assert "hostNetwork" not in spec


def test_a_user_that_is_not_root_is_said_to_be_none() -> None:
    security = {user: pod(request({"user": user}))["spec"]["containers"][0]["securityContext"] for user in ("0", "7:8")}
    assert security["0"]["runAsNonRoot"] is False
    assert security["7:8"].items() >= {"runAsNonRoot": True, "runAsUser": 7, "runAsGroup": 8}.items()


def test_a_default_limit_reserves_nothing_and_a_named_one_does() -> None:
    (container,) = pod(request())["spec"]["containers"]
    assert container["resources"] == {"limits": {"memory": str(2 << 30)}, "requests": {"memory": "0"}}
    asked = request(resources=Resources(cpu=0.5, memory=ByteSize("64MiB")))
    (container,) = pod(asked)["spec"]["containers"]
    named = {"cpu": "500m", "memory": str(64 << 20)}
    assert container["resources"] == {"limits": named, "requests": named}


_TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"team": "a", "dms-executor/token": "not-ours"}},
    "spec": {
        "affinity": {"nodeAffinity": {}},
        "tolerations": [{"key": "gpu"}],
        "securityContext": {"fsGroup": 7},
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "init", "emptyDir": {}}],
        "containers": [
            {
                "name": "job",
                "env": [{"name": "A", "valueFrom": {}}, {"name": "B", "value": "below"}],
                "resources": {"limits": {"example.com/gpu": "1", "memory": "1"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ],
    },
}


def test_a_template_lies_under_what_is_ours() -> None:
    settings = checked_settings({"pod_template": _TEMPLATE, "tolerations": [{"key": "x"}]})
    told = pod(request(environment={"A": "above"}), settings)
    spec, (container,) = told["spec"], told["spec"]["containers"]
    assert told["metadata"]["labels"]["team"] == "a"
    assert told["metadata"]["labels"]["dms-executor/token"] == "t" * 20
    assert spec["securityContext"] == {"fsGroup": 7, "seccompProfile": {"type": "RuntimeDefault"}}
    assert spec["tolerations"] == [{"key": "gpu"}, {"key": "x"}]
    assert [volume["name"] for volume in spec["volumes"]] == ["data", "init"]
    assert "configMap" in spec["volumes"][1]
    assert container["env"] == [{"name": "B", "value": "below"}, {"name": "A", "value": "above"}]
    assert container["resources"]["limits"] == {"example.com/gpu": "1", "memory": str(2 << 30)}
    assert [mount["name"] for mount in container["volumeMounts"]] == ["data", "init"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    "template",
    [
        {"spec": {"hostNetwork": True}},
        {"spec": {"hostPID": True}},
        {"spec": {"shareProcessNamespace": True}},
        {"spec": {"initContainers": []}},
        {"spec": {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]}},
        {"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}},
        {"spec": {"containers": [{"name": "job", "securityContext": {"privileged": True}}]}},
        {"spec": {"containers": [{"name": "beside", "env": []}]}},
        {"spec": {"containers": [{"name": "job", "ports": [{"hostPort": 1}]}]}},
        {"spec": []},
        {"spec": {"nodeSelector": ["a"]}},
        {"spec": {"nodeSelector": {"a": True}}},
        {"spec": {"containers": [{"name": "job", "volumeMounts": {"name": "a", "mountPath": "/a"}}]}},
        *(
            {"spec": {"containers": [{"name": "job", "volumeMounts": [{"name": "a", "mountPath": target}]}]}}
            for target in (
                INIT,
                INIT_FOLDER,
                ROOM,
                "/dev",
                "/proc/1",
                "//dev/x",
                "/a/../dev/x",
                "/dev/",
                "dev/x",
                "/",
                1,
            )
        ),
    ],
)
def test_a_template_says_nothing_of_what_a_job_is_held_by(template: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        checked_settings({"pod_template": template})
    assert caught.value.path.startswith("$.engines.kubernetes.pod_template.spec")
    assert caught.value.mend


def test_a_named_disk_is_the_nodes_to_watch_and_told_as_unenforced() -> None:
    asked = request(resources=Resources(disk=ByteSize("1GiB")))
    with pytest.raises(NotSupported, match="evicts"):
        limits_and_gaps(asked, Policy.trusted(), _SETTINGS)
    policy = msgspec.structs.replace(Policy.trusted(), unenforced=("disk",))
    limits, gaps = limits_and_gaps(asked, policy, _SETTINGS)
    assert "disk" in gaps
    x = Execution(id="e.", token="t" * 20, executor_id="x", folder=Path("/nowhere"), request=asked)
    told = pod_of(x, KubernetesSpec(**asked.engine_spec.params), _SETTINGS, limits, executor_id="x", init="init")
    assert told["spec"]["containers"][0]["resources"]["limits"]["ephemeral-storage"] == str(1 << 30)


def test_nothing_secret_is_the_clusters_to_keep() -> None:
    scripts = {"a": b"#!/bin/sh\nsecret\n"}
    asked = request(secret_environment={"S": "secret"}, stdin=b"secret", provision_scripts=scripts)
    told = pod(asked)
    assert "secret" not in str(told).lower().replace("imagepullsecrets", "")
    assert "-h" in told["spec"]["containers"][0]["command"]


def test_a_pod_with_outputs_has_a_container_that_outlives_its_job(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").touch()
    asked = request(
        inputs=[StorageVolume(source=str(tmp_path / "in"), target="/in")],
        outputs=[StorageVolume(source=str(tmp_path / "out"), target="/out")],
    )
    policy = Policy(read_roots=(tmp_path,), write_roots=(tmp_path,), missing_defaults="record")
    places = places_of(grant_volumes(asked, policy, ()))
    spec = pod(asked, places=places)["spec"]
    job, outputs = spec["containers"]
    (inputs,) = spec["initContainers"]
    assert [mount["mountPath"] for mount in job["volumeMounts"] if mount.get("readOnly")] == [INIT_FOLDER, "/in"]
    assert outputs["command"][1:3] == ["-z", "3600"]
    for beside in (inputs, outputs):
        assert beside["securityContext"] == {**job["securityContext"], "readOnlyRootFilesystem": True}
    caps = [volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"] if volume["name"].startswith("place-")]
    assert caps == [str(8 << 30)] * 2


def test_words_are_not_replaced_by_the_kubelet() -> None:
    (container,) = pod(request({"cmd": ["echo", "$(A) $$(B) $C"]}))["spec"]["containers"]
    assert container["command"][-2:] == ["echo", "$$(A) $$$$(B) $$C"]


def test_an_id_that_is_no_label_is_an_annotation() -> None:
    metadata = pod(request())["metadata"]
    assert "dms-executor/execution" not in metadata["labels"]
    assert metadata["annotations"]["dms-executor/execution"] == "e."
    assert metadata["labels"]["dms-executor/job"] == "j"


async def test_without_a_kubeconfig_the_probe_says_how_to_mend_it(state_dir: Path, tmp_path: Path) -> None:
    settings = Settings(engines={"kubernetes": {"kubeconfig": str(tmp_path / "missing")}})
    async with Executor.open(state_dir, policy=Policy.trusted(), settings=settings) as executor:
        (probe,) = await executor.probe("kubernetes")
        assert not probe.usable
        assert "missing" in probe.problem
        assert "kubeconfig" in probe.mend
        with pytest.raises(EngineUnavailable):
            await executor.run(request())
        assert await executor.list() == []
