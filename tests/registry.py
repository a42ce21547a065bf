"""A real registry on loopback: Debian's docker-registry, with TLS of an authority of its own, and with passwords."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER, PASSWORD = "app", "not-to-be-told"
# bcrypt of PASSWORD, which is the only form that the registry takes.
_HTPASSWD = "app:$2y$05$abcdefghijklmnopqrstuuFoeFJUhigCNqJOI6pP28i/KN0ZyCJzG\n"
_LISTENING = re.compile(r"listening on [^\s\"]*:(\d+)")


class Registry:
    """`host` is what stands in front of an image's name."""

    def __init__(self, port: int, folder: Path, *, tls: bool, password: bool) -> None:
        self.host = f"127.0.0.1:{port}"
        self.port = port
        self.authority = folder / "authority/trusted" if tls else None
        self.password = password

    def push(self, layout: Path, name: str, *options: str) -> str:
        """Copies the layout's image `latest` there; gives its whole name."""
        image = f"{self.host}/{name}"
        verify = [f"--dest-cert-dir={self.authority}"] if self.authority else ["--dest-tls-verify=false"]
        login = [f"--dest-creds={USER}:{PASSWORD}"] if self.password else []
        command = ["skopeo", "--insecure-policy", "copy", "-q", *verify, *login, *options]
        done = subprocess.run(
            [*command, f"oci:{layout}:latest", f"docker://{image}"], check=False, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
        return image


@contextmanager
def running_registry(folder: Path, *, tls: bool = False, password: bool = False) -> Iterator[Registry]:
    """Serves from `folder` until the end of the `with`."""
    program = shutil.which("docker-registry")
    if program is None and "docker-registry" in os.environ.get("DMS_EXECUTOR_REQUIRE", "").split(","):
        pytest.fail("docker-registry is required and not here: scripts/setup test")
    if program is None:
        pytest.skip("no docker-registry here: apt-get install docker-registry")
    folder.mkdir(exist_ok=True)
    http: dict[str, object] = {"addr": "127.0.0.1:0"}
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "store")}, "delete": {"enabled": True}},
        "http": http,
        "log": {"level": "info", "accesslog": {"disabled": True}},
    }
    if tls:
        make_authority(folder / "authority")
        http["tls"] = {"certificate": str(folder / "authority/server.pem"), "key": str(folder / "authority/server.key")}
    if password:
        (folder / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "config.json").write_text(json.dumps(config))  # YAML holds JSON
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.json")], stdout=log, stderr=subprocess.PIPE)
    try:
        yield Registry(_port(process), folder, tls=tls, password=password)
    finally:
        process.kill()
        process.communicate(timeout=20)


def _port(process: subprocess.Popen[bytes]) -> int:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line.decode())
        match = _LISTENING.search(seen[-1])
        if match:
            return int(match[1])
    pytest.fail("the registry did not begin: " + "".join(seen[-5:]))


def make_authority(folder: Path) -> None:
    """`ca.crt`, and a server's certificate for 127.0.0.1 that it has signed."""
    folder.mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    _openssl(folder, "req", "-x509", *key, "-keyout", "ca.key.pem", "-out", "ca.crt", "-subj", "/CN=test authority")
    _openssl(folder, "req", *key[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    signed = ["-CA", "ca.crt", "-CAkey", "ca.key.pem", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    _openssl(folder, "x509", "-req", "-in", "server.csr", "-out", "server.pem", *signed)
    (folder / "ca.key.pem").unlink()
    # skopeo takes a `.key` beside authorities for half of a client's certificate.
    trusted = folder / "trusted"
    trusted.mkdir()
    shutil.copy(folder / "ca.crt", trusted)


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder, timeout=60)
