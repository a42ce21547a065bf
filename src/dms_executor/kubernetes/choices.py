"""What a request may choose of what else is the owner's: that which `KubernetesSettings.allowed` names, and no more.

A request comes from a stranger: another service account, namespace or runtime class is another's rights, another's
quota, or a weaker wall. What the settings say themselves may be repeated, and what they demand is not undone.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import InvalidRequest, PolicyDenied
from ..images.params import PARAMS
from .spec import KubernetesParams, KubernetesSettings, platform_labels
from .template import check_template, said_by

__all__ = ["check_choices", "chosen_by"]

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
# https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#scheduling
_TOLERATION = frozenset({"key", "operator", "value", "effect", "tolerationSeconds"})
_ANNOTATIONS = (
    "k8s.v1.cni.cncf.io/",  # Multus: further networks
    "v1.multus-cni.io/",
    "cni.projectcalico.org/",
    "io.cilium.",
    "ipam.cilium.io/",
    "network.cilium.io/",
    "policy.cilium.io/",
    "k8s.ovn.org/",
    "io.katacontainers.",
    "io.kubernetes.cri-o.",
    "io.kubernetes.cri.",
    "cpu-load-balancing.crio.io",
    "irq-load-balancing.crio.io",
    "seccomp-profile.kubernetes.cri-o.io",
    "dev.gvisor.",
    "container.apparmor.security.beta.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
)
"""How those begin by which a runtime, a network plug-in or a kubelet changes what holds a job: the owner's to say."""
_WHOLE = frozenset({"affinity", "dnsConfig", "dnsPolicy", "preemptionPolicy", "schedulerName", "securityContext"})
"""Of a template: joined, two of them would mean something that neither says."""


def check_choices(params: KubernetesParams, settings: KubernetesSettings, own: str) -> None:
    """`own`: the namespace of who names none. Raises `InvalidRequest`, `PolicyDenied`."""
    allowed = settings.allowed
    for name, chosen, among, given, form in (
        ("namespace", params.namespace, allowed.namespaces, own, _LABEL),
        ("service_account", params.service_account, allowed.service_accounts, settings.service_account, _SUBDOMAIN),
        ("priority_class", params.priority_class, allowed.priority_classes, settings.priority_class, _SUBDOMAIN),
        ("runtime_class", params.runtime_class, allowed.runtime_classes, settings.runtime_class, _SUBDOMAIN),
    ):
        if chosen is not None:
            _check_name(chosen, form, f"{PARAMS}.{name}")
            if chosen != given:
                _check_among(chosen, among, f"{PARAMS}.{name}", _PLURALS[name])
    for index, name in enumerate(params.image_pull_secrets):
        field = f"{PARAMS}.image_pull_secrets[{index}]"
        _check_name(name, _SUBDOMAIN, field)
        if name not in settings.image_pull_secrets:
            _check_among(name, allowed.image_pull_secrets, field, "image_pull_secrets")
    for index, toleration in enumerate(params.tolerations):
        _check_toleration(toleration, settings, f"{PARAMS}.tolerations[{index}]")
    _check_template(params, settings)
    _check_selector(params.node_selector, settings, f"{PARAMS}.node_selector")
    _check_selector(platform_labels(params), settings, f"{PARAMS}.platform")


def chosen_by(params: KubernetesParams) -> list[str]:
    """What a request has of that, for `inspect`."""
    single = (
        ("namespace", params.namespace),
        ("service_account", params.service_account),
        ("priority_class", params.priority_class),
        ("runtime_class", params.runtime_class),
    )
    found = [f"{name}: {value}" for name, value in single if value is not None]
    found += [f"image_pull_secrets: {name}" for name in params.image_pull_secrets]
    found += [f"tolerations: {toleration.get('key', '*')}" for toleration in params.tolerations]
    return [*found, *(f"pod_template: {path}" for path in said_by(params.pod_template))]


_PLURALS = {
    "namespace": "namespaces",
    "service_account": "service_accounts",
    "priority_class": "priority_classes",
    "runtime_class": "runtime_classes",
}


def _check_name(name: str, form: re.Pattern[str], field: str) -> None:
    if not form.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} is no name of the cluster's", path=field, mend="Lower case letters, digits, '-'"
        )


def _check_among(chosen: str, among: tuple[str, ...], field: str, setting: str) -> None:
    if chosen not in among and "*" not in among:
        raise PolicyDenied(
            f"{field}: the engine's settings do not allow {chosen!r}",
            mend=f"Its owner can allow it by allowed={{{setting!r}: [..., {chosen!r}]}} in the engine's settings",
        )


def _check_toleration(toleration: dict[str, Any], settings: KubernetesSettings, field: str) -> None:
    unknown = sorted(set(toleration) - _TOLERATION)
    if unknown:
        raise InvalidRequest(f"{unknown[0]!r} is not of a toleration", path=field, mend=", ".join(sorted(_TOLERATION)))
    if toleration not in settings.tolerations:
        # Without a key it tolerates all there is.
        _check_among(str(toleration.get("key") or "*"), settings.allowed.tolerations, field, "tolerations")


def _check_template(params: KubernetesParams, settings: KubernetesSettings) -> None:
    field = f"{PARAMS}.pod_template"
    check_template(params.pod_template, field)
    among = settings.allowed.pod_template
    for path in said_by(params.pod_template):
        if not any(one == "*" or path == one or path.startswith((f"{one}.", f"{one}[")) for one in among):
            _check_among(path, (), field, "pod_template")
    annotations = (params.pod_template.get("metadata") or {}).get("annotations") or {}
    if not isinstance(annotations, dict):
        raise InvalidRequest(f"{annotations!r} are no annotations", path=f"{field}.metadata.annotations", mend="A map")
    for name in sorted(map(str, annotations)):
        if name.startswith(_ANNOTATIONS):
            raise PolicyDenied(
                f"{field}.metadata.annotations: {name!r} changes what holds a job",
                mend="Leave it out: it is the owner's",
            )
    theirs, ours = (template.get("spec") or {} for template in (params.pod_template, settings.pod_template))
    for name in sorted(_WHOLE & set(theirs) & set(ours)):
        raise PolicyDenied(
            f"{field}.spec.{name}: the engine's settings have one", mend="Leave it out: the owner's counts"
        )
    _check_selector(theirs.get("nodeSelector") or {}, settings, f"{field}.spec.nodeSelector")


def _check_selector(selector: dict[str, str], settings: KubernetesSettings, field: str) -> None:
    """Where the owner keeps pods on some nodes, a request finds its own among those."""
    demanded: dict[str, str] = (settings.pod_template.get("spec") or {}).get("nodeSelector") or {}
    for label, value in selector.items():
        if demanded.get(label, value) != value:
            raise PolicyDenied(
                f"{field}: the engine's settings demand {label}={demanded[label]}", mend="Leave that label out"
            )
