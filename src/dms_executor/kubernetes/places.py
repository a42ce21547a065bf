"""The folders that a pod has for its job's inputs and outputs, and the containers that fill and empty them.

A pod's folders are no folders of this host: each is an `emptyDir` of its own, which inputs are streamed into before the
job's container is made, by one that stands before it, and outputs are streamed out of when that has ended, by one that
stands beside it: so it matters not how the job ended, or what of its container is left.
"""

from __future__ import annotations

import os
from typing import Any

from ..policy import reopen
from ..volumes import Volume, Volumes
from .names import HELD, INIT
from .spec import KubernetesSettings

__all__ = ["FILES", "INPUTS", "TREE", "Place", "containers_of", "mounts_of", "place_folder", "places_of", "volumes_of"]

INPUTS, FILES = "inputs", "outputs"
"""The container that stands before the job's, and the one beside it."""
TREE = "tree"
"""What in a place is mounted: a folder or a file, with its own mode."""
_PLACES = "/dev/.dms-executor-places"
_MEMORY = {"limits": {"memory": str(128 << 20)}, "requests": {"memory": str(16 << 20)}}


class Place:
    """`number` names it; `fills`: it is brought what the host's folder holds; `returns`: it is brought back."""

    def __init__(self, number: int, mount: Volume, fills: bool) -> None:
        self.number = number
        self.mount = mount
        self.fills = fills
        self.returns = mount.grant is not None and not mount.read_only

    @property
    def name(self) -> str:
        """Of the pod's volume."""
        return f"place-{self.number}"


def places_of(volumes: Volumes) -> list[Place]:
    """In their order, parents before what is mounted inside them. Blocks: it looks which folders are empty."""
    return [
        Place(number, mount, mount.grant is not None and (mount.read_only or not _is_empty(mount)))
        for number, mount in enumerate(volumes.mounts)
    ]


def place_folder(place: Place) -> str:
    """Where the containers that fill and empty it have it."""
    return f"{_PLACES}/{place.number}"


def volumes_of(places: list[Place], settings: KubernetesSettings) -> list[dict[str, Any]]:
    """A claim, or a folder with its cap: who exceeds it is evicted, or where it is memory finds it full."""
    found: list[dict[str, Any]] = []
    for place in places:
        if place.mount.name is not None:
            found.append({"name": place.name, "persistentVolumeClaim": {"claimName": place.mount.name}})
            continue
        if place.mount.grant is not None:
            folder: dict[str, Any] = {"sizeLimit": str(int(settings.volume_size))}
        else:
            folder = {"medium": "Memory", **({"sizeLimit": str(place.mount.size)} if place.mount.size else {})}
        found.append({"name": place.name, "emptyDir": folder})
    if any(place.returns for place in places):
        found.append({"name": "held", "emptyDir": {"medium": "Memory", "sizeLimit": "65536"}})
    return found


def mounts_of(places: list[Place]) -> list[dict[str, Any]]:
    """The job's own."""
    found = []
    for place in places:
        mount = {"name": place.name, "mountPath": place.mount.target, "readOnly": place.mount.read_only}
        found.append({**mount, "subPath": TREE} if place.fills else mount)
    if any(place.returns for place in places):
        found.append({"name": "held", "mountPath": HELD})
    return found


def containers_of(places: list[Place], job: dict[str, Any], settings: KubernetesSettings) -> dict[str, Any]:
    """`initContainers` and further `containers` of the pod, made like the job's own, whose files they have to read."""
    found: dict[str, Any] = {}
    filled = [place for place in places if place.fills]
    if filled:
        found["initContainers"] = [_standing(INPUTS, "0", "/dev/shm/held", filled, job, [])]
    returned = [place for place in places if place.returns]
    if returned:
        held = [{"name": "held", "mountPath": HELD}]
        seconds = str(max(round(settings.keep_outputs), 1))
        found["containers"] = [job, _standing(FILES, seconds, f"{HELD}/job", returned, job, held)]
    return found


def _standing(
    name: str, seconds: str, path: str, places: list[Place], job: dict[str, Any], more: list[dict[str, Any]]
) -> dict[str, Any]:
    (init,) = [mount for mount in job["volumeMounts"] if INIT.startswith(mount["mountPath"] + "/")]
    return {
        "name": name,
        "image": job["image"],
        "imagePullPolicy": job["imagePullPolicy"],
        "command": [INIT, "-z", seconds, path],
        "securityContext": {**job["securityContext"], "readOnlyRootFilesystem": True},
        "volumeMounts": [
            init,
            *({"name": place.name, "mountPath": place_folder(place)} for place in places),
            *more,
        ],
        "resources": _MEMORY,
    }


def _is_empty(mount: Volume) -> bool:
    if mount.grant is None:
        return True
    with reopen(mount.grant, field=f"{mount.field}.source") as granted:
        if not granted.is_dir:
            return False
        fd = os.open(f"/proc/self/fd/{granted.fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as entries:
            return next(entries, None) is None
    finally:
        os.close(fd)
