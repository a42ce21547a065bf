"""pasta or slirp4netns: which one is here, and its command line.

Both give the job the same fixed addresses, so that it sees nothing of the host's own, and carry its traffic through
ordinary sockets of the host. https://passt.top/builds/latest/web/passt.1.html,
https://github.com/rootless-containers/slirp4netns/blob/master/slirp4netns.1.md
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ..errors import EngineUnavailable
from ..types import PortMapping

__all__ = [
    "ADDRESS",
    "API_SOCKET",
    "FORWARDER",
    "GATEWAY",
    "INTERFACE",
    "MASK",
    "MEND",
    "MTU",
    "Program",
    "answers_remapped",
    "find_program",
]

ADDRESS = "10.0.2.100"
GATEWAY = "10.0.2.2"
FORWARDER = "10.0.2.3"
"""Queries that are sent here go to the host's own first nameserver, wherever that listens."""
INTERFACE = "eth0"
API_SOCKET = "network.sock"
MASK = "255.255.255.0"
_ADDRESS6, _GATEWAY6 = "fd00:6a6f:6200::100", "fe80::1"  # used where the host has a route of IPv6
MTU = 65520
"""Of the job's interface: pasta's own choice, and what slirp4netns is told."""
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MEND = "Install the package passt (or slirp4netns), or name the program by the setting `network_program`"


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two, by its absolute path."""

    kind: Literal["pasta", "slirp4netns"]
    path: str

    @property
    def forwards_by_command(self) -> bool:
        """Ports stand in its command line; else it is told of them over `API_SOCKET` once it runs."""
        return self.kind == "pasta"

    def argv(self, namespace: str, ready: str, ports: Sequence[PortMapping]) -> list[str]:
        """The command that connects the namespace (a path). It says on `ready`, and as 3 has it, that it is ready."""
        return self._pasta(namespace, ready, ports) if self.kind == "pasta" else self._slirp(namespace)

    def _pasta(self, namespace: str, ready: str, ports: Sequence[PortMapping]) -> list[str]:
        # As root it would become nobody, who may not enter the namespace.
        user = ["--runas", "0"] if os.geteuid() == 0 else []
        argv = [self.path, "--foreground", "--quiet", *user, "--config-net", "--ns-ifname", INTERFACE]
        argv += ["--address", ADDRESS, "--netmask", MASK, "--gateway", GATEWAY]
        argv += ["--address", _ADDRESS6, "--gateway", _GATEWAY6]
        # Neither the gateway nor ports of the job's loopback lead to the host's.
        argv += ["--no-map-gw", "--tcp-ns", "none", "--udp-ns", "none", "--dns-forward", FORWARDER]
        for option, protocol in (("--tcp-ports", "tcp"), ("--udp-ports", "udp")):
            mapped = [f"{p.host_ip}/{p.host_port}:{p.container_port}" for p in ports if p.protocol == protocol]
            for each in mapped or ["none"]:
                argv += [option, each]
        return [*argv, "--pid", ready, "--no-netns-quit", "--netns", namespace]

    def _slirp(self, namespace: str) -> list[str]:
        argv = [self.path, "--configure", f"--mtu={MTU}", "--disable-host-loopback", "--ready-fd=3"]
        argv += ["--enable-sandbox", "--enable-seccomp", f"--api-socket={API_SOCKET}", "--netns-type=path"]
        return [*argv, namespace, INTERFACE]


def answers_remapped(version: str) -> bool:
    """Whether a pasta of that version answers datagrams from the host's loopback to a port of another number.

    Older ones send the answer from the job's number (seen with 2023_03_09); its table of flows came with 2024_07_26.
    """
    found = re.search(r"(20\d\d)_?(\d\d)_?(\d\d)", version)
    return found is not None and "".join(found.groups()) >= "20240726"


def find_program(setting: str | None) -> Program:
    """pasta before slirp4netns, unless the setting says which. Raises `EngineUnavailable`. Blocks."""
    wanted = [setting] if setting is not None else ["pasta", "slirp4netns"]
    for name in wanted:
        path = name if name.startswith("/") else shutil.which(name, path=_SEARCH_PATH)
        if path is not None and os.access(path, os.X_OK):
            return Program(kind="slirp4netns" if "slirp" in Path(path).name else "pasta", path=path)
    raise EngineUnavailable(f"{' and '.join(wanted)}: not installed", mend=MEND)
