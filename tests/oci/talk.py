"""What jobs of the network tests say and hear, in this machine's Python (busybox has no UDP), and who talks to them."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

__all__ = ["PYTHON", "SERVE", "TALK", "machines_python", "needs_python", "reply"]

PYTHON = "/usr/bin/python3"
needs_python = pytest.mark.skipif(not Path(PYTHON).exists(), reason="no python3 of the distribution's own")

TALK = """
import socket

def tcp(address, port):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as s:
        s.settimeout(1.5)
        try:
            s.connect((address, port))
            return s.recv(100).decode().strip()
        except OSError as error:
            return type(error).__name__

def udp(address, port, data=b"x"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1.5)
        try:
            s.sendto(data, (address, port))
            return s.recv(100)
        except OSError as error:
            return type(error).__name__.encode()

"""
SERVE = """
import socket, threading
t = socket.create_server(("0.0.0.0", 80))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("0.0.0.0", 8085))

def datagrams():
    while True:
        data, peer = u.recvfrom(100)
        u.sendto(b"job " + data, peer)

threading.Thread(target=datagrams, daemon=True).start()
print("serving", flush=True)
while True:
    c, _ = t.accept()
    c.recv(2)
    c.sendall(b"job")
    c.close()
"""


def machines_python() -> dict[str, str]:
    """Inputs that a job needs for it: target and source."""
    folders = [folder for folder in ("/usr", "/lib", "/lib64") if Path(folder).exists()]
    return {folder: str(Path(folder).resolve()) for folder in folders}


def reply(address: str, port: int, protocol: str) -> bytes:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as client:
        client.settimeout(1)
        client.connect((address, port))
        for _ in range(9):
            # Datagrams may be lost: the first one, while slirp4netns asks who has the job's address.
            client.send(b"hi")
            with contextlib.suppress(TimeoutError):
                return client.recv(100)
        return client.recv(100)
