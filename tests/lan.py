"""Two machines on a wire, as network namespaces that the test makes: a "host" with a default route to an "outside".

The calling thread, and whatever it starts, lives on the host as long as `host_and_outside` lasts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HOST, OUTSIDE, FAR, METADATA = "203.0.113.2", "203.0.113.1", "198.51.100.1", "169.254.169.254"
HOST6, OUTSIDE6 = "2001:db8::2", "2001:db8::1"
PORT = 7000
LOOPBACK_PORT = 7002
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


_ASK = 'ask() { echo "$1 $(timeout 20 nc -w 5 $1 $2 </dev/null 2>/dev/null | head -c 40)"; }'


def ask_all(*own: str) -> str:
    """The script of a job that asks outside, the metadata service, and the host's loopback by `own` addresses, too."""
    outside = "; ".join(f"ask {address} {PORT}" for address in (OUTSIDE, FAR, METADATA))
    closed = "; ".join(f"ask {address} {LOOPBACK_PORT}" for address in ("127.0.0.1", *own, HOST))
    return f"{_ASK}\n{outside}; {closed}"


def answers(stdout: bytes | None) -> dict[str, str]:
    """What each address said to it."""
    return dict(line.partition(" ")[::2] for line in (stdout or b"").decode().splitlines())


def right_answers(*own: str) -> dict[str, str]:
    """Outside as the host, and nothing of the host's own."""
    nowhere = (METADATA, "127.0.0.1", *own, HOST)
    return {**dict.fromkeys((OUTSIDE, FAR), f"hello {HOST}"), **dict.fromkeys(nowhere, "")}


def missing() -> str:
    """Why these tests cannot be run here; empty where they can."""
    programs = [name for name in ("ip", "pasta", "slirp4netns") if shutil.which(name) is None]
    if programs:
        return f"needs {', '.join(programs)}: apt-get install iproute2 passt slirp4netns"
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    wire = ["unshare", "--net", "ip", "link", "add", "wire", "type", "veth", "peer", "name", "other"]
    has_wires = subprocess.run(wire, capture_output=True, timeout=20).returncode == 0
    return "" if has_wires else "no network of two machines: this kernel has no veth"


def needed() -> None:
    """Skips the test where it cannot run; fails it where a program is missing that a set-up was to bring."""
    why = missing()
    if why.startswith("needs ") and "apt-get" in why and os.environ.get("DMS_EXECUTOR_REQUIRE"):
        pytest.fail(f"required: {why}")
    if why:
        pytest.skip(why)


def enter(namespace: Path) -> None:
    """The calling thread, and what it starts from now on."""
    with open(namespace, "rb") as file:
        if _LIBC.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def host_and_outside() -> Iterator[None]:
    """TCP and UDP servers answer outside (its link-local address, too), and on the host's loopback."""
    name = f"dms-{os.getpid()}"
    host, outside = f"{name}-h", f"{name}-o"
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        for each in (host, outside):
            _ip("netns", "add", each)
            _ip("-n", each, "link", "set", "lo", "up")
        _ip("link", "add", "wire", "netns", host, "type", "veth", "peer", "name", "wire", "netns", outside)
        for each, address, address6 in ((host, HOST, HOST6), (outside, OUTSIDE, OUTSIDE6)):
            _ip("-n", each, "addr", "add", f"{address}/24", "dev", "wire")
            _ip("-n", each, "-6", "addr", "add", f"{address6}/64", "dev", "wire", "nodad")
            _ip("-n", each, "link", "set", "wire", "up")
        for address in (FAR, METADATA):
            _ip("-n", outside, "addr", "add", f"{address}/32", "dev", "lo")
        _ip("-n", host, "route", "add", "default", "via", OUTSIDE)
        _ip("-n", host, "-6", "route", "add", "default", "via", OUTSIDE6)
        with _serving(Path("/run/netns", outside), _outside), _serving(Path("/run/netns", host), _on_loopback):
            enter(Path("/run/netns", host))
            yield
    finally:
        _LIBC.setns(before, _CLONE_NEWNET)
        os.close(before)
        for each in (host, outside):
            subprocess.run(["ip", "netns", "del", each], check=False, capture_output=True)


@contextlib.contextmanager
def _serving(namespace: Path, opened: Callable[[], list[socket.socket]]) -> Iterator[None]:
    """One thread for each socket; sockets belong to the namespace of the thread that makes them."""
    sockets: list[socket.socket] = []

    def make() -> None:
        enter(namespace)
        sockets.extend(opened())

    maker = threading.Thread(target=make)
    maker.start()
    maker.join()
    threads = [threading.Thread(target=_serve, args=(each,), daemon=True) for each in sockets]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _outside() -> list[socket.socket]:
    found = [_tcp("0.0.0.0", PORT), _tcp("::", PORT, socket.AF_INET6)]
    return [*found, _udp("0.0.0.0", PORT), _udp("0.0.0.0", 53)]


def _on_loopback() -> list[socket.socket]:
    return [_tcp("127.0.0.1", LOOPBACK_PORT), _udp("127.0.0.1", LOOPBACK_PORT), _udp("127.0.0.1", 53)]


def _tcp(address: str, port: int, family: int = socket.AF_INET) -> socket.socket:
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((address, port))
    server.listen()
    return server


def _udp(address: str, port: int) -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, port))
    return server


def _serve(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            if server.type == socket.SOCK_STREAM:
                connection, peer = server.accept()
                with connection:
                    connection.sendall(f"hello {peer[0]}\n".encode())
            else:
                data, peer = server.recvfrom(2048)
                if peer is None:
                    return  # shut down
                answer = _resolved(data) if server.getsockname()[1] == 53 else b"echo " + data
                server.sendto(answer, peer)


def _resolved(query: bytes) -> bytes:
    """Every name is 192.0.2.53: https://www.rfc-editor.org/rfc/rfc1035#section-4"""
    end = query.find(b"\0", 12) + 5
    header = query[:2] + struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0)
    return header + query[12:end] + b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([192, 0, 2, 53])


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)
