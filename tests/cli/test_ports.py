"""`-p`, `port` and the ports in `ps`."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from pathlib import Path

import click
import pytest

from dms_executor.cli.ports import published

from .conftest import Cli


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("80", {"container_port": 80}),
        ("8080:80", {"container_port": 80, "host_port": 8080}),
        ("0.0.0.0:8080:80", {"container_port": 80, "host_port": 8080, "host_ip": "0.0.0.0"}),
        ("127.0.0.1::53/udp", {"container_port": 53, "host_ip": "127.0.0.1", "protocol": "udp"}),
        ("[::1]:8080:80", {"container_port": 80, "host_port": 8080, "host_ip": "::1"}),
    ],
)
def test_what_p_means(text: str, fields: dict[str, object]) -> None:
    assert published(text) == fields


@pytest.mark.parametrize("text", ["", "http", "a:b:c", "80:http"])
def test_what_p_does_not_mean(text: str) -> None:
    with pytest.raises(click.BadParameter, match="CONTAINER_PORT"):
        published(text)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("pasta") is None, reason="needs root and pasta")
def test_a_published_port_is_shown_and_answers(cli: Cli, rootfs: Path) -> None:
    told = [json.loads(line) for line in cli("--json", "engines").out.splitlines()]
    declared = next(engine["capabilities"] for engine in told if engine["engine"] == "oci")
    if "ports" not in declared:
        pytest.skip("this host has no network for jobs")
    command = (f"rootfs:{rootfs}", "httpd", "-f", "-p", "80", "-h", "/etc")
    finished = cli("start", "--id", "web", "--engine", "oci", "--memory", "32MiB", "-p", "80", *command)
    assert finished.code == 0, finished.err
    try:
        address = cli("port", "web", "80").out.decode().strip()
        assert cli("port", "web").out.decode() == f"80/tcp -> {address}\n"
        assert address.startswith("127.0.0.1:")
        assert f"{address}->80/tcp" in cli("ps").out.decode()
        assert json.loads(cli("inspect", "web").out)["ports"][0]["host_port"] == int(address.rpartition(":")[2])
        assert cli("port", "web", "81").code == 1
        with urllib.request.urlopen(f"http://{address}/passwd", timeout=10) as answer:
            assert answer.read() == (rootfs / "etc/passwd").read_bytes()
    finally:
        cli("cancel", "--grace", "0", "web")
    assert "PORTS" not in cli("ps", "-a").out.decode()
