"""What differs between the daemons that serve the Docker Engine API: Docker's own, and Podman's compatible socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from .address import podman_path, socket_path

__all__ = ["DOCKER", "PODMAN", "UNSAFE", "Dialect"]

UNSAFE = (",", '"', "\n", "\r")
"""What would begin another option, or end the text, where mounts are put together as text."""


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """`finds`: the socket, from the engine's setting; it blocks.

    `log_driver` keeps bytes exact. `output`: "attached" where that stream loses nothing, else the driver's own file.
    `tells_stops`: an event says that a stop has begun; else the container's state is "stopping" then.
    `tells_ends`: of a further command, at once; else that of its process has to be looked at.
    `mounts_as_text`: mounts are put together with commas, devices and volumes with colons, unquoted.
    `own_networks`: those that are no object of the daemon's and lead outwards. `takes_requests`: of devices, by which
    Docker's daemon hands NVIDIA's GPUs over. `hook_folders`: where programs are named that run for every container.
    """

    engine: str
    title: str
    finds: Callable[[str | None], str]
    log_driver: str
    output: Literal["attached", "file"]
    tells_stops: bool
    tells_ends: bool
    mounts_as_text: bool
    takes_requests: bool
    own_networks: frozenset[str] = frozenset()
    hook_folders: tuple[str, ...] = ()


DOCKER = Dialect(
    engine="docker",
    title="the Docker daemon",
    finds=socket_path,
    log_driver="local",
    output="attached",
    tells_stops=True,
    tells_ends=True,
    mounts_as_text=False,
    takes_requests=True,
)

# An attached stream ends with the service while the job runs on, and the log call adds a newline at the end and tells
# whole seconds only; the file of `k8s-file` is conmon's, exact, and grows whether or not the service runs.
PODMAN = Dialect(
    engine="podman",
    title="the Podman service",
    finds=podman_path,
    log_driver="k8s-file",
    output="file",
    tells_stops=False,
    tells_ends=False,  # it runs, by its word, until its conmon goes
    mounts_as_text=True,
    takes_requests=False,
    own_networks=frozenset({"slirp4netns"}),
    # https://github.com/containers/common/blob/main/pkg/hooks/docs/oci-hooks.5.md
    hook_folders=("/etc/containers/oci/hooks.d", "/usr/share/containers/oci/hooks.d"),
)
