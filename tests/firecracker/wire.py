"""A guest's side of a network device where there is no guest: a network namespace of its own stands for its kernel.

The machine's tap device is opened as Firecracker opens it, and what comes there goes to a device of that namespace, and
back.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import os
import struct
import subprocess
import threading
from pathlib import Path

__all__ = ["connected", "enter"]

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_TAP, _NO_PI, _VNET_HDR = 0x0002, 0x1000, 0x4000  # https://docs.kernel.org/networking/tuntap.html
_MOST = 1 << 17
_LIBC = ctypes.CDLL(None, use_errno=True)


def connected(tap: str, mac: str, network: bytes) -> int:
    """The namespace, opened, with what its guest is told (`network`: docs/protocol.md, section 10)."""
    address, mask, gateway = (str(ipaddress.IPv4Address(network[at : at + 4])) for at in (0, 4, 8))
    (mtu,) = struct.unpack_from("<I", network, 12)
    outside = _opened(tap)
    made: list[int] = []

    def guest() -> None:
        assert _LIBC.unshare(_CLONE_NEWNET) == 0
        inside = _opened("eth0")
        _ip("link", "set", "lo", "up")
        _ip("link", "set", "eth0", "address", mac, "mtu", str(mtu), "up")
        _ip("addr", "add", f"{address}/{mask}", "dev", "eth0")
        _ip("route", "add", "default", "via", gateway)
        Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("1")
        for ends in ((inside, outside), (outside, inside)):
            threading.Thread(target=_carry, args=ends, daemon=True).start()
        made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))

    maker = threading.Thread(target=guest)
    maker.start()
    maker.join()
    return made[0]


def enter(namespace: int) -> None:
    assert _LIBC.setns(namespace, _CLONE_NEWNET) == 0


def _opened(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_PI | _VNET_HDR))
    return fd


def _carry(source: int, sink: int) -> None:
    while frame := os.read(source, _MOST):
        os.write(sink, frame)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=20)
