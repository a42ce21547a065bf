"""What differs between the daemons that serve the Docker Engine API: Docker's own, and Podman's compatible socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from .address import podman_path, socket_path

__all__ = ["DOCKER", "PODMAN", "Dialect"]


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """`finds`: the socket, from the engine's setting; it blocks.

    `log_driver` keeps bytes exact. `output`: "attached" where that stream loses nothing, else the driver's own file.
    `tells_stops`: an event says that a stop has begun; else the container's state is "stopping" then.
    `mounts_as_text`: mounts are put together with commas, unquoted. `lacks`: powers that others have.
    """

    engine: str
    title: str
    finds: Callable[[str | None], str]
    log_driver: str
    output: Literal["attached", "file"]
    tells_stops: bool
    mounts_as_text: bool
    lacks: frozenset[str] = frozenset()


DOCKER = Dialect(
    engine="docker",
    title="the Docker daemon",
    finds=socket_path,
    log_driver="local",
    output="attached",
    tells_stops=True,
    mounts_as_text=False,
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
    mounts_as_text=True,
    # A conmon stays for five minutes after each exec, and no variable of the job's can be taken from one; the
    # others have not been tried.
    lacks=frozenset({"exec", "exec_kill", "ports", "named_volumes", "devices", "gpus"}),
)
