"""A pod template, the owner's or a request's: it lies under ours, in what it says of nothing that we vouch for.

What may stand in it is listed, so that neither a mistake nor a field of a later release loosens what a job is held by.
"""

from __future__ import annotations

from collections.abc import Iterator
from posixpath import normpath
from typing import Any

from ..errors import InvalidRequest
from ..mounts import RESERVED_TARGETS
from .names import CONTAINER

__all__ = ["check_template", "said_by", "under"]

_SPEC = frozenset(
    {
        *("affinity", "containers", "dnsConfig", "dnsPolicy", "hostAliases", "nodeSelector", "preemptionPolicy"),
        *("schedulerName", "securityContext", "tolerations", "topologySpreadConstraints", "volumes"),
    }
)
_SECURITY = frozenset({"fsGroup", "fsGroupChangePolicy", "runAsNonRoot", "seLinuxOptions", "supplementalGroups"})
_CONTAINER = frozenset({"name", "env", "envFrom", "resources", "volumeMounts"})
_VOLUME = frozenset(
    {"name", "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "nfs", "persistentVolumeClaim", "secret"}
)
_ALLOWED: dict[str, frozenset[str]] = {
    "": frozenset({"metadata", "spec"}),
    ".metadata": frozenset({"labels", "annotations"}),
    ".spec": _SPEC,
    ".spec.securityContext": _SECURITY,
    ".spec.containers[]": _CONTAINER,
    ".spec.volumes[]": _VOLUME,
}


def check_template(template: dict[str, Any], path: str = "$.engines.kubernetes.pod_template") -> None:
    """`path`: where it stands. Raises `InvalidRequest`."""
    _check(template, "", path)
    spec = template.get("spec") or {}
    _check_selector(spec.get("nodeSelector"), f"{path}.spec.nodeSelector")
    for container in spec.get("containers") or []:
        _check_mounts(container.get("volumeMounts"), f"{path}.spec.containers[].volumeMounts")
        if container.get("name") != CONTAINER:
            raise InvalidRequest(
                f"a pod has one container, {CONTAINER!r}", path=f"{path}.spec.containers", mend="Name no other"
            )


def said_by(template: dict[str, Any]) -> list[str]:
    """The paths of what it says, as far as they are told apart: "metadata.labels", "spec.containers[].env"."""
    return list(dict.fromkeys(path.removeprefix(".") for path in _leaves(template, "")))


def under(template: dict[str, Any], pod: dict[str, Any]) -> dict[str, Any]:
    """Both as one: where both say something, `pod` counts; lists are joined, of two of one name `pod`'s is taken."""
    return dict(_merged(template, pod))


def _leaves(found: Any, at: str) -> Iterator[str]:
    if f"{at}[]" in _ALLOWED:
        for one in found:
            yield from _leaves(one, f"{at}[]")
    elif at in _ALLOWED:
        for name, value in found.items():
            if name != "name":
                yield from _leaves(value, f"{at}.{name}")
    else:
        yield at


def _check(found: Any, at: str, path: str) -> None:
    if isinstance(found, list) and f"{at}[]" in _ALLOWED:
        for one in found:
            _check(one, f"{at}[]", path)
        return
    allowed = _ALLOWED.get(at)
    if allowed is None and f"{at}[]" not in _ALLOWED:
        return
    if not isinstance(found, dict) or allowed is None:
        raise InvalidRequest("something else is wanted", path=f"{path}{at}", mend="As a PodTemplateSpec has it")
    for name, value in found.items():
        if name not in allowed:
            raise InvalidRequest(
                f"{name} is not the template's to say",
                path=f"{path}{at}.{name}",
                mend=f"Use {', '.join(sorted(allowed))}",
            )
        _check(value, f"{at}.{name}", path)


def _check_selector(selector: Any, path: str) -> None:
    if selector is None:
        return
    if not isinstance(selector, dict) or not all(isinstance(one, str) for pair in selector.items() for one in pair):
        raise InvalidRequest(f"{selector!r} is no map of labels", path=path, mend="E.g. {'pool': 'jobs'}")


def _check_mounts(mounts: Any, path: str) -> None:
    """None of them over what the job is held by, which lies in its /dev: a deeper path would be mounted after it."""
    if mounts is None:
        return
    if not isinstance(mounts, list):
        raise InvalidRequest("something else is wanted", path=path, mend="A list of volume mounts")
    for mount in mounts:
        target = mount.get("mountPath") if isinstance(mount, dict) else None
        if not isinstance(target, str) or normpath("/" + target.lstrip("/")) != target or target == "/":
            raise InvalidRequest(
                f"{target!r} is no normalised path inside the job",
                path=f"{path}[].mountPath",
                mend="E.g. '/data': absolute, with no '.', '..', '//' or final '/'",
            )
        if any(target == reserved or target.startswith(f"{reserved}/") for reserved in RESERVED_TARGETS):
            raise InvalidRequest(
                f"{target!r} lies where the job's own things are",
                path=f"{path}[].mountPath",
                mend=f"Use another than {', '.join(RESERVED_TARGETS)}",
            )


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{name: _merged(below.get(name), value) for name, value in above.items()}}
    if isinstance(below, list) and isinstance(above, list):
        names = {one.get("name") for one in above if isinstance(one, dict)}
        first = [one for one in below if not (isinstance(one, dict) and one.get("name", "") in names)]
        # A variable is a value or a reference, a volume of one kind: only a container's parts are joined.
        same = next((one for one in below if isinstance(one, dict) and one.get("name") == CONTAINER), None)
        return [*first, *(_merged(same, one) if _is_job(one) else one for one in above)]
    return above


def _is_job(one: Any) -> bool:
    return isinstance(one, dict) and one.get("name") == CONTAINER and "volumeMounts" in one
