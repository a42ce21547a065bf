"""The pod of an execution: from a request to what the cluster is told, as little as the job needs and no more.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

from ..engine import Execution
from ..errors import StartFailed
from ..limits import Limits
from ..types import ExecutionRequest
from .handed import MOST, is_handed
from .names import CONTAINER, HELD, INIT, INIT_FOLDER, REPORT, ROOM, annotations_of, labels_of, pod_name
from .places import Place, containers_of, mounts_of, volumes_of
from .spec import KubernetesParams, KubernetesSettings, platform_labels
from .template import under

__all__ = ["init_map", "pod_of"]

_LATE, _FETCHING = 900, 86_400.0  # seconds: of the go and of clocks; of outputs that are fetched
_PULLS = {"missing": "IfNotPresent", "always": "Always", "never": "Never"}


def init_map(*programs: Path) -> dict[str, Any]:
    """The ConfigMap that holds what runs in pods, one for each release of it, which all of a namespace share. Blocks.

    Immutable: a kubelet need not watch it. https://kubernetes.io/docs/concepts/configuration/configmap/
    """
    contents = {program.name: program.read_bytes() for program in programs}
    digest = hashlib.sha256(b"".join(contents.values())).hexdigest()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"dms-executor-init-{digest[:16]}",
            "labels": {"app.kubernetes.io/managed-by": "dms-executor"},
        },
        "immutable": True,
        "binaryData": {name: base64.b64encode(data).decode("ascii") for name, data in contents.items()},
    }


def pod_of(
    x: Execution,
    params: KubernetesParams,
    settings: KubernetesSettings,
    limits: Limits,
    *,
    executor_id: str,
    init: str,
    places: list[Place] | None = None,
    grace: float = 10.0,
    patience: float = 1800.0,
) -> dict[str, Any]:
    """`init`: the name of the ConfigMap; `places`: of inputs and outputs; `grace`: seconds of a timeout's end;
    `patience`: of its preparation.

    Raises `StartFailed` without a command.
    """
    request = x.request
    argv = [*(params.entrypoint or []), *(params.cmd or [])]
    if not argv:
        raise StartFailed("there is no command", mend="Give entrypoint or cmd", execution_id=x.id)
    places = places or []
    job = _container(x, params, limits, argv, places, grace)
    _add_gpus(job["resources"], request, settings)
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "shareProcessNamespace": False,
        "terminationGracePeriodSeconds": 10,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": {**params.node_selector, **platform_labels(params)},
        "tolerations": [*settings.tolerations, *params.tolerations],
        "imagePullSecrets": [
            {"name": name} for name in dict.fromkeys([*settings.image_pull_secrets, *params.image_pull_secrets])
        ],
        # 0555: the kubelet owns it as root, and the job's user executes it.
        "volumes": [
            {"name": "init", "configMap": {"name": init, "defaultMode": 0o555}},
            *volumes_of(places, settings),
        ],
        "containers": [job],
        **containers_of(places, job, settings),
    }
    if _needs_room(request):
        room = {"medium": "Memory", "sizeLimit": str(2 * MOST)}
        spec["volumes"].append({"name": "room", "emptyDir": room})
    for field, value in (
        ("activeDeadlineSeconds", _deadline(request.timeout, grace + patience, places, settings)),
        ("hostname", params.hostname),
        ("serviceAccountName", params.service_account or settings.service_account),
        ("priorityClassName", params.priority_class or settings.priority_class),
        ("runtimeClassName", params.runtime_class or settings.runtime_class),
    ):
        if value is not None:
            spec[field] = value
    ours = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(x.token),
            "labels": labels_of(executor_id, x.token, x.id, request.job_id, request.network),
            "annotations": annotations_of(x.id, request.job_id),
        },
        "spec": spec,
    }
    return under(params.pod_template, under(settings.pod_template, ours))


def _deadline(timeout: float | None, more: float, places: list[Place], settings: KubernetesSettings) -> int | None:
    """When the cluster ends a pod whose init has not kept its timeout: so late that it never ends another.

    It counts from when a node has the pod, by that node's clock, which may be put right meanwhile, and while outputs
    wait, too. https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#lifecycle
    """
    if timeout is None:
        return None
    outputs = settings.keep_outputs + _FETCHING if any(place.returns for place in places) else 0.0
    seconds = math.ceil(timeout + more + outputs) + _LATE
    return seconds if seconds < 2**31 else None


def _container(
    x: Execution, params: KubernetesParams, limits: Limits, argv: list[str], places: list[Place], grace: float
) -> dict[str, Any]:
    environment = {**params.environment, **x.request.environment}
    wrapper, mounts = [INIT, "-l", REPORT, "-w"], [{"name": "init", "mountPath": INIT_FOLDER, "readOnly": True}]
    if is_handed(x.request):
        wrapper += ["-h", ROOM]
    if x.request.stdin_open or x.request.tty:
        wrapper += ["-a", ROOM]
    if x.request.tty:
        wrapper += ["-t", "{}x{}".format(*(x.request.tty_size or (80, 24)))]
        environment = {"TERM": "xterm", **environment}
    if _needs_room(x.request):
        mounts.append({"name": "room", "mountPath": ROOM})
    if x.request.timeout is not None:
        wrapper += ["-d", f"{round(x.request.timeout * 1000)}:{round(grace * 1000)}"]
    if any(place.returns for place in places):
        wrapper += ["-u", f"{HELD}/job"]
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": params.image,
        "imagePullPolicy": _PULLS[params.pull],
        "command": [*wrapper, "--", *(_literal(word) for word in argv)],
        "env": [{"name": name, "value": _literal(value)} for name, value in environment.items()],
        "terminationMessagePath": REPORT,
        "terminationMessagePolicy": "File",
        "volumeMounts": [*mounts, *mounts_of(places)],
        "securityContext": _security(params),
        "resources": _resources(x, limits),
    }
    if params.working_directory is not None:
        container["workingDir"] = params.working_directory
    return container


def _needs_room(request: ExecutionRequest) -> bool:
    """A folder in memory, for what is handed over, or for the FIFOs by which others attach."""
    return is_handed(request) or request.stdin_open or request.tty


def _literal(text: str) -> str:
    """Written so that the kubelet, which replaces `$(NAME)` and makes one of `$$`, gives it back as it is."""
    return text.replace("$", "$$")


def _security(params: KubernetesParams) -> dict[str, Any]:
    security: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": params.read_only_root,
    }
    if params.user is not None:
        user, _, group = params.user.partition(":")
        security["runAsUser"] = int(user)
        # Said, not only so: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
        security["runAsNonRoot"] = int(user) != 0
        if group:
            security["runAsGroup"] = int(group)
    return security


def _add_gpus(resources: dict[str, Any], request: ExecutionRequest, settings: KubernetesSettings) -> None:
    """By number: which ones is the device plug-in's to choose.

    https://kubernetes.io/docs/tasks/manage-gpus/scheduling-gpus/
    """
    for resource, count in Counter(settings.gpus[gpu.vendor] for gpu in request.resources.gpus).items():
        for part in ("limits", "requests"):
            resources[part][resource] = str(count)


def _resources(x: Execution, limits: Limits) -> dict[str, Any]:
    """What is named is reserved; a default only caps: without a request a limit would reserve as much."""
    named = x.request.resources
    capped: dict[str, str] = {}
    reserved: dict[str, str] = {}
    for word, limit, is_named in (
        ("cpu", f"{round(limits.cpu * 1000)}m" if limits.cpu is not None else None, named.cpu is not None),
        ("memory", str(limits.memory) if limits.memory is not None else None, named.memory is not None),
    ):
        if limit is not None:
            capped[word] = limit
            reserved[word] = limit if is_named else "0"
    if named.disk is not None:  # a kubelet evicts what passes it: no limit that holds, and told as unenforced
        capped["ephemeral-storage"] = reserved["ephemeral-storage"] = str(int(named.disk))
    return {"limits": capped, "requests": reserved}
