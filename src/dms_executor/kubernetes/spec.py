"""The engine's params (what a request asks for) and settings (what the owner of the executor chose)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..errors import InvalidRequest
from ..images.params import ImageParams, as_params, converted, set_params
from ..types import ByteSize, SpecConfig
from .template import check_template

__all__ = [
    "KubernetesAllowed",
    "KubernetesParams",
    "KubernetesSettings",
    "KubernetesSpec",
    "checked_params",
    "checked_settings",
    "platform_labels",
]


class KubernetesParams(ImageParams, frozen=True, kw_only=True):
    """`engine_spec.params`, as every engine takes them that runs images.

    `image`: a name that the nodes know or pull. A cluster does not tell an image's own entrypoint and command:
    `entrypoint` and `cmd` together are what runs. `user`: numbers, "uid" or "uid:gid". `node_selector`: labels that
    the node must bear. The others as `KubernetesSettings` has them: those of the settings count where a request says
    nothing, lists are joined, and what a request may say is what `KubernetesSettings.allowed` names.
    """

    node_selector: dict[str, str] = {}
    namespace: str | None = None
    service_account: str | None = None
    priority_class: str | None = None
    runtime_class: str | None = None
    image_pull_secrets: list[str] = []
    tolerations: list[dict[str, Any]] = []
    pod_template: dict[str, Any] = {}


class KubernetesSpec(KubernetesParams, frozen=True, kw_only=True):
    """Builds the `SpecConfig` of this engine: `KubernetesSpec(image="busybox:1.36", cmd=["true"]).build()`."""

    def build(self) -> SpecConfig:
        """The params that differ from their defaults. Raises `InvalidRequest`."""
        return SpecConfig(type="kubernetes", params=set_params(self, KubernetesParams))


class KubernetesAllowed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request's params may name beside what the settings say; "*" is any, but of `namespaces`, in each of which
    the executor's user needs its role. The default: nothing.

    `tolerations`: keys of taints; a toleration without a key takes "*". `pod_template`: paths of what a request's may
    say, of all that the settings' own may: "metadata.labels", "spec.affinity", "spec.containers[].env" (docs).
    """

    namespaces: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    priority_classes: tuple[str, ...] = ()
    runtime_classes: tuple[str, ...] = ()
    image_pull_secrets: tuple[str, ...] = ()
    tolerations: tuple[str, ...] = ()
    pod_template: tuple[str, ...] = ()


class KubernetesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`Settings.engines["kubernetes"]`.

    `kubeconfig`: a file; None: as kubectl finds it (`KUBECONFIG`, in a pod its service account, `~/.kube/config`).
    `context`: of it; None: its current one. `namespace`: where the pods are made; None: the context's. `memory`: the
    limit of a job that names none. `image_pull_secrets`, `service_account`, `priority_class`, `tolerations`,
    `runtime_class`: of every pod; the account's token is not mounted. `pod_template`: what else every pod has, under
    what is ours (docs). `network_policies`: the cluster enforces
    NetworkPolicy, and the namespace has one that cuts pods labelled `dms-executor/network: none` off (docs).
    `volume_size`: bytes that an input or an output may have; a job that writes more is evicted. `keep_outputs`: seconds
    that a pod with outputs stands after its job for whoever collects them; then they are lost. `gpus`: the resource by
    which the cluster's device plug-in of a vendor gives one ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/xe").
    `allowed`: what a request may choose of all that.
    """

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    memory: ByteSize = ByteSize("2GiB")
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str | None = None
    priority_class: str | None = None
    tolerations: tuple[dict[str, Any], ...] = ()
    runtime_class: str | None = None
    network_policies: bool = False
    volume_size: ByteSize = ByteSize("8GiB")
    keep_outputs: float = 3600.0
    pod_template: dict[str, Any] = {}
    gpus: dict[Literal["nvidia", "amd", "intel"], str] = {}
    allowed: KubernetesAllowed = KubernetesAllowed()


def platform_labels(params: KubernetesParams) -> dict[str, str]:
    """By which a node is chosen for `platform`: https://kubernetes.io/docs/reference/labels-annotations-taints/"""
    if params.platform is None:
        return {}
    system, _, architecture = params.platform.partition("/")
    return {"kubernetes.io/os": system, "kubernetes.io/arch": architecture.partition("/")[0]}


def checked_params(params: dict[str, Any]) -> KubernetesParams:
    """Raises `InvalidRequest`, which lists the known keys where one is unknown."""
    return as_params(KubernetesParams, params)


def checked_settings(settings: Any) -> KubernetesSettings:
    """The engine's settings out of a struct, a mapping or None. Raises `InvalidRequest`."""
    is_whole = isinstance(settings, KubernetesSettings)
    checked: KubernetesSettings = (
        settings if is_whole else converted(KubernetesSettings, settings or {}, "$.engines.kubernetes")
    )
    check_template(checked.pod_template)
    if "*" in checked.allowed.namespaces:
        raise InvalidRequest(
            "'*' is no namespace: each is watched", path="$.engines.kubernetes.allowed.namespaces", mend="Name them"
        )
    if checked.memory <= 0:
        raise InvalidRequest(f"{checked.memory} is no limit", path="$.engines.kubernetes.memory", mend="E.g. '2GiB'")
    return checked
