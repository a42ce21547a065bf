"""Ports on the command line: `-p`, `port`, and how `ps` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .session import Command, completed, session_of
from .terminal import emit, emit_json

if TYPE_CHECKING:
    from ..executor import Executor
    from ..types import PortMapping

__all__ = ["port_command", "published", "shown_ports"]


def published(text: str) -> dict[str, Any]:
    """[HOST_IP:][HOST_PORT:]CONTAINER_PORT[/udp], as docker has it; an IPv6 address in brackets."""
    address, _, protocol = text.partition("/")
    rest, _, container = address.rpartition(":")
    host, _, number = rest.rpartition(":") if not rest.endswith("]") else (rest, "", "")
    fields: dict[str, Any] = {"host_ip": host.strip("[]")} if host else {}
    try:
        fields["container_port"] = int(container)
        if number:
            fields["host_port"] = int(number)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not [HOST_IP:][HOST_PORT:]CONTAINER_PORT[/udp]", param_hint="--publish"
        ) from None
    return {**fields, **({"protocol": protocol} if protocol else {})}


def shown_ports(ports: list[PortMapping]) -> str:
    """For a table."""
    return ", ".join(f"{_host(port)}->{port.container_port}/{port.protocol}" for port in ports)


@click.command("port", cls=Command, examples="curl http://$(dms-executor port brisk-heron-3f9a1c 80)/")
@click.argument("execution_id", metavar="ID", shell_complete=completed("ids_alive"))
@click.argument("wanted", required=False, metavar="[PORT[/udp]]")
@click.pass_context
def port_command(context: click.Context, execution_id: str, wanted: str | None) -> int:
    """Show where the ports of an execution are on this host; with PORT only where that one is."""
    session = session_of(context)
    number, _, protocol = (wanted or "").partition("/")
    if wanted is not None and not number.isdecimal():
        raise click.BadParameter(f"{wanted!r} is no port", param_hint="PORT")

    async def show(executor: Executor) -> int:
        ports = (await executor.inspect(execution_id)).ports
        if wanted is not None:
            asked = (int(number), protocol or "tcp")
            ports = [port for port in ports if (port.container_port, port.protocol) == asked]
        for port in ports:
            if session.json:
                emit_json({name: getattr(port, name) for name in port.__struct_fields__})
            elif wanted is not None:
                emit(_host(port))
            else:
                emit(f"{port.container_port}/{port.protocol} -> {_host(port)}")
        return 0 if ports or wanted is None else 1

    return session.run(show)


def _host(port: PortMapping) -> str:
    address = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
    return f"{address}:{port.host_port}"
