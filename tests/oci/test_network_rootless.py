"""The network `user` and published ports for an ordinary user: the promises of root's, without any of its powers.

The host is the test's own (tests/lan.py). A job's namespace belongs to the user namespace that its shim is in.
"""

from __future__ import annotations

import os
import signal
import socket
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dms_executor.processes import start_time

from .. import lan
from .someone import Someone
from .talk import PYTHON, SERVE, TALK, machines_python, needs_python, reply
from .test_rootless import Root, left, request, root, strays

__all__ = ["root"]

pytestmark = needs_python
PORT: dict[str, Any] = {"container_port": 80}


@pytest.fixture(scope="module", autouse=True)
def wire() -> Iterator[None]:
    lan.needed()
    with lan.host_and_outside():
        yield


@pytest.fixture(params=["pasta", "slirp4netns"])
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def user(someone: Someone, program: str) -> Someone:
    """With a /dev/net/tun that is everybody's, as distributions have it, wherever this machine's is not."""
    someone.settings["network_program"] = program
    someone.opens("/dev/net/tun", 10, 200)
    return someone


def asked(root: Path, script: str, **fields: Any) -> Root:
    inputs = [{"source": source, "target": target} for target, source in machines_python().items()]
    return request(root, PYTHON, "-c", textwrap.dedent(script), inputs=inputs, network="user", **fields)


