"""`/etc/resolv.conf` and `/etc/hosts` of a job that has a network of its own, as Docker writes them.

https://man7.org/linux/man-pages/man5/resolv.conf.5.html
"""

from __future__ import annotations

import ipaddress

from .programs import ADDRESS, FORWARDER

__all__ = ["hosts_file", "network_files", "resolv_conf"]

_MOST_SERVERS = 3  # MAXNS of the C library
_KEPT = ("search", "domain", "options", "sortlist")
_HOSTS = (
    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
)


def hosts_file(hostname: str, address: str) -> str:
    """With the job's own name."""
    return f"{_HOSTS}{address}\t{hostname}\n"


def resolv_conf(host: str, forwarder: str) -> str:
    """The host's own, each nameserver that only the host can reach replaced by `forwarder`, which asks it."""
    servers: list[str] = []
    kept: list[str] = []
    for line in host.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            server = words[1] if _reachable(words[1]) else forwarder
            if server not in servers:
                servers.append(server)
        elif words and words[0] in _KEPT:
            kept.append(" ".join(words))
    return "".join(f"{line}\n" for line in [*(f"nameserver {server}" for server in servers[:_MOST_SERVERS]), *kept])


def _reachable(server: str) -> bool:
    """Not on the host's loopback, where systemd-resolved listens, and not link-local, where some clouds do."""
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)


def network_files(hostname: str, network: str, address: str = ADDRESS) -> dict[str, bytes]:
    """`hosts`, `hostname`, `resolv.conf` of /etc as Docker writes them. `address`: in the network `user`. Blocks."""
    hosts = hosts_file(hostname, address if network == "user" else "127.0.0.1")
    resolv = b""
    if network == "host":
        # The host's own, as Docker does; without a network there is nobody to ask.
        hosts = _host_file("/etc/hosts").decode("utf-8", "surrogateescape") or hosts
        resolv = _host_file("/etc/resolv.conf")
    elif network == "user":
        resolv = resolv_conf(_host_file("/etc/resolv.conf").decode("utf-8", "replace"), FORWARDER).encode()
    return {
        "hosts": hosts.encode("utf-8", "surrogateescape"),
        "hostname": f"{hostname}\n".encode(),
        "resolv.conf": resolv,
    }


def _host_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""
