"""What sets one runtime apart from another, as a table: nothing else in this package asks which runtime it is.

crun and runc share the host's kernel with the job. runsc (gVisor) brings a kernel of its own, a process of the host in
which the job's processes live: https://gvisor.dev/docs/architecture_guide/.
"""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from ..limits import Limits

__all__ = ["CRUN", "FLAVOURS", "RUNC", "RUNSC", "Flavour", "Platform", "flavour_of"]

Platform = Literal["systrap", "ptrace", "kvm"]
_LEAST_MEMORY = 6 << 20  # as Docker: with less the runtime itself does not get through


class Flavour(msgspec.Struct, frozen=True, kw_only=True):
    """`options` stand before the command `run`, `run_options` behind it.

    `pairs`: descriptors are handed to the job one by one (`--pass-fd M:N`), not by their number (`--preserve-fds`).
    `says_network`: it must be told the network, besides the namespaces of the configuration.
    `keeps_state`: its state lies in the shim's room, since the sockets in it have names of at most 108 bytes.
    `copies_configuration`: it reads a copy of its own of `config.json` when it is told to run a further command.
    `hides_unified`: version 2 of the control groups must be out of its sight where it stands beside version 1.
    `own_kernel`: a job calls a kernel of the runtime's own: the host counts its tasks, and nobody enters the job.
    `platforms`: what the setting of that name may say; `doubtful`: those of them that are tried before they are used.
    `needs_init`: without our init nobody tells a signal from an exit code, nor keeps a seccomp profile's errors.
    `lacks`: capabilities of the engine that it does not have. `no_userns`: why no job can have a user namespace; empty
    where one can. `networks`: those of a request that it gives. `least_memory`: bytes with which a job gets anywhere.
    `mend`: how it is installed. `without_cgroups`: options with which it makes none; runc needs no word for it.
    `needs_root`: an ordinary user cannot have it.
    """

    name: str
    options: tuple[str, ...] = ()
    run_options: tuple[str, ...] = ()
    pairs: bool = False
    says_network: bool = False
    keeps_state: bool = False
    copies_configuration: bool = False
    hides_unified: bool = False
    own_kernel: bool = False
    needs_init: bool = False
    platforms: tuple[Platform, ...] = ()
    doubtful: tuple[Platform, ...] = ()
    lacks: frozenset[str] = frozenset()
    no_userns: str = ""
    networks: frozenset[str] = frozenset({"none", "user", "host"})
    least_memory: int = _LEAST_MEMORY
    mend: str = ""
    without_cgroups: tuple[str, ...] = ()
    needs_root: bool = False

    def on_host(self, limits: Limits) -> Limits:
        """What the job's cgroups are told: pids as the tasks of the host that so many of the job's take at most."""
        if not self.own_kernel or limits.pids is None:
            return limits
        return msgspec.structs.replace(limits, pids=_KERNEL_TASKS + limits.pids * _STUB_TASKS)


# Seen of systrap: a process of the job is two of the host's and a thread for each processor that it ran on; beside them
# are some twenty threads of sandbox and gofer.
_KERNEL_TASKS = 64 + 4 * (os.cpu_count() or 1)
_STUB_TASKS = 2 + (os.cpu_count() or 1)

# A kernel keyring for each job costs a quota of few hundred: https://man7.org/linux/man-pages/man7/keyrings.7.html
_NO_KEYRING = ("--no-new-keyring",)

CRUN = Flavour(
    name="crun",
    run_options=_NO_KEYRING,
    copies_configuration=True,
    hides_unified=True,
    mend="apt-get install crun",
    without_cgroups=("--cgroup-manager", "disabled"),
)
RUNC = Flavour(name="runc", run_options=_NO_KEYRING, mend="apt-get install runc")
RUNSC = Flavour(
    name="runsc",
    # The writable layer is ours, so that its size can be limited.
    options=("--log-format", "json", "--overlay2", "none"),
    pairs=True,
    says_network=True,
    keeps_state=True,
    own_kernel=True,
    needs_init=True,
    needs_root=True,
    platforms=("systrap", "ptrace", "kvm"),
    doubtful=("kvm",),
    lacks=frozenset({"pause", "copy", "copy_paused", "devices", "exec", "exec_kill", "attach", "tty", "gpus"}),
    no_userns="runsc has a kernel of its own for the job instead",
    least_memory=32 << 20,
    mend="See https://gvisor.dev/docs/user_guide/install/",
)
FLAVOURS: tuple[Flavour, ...] = (CRUN, RUNC, RUNSC)


def flavour_of(program: str) -> Flavour:
    """By the name of its file. One that nobody knows is called as runc is."""
    return next((flavour for flavour in FLAVOURS if flavour.name in program), RUNC)