@contextmanager
def serving(user: Someone, runtime: str, root: Path, *ports: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What `inspect` says of a job that serves; gone at the end, and nothing of it left."""
    told = user.does(
        runtime, ("start", asked(root, SERVE, ports=list(ports))), ("said", ["e", "serving"]), ("inspect", "e")
    )
    try:
        assert told[1] is None, told
        yield told[2]
    finally:
        user.does(runtime, ("cancel", "e"), ("remove", "e"))
    assert strays(told[2]["engine_ids"]["container"]) == []
    assert list((user.folder / "state" / "executions").iterdir()) == []


def test_a_job_reaches_outside_and_nothing_of_the_hosts_own(user: Someone, root: Path, runtime: str) -> None:
    script = (
        TALK
        + f"""
print(tcp("{lan.OUTSIDE}", {lan.PORT}), tcp("{lan.FAR}", {lan.PORT}), udp("{lan.OUTSIDE}", {lan.PORT}))
print(tcp("{lan.METADATA}", {lan.PORT}), udp("{lan.METADATA}", {lan.PORT}))
for address in ("127.0.0.1", "10.0.2.2", "10.0.2.3", "{lan.HOST}", "::1"):
    print(tcp(address, {lan.LOOPBACK_PORT}), udp(address, {lan.LOOPBACK_PORT}))
"""
    )
    (result,) = user.does(runtime, ("run", asked(root, script)))
    first, metadata, *closed = result["stdout"].splitlines()
    assert first == f"hello {lan.HOST} hello {lan.HOST} b'echo x'", result
    assert len(closed) == 5
    assert [line for line in (metadata, *closed) if "hello" in line or "echo" in line] == []
    assert left(user) == []


def test_outside_by_ipv6_and_by_no_address_of_the_hosts(user: Someone, root: Path, runtime: str, program: str) -> None:
    script = (
        TALK
        + f'''
print(tcp("{lan.OUTSIDE6}", {lan.PORT}))
print(open("/proc/net/if_inet6").read(), open("/proc/net/fib_trie").read(), open("/proc/net/ipv6_route").read())
'''
    )
    (result,) = user.does(runtime, ("run", asked(root, script)))
    said, *addresses = result["stdout"].splitlines()
    assert said == (f"hello {lan.HOST6}" if program == "pasta" else "OSError"), result
    assert [line for line in addresses if lan.HOST in line or "20010db8" in line] == []


def test_what_a_job_may_do_to_its_network(user: Someone, root: Path, runtime: str) -> None:
    """Its root is the root of the namespace's owner, and lacks the capabilities all the same."""
    script = """
import fcntl, socket, struct
for family, kind in ((socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_INET, socket.SOCK_RAW)):
    try:
        socket.socket(family, kind, 1)
        print("open")
    except PermissionError:
        print("closed")
try:
    with socket.socket() as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"eth0", 0))  # SIOCSIFFLAGS
    print("down")
except PermissionError:
    print("kept")
socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
socket.create_server(("0.0.0.0", 80))
print(*sorted(__import__("os").listdir("/sys/class/net")))
"""
    (result,) = user.does(runtime, ("run", asked(root, script)))
    assert result["stdout"].splitlines() == ["closed", "closed", "kept", "eth0 lo"], result


def test_names_are_as_docker_writes_them(user: Someone, root: Path, runtime: str) -> None:
    script = """
import socket
for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname"):
    print(open(name).read(), end="")
print(socket.gethostbyname(socket.gethostname()))
"""
    (result,) = user.does(runtime, ("run", asked(root, script, params={"hostname": "probe"})))
    assert result["exit_code"] == 0, result
    lines = result["stdout"].splitlines()
    own = [line.split()[1] for line in Path("/etc/resolv.conf").read_text().splitlines() if "nameserver" in line]
    theirs = [line.split()[1] for line in lines if "nameserver" in line]
    assert len(theirs) == len(own[:3])
    assert [server for server in theirs if server.startswith(("127.", "169.254."))] == []
    assert "10.0.2.100\tprobe" in lines
    assert lines[-2:] == ["probe", "10.0.2.100"]


def test_a_published_port_reaches_the_job(user: Someone, root: Path, runtime: str) -> None:
    wanted = [PORT, {**PORT, "host_ip": "127.0.0.2", "host_port": 8081}, {**PORT, "host_ip": "0.0.0.0"}]
    with serving(user, runtime, root, *wanted) as told:
        places = [(port["host_ip"], port["host_port"]) for port in told["ports"]]
        assert [place[0] for place in places] == ["127.0.0.1", "127.0.0.2", "0.0.0.0"]
        assert places[1][1] == 8081
        for address, port in (*places[:2], (lan.HOST, places[2][1])):
            assert reply(address, port, "tcp") == b"job"
        with pytest.raises(ConnectionRefusedError):
            reply(lan.HOST, places[0][1], "tcp")
    with pytest.raises(ConnectionRefusedError):
        reply(*places[0], "tcp")


def test_datagrams_to_an_address_of_the_hosts(user: Someone, root: Path, runtime: str) -> None:
    port = {"container_port": 8085, "protocol": "udp", "host_ip": lan.HOST}
    with serving(user, runtime, root, port) as told:
        assert reply(lan.HOST, told["ports"][0]["host_port"], "udp") == b"job hi"


def test_a_port_that_is_in_use_and_one_that_takes_root(user: Someone, root: Path, runtime: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        taken = asked(root, "", ports=[{**PORT, "host_port": number}])
        low = asked(root, "", ports=[{**PORT, "host_port": 80}], execution_id="low")
        first, second = user.does(runtime, ("run", taken), ("run", low))
    assert (first["error"], str(number) in first["message"]) == ("ResourcesUnavailable", True), first
    assert (second["error"], "ip_unprivileged_port_start" in second["mend"]) == ("ResourcesUnavailable", True), second
    assert left(user) == []


def test_no_port_is_given_twice(user: Someone, root: Path, runtime: str) -> None:
    names = [f"e{number}" for number in range(4)]
    wanted = [request(root, "sleep", "1000", execution_id=name, network="user", ports=[PORT] * 3) for name in names]
    started = user.does(runtime, ("start together", wanted), *(("inspect", name) for name in names))
    given = [port["host_port"] for told in started[1:] for port in told["ports"]]
    assert len(given) == len(set(given)) == 12
    user.does(runtime, *((step, name) for name in names for step in ("cancel", "remove")))
    assert list((user.folder / "state" / "executions").iterdir()) == []
    for number in given:
        socket.create_server(("127.0.0.1", number)).close()


def test_nothing_is_left_after_kill_9(user: Someone, root: Path, runtime: str) -> None:
    with serving(user, runtime, root, PORT) as told:
        (folder,) = (user.folder / "state" / "executions").iterdir()
        pid = int((folder / "network.pid").read_text().split()[1])
        assert Path(f"/proc/{pid}").stat().st_uid == user.uid
        os.kill(int(told["engine_ids"]["shim"]), signal.SIGKILL)
        end = time.monotonic() + 10
        while start_time(pid) is not None:
            assert time.monotonic() < end, "the network program outlives its shim"
            time.sleep(0.01)
        (result,) = user.does(runtime, ("wait", "e"))
        assert result["reason"] == "engine_lost"
    with pytest.raises(ConnectionRefusedError):
        reply("127.0.0.1", told["ports"][0]["host_port"], "tcp")


def test_without_our_init(user: Someone, root: Path, runtime: str) -> None:
    script = TALK + f'print(tcp("{lan.OUTSIDE}", {lan.PORT}))'
    (result,) = user.does(runtime, ("run", asked(root, script, init=False)))
    assert result["stdout"] == f"hello {lan.HOST}\n", result


def test_the_probe_says_it(user: Someone, runtime: str) -> None:
    (probe,) = user.does(runtime, ("probe", "oci"))
    assert {"network_user", "ports"} <= set(probe["capabilities"]), probe


def test_without_the_device_of_tunnels(someone: Someone, root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("takes root to take it away")
    someone.has_node("/dev/net/tun", 10, 200, 0o600)
    probe, refused = someone.does("crun", ("probe", "oci"), ("run", asked(root, "")))
    assert not {"network_user", "ports"} & set(probe["capabilities"])
    assert "chmod 0666 /dev/net/tun" in probe["mend"]
    assert (refused["error"], "/dev/net/tun" in refused["mend"]) == ("NotSupported", True), refused
