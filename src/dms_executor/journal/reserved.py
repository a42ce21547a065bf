"""What a claim reserves: the sum of what is named by all that is not finished must stay within the capacity.

Amounts are summed within an engine; a GPU is one thing of the host, and is given to one execution of whatever engine.
"""

from __future__ import annotations

import sqlite3

import msgspec

from ..devices.gpus import assign, described
from ..engine import Execution
from ..errors import ResourcesUnavailable
from ..types import GPU, Capacity, ExecutionRequest, decode

__all__ = ["OPEN", "reserve"]

OPEN = "phase != 'done' AND phase NOT IN ('finished', 'removing')"  # the first half is what the index has


def reserve(database: sqlite3.Connection, x: Execution, engine: str, capacity: Capacity) -> Execution:
    """`x` with the GPUs that it gets. Raises `ResourcesUnavailable`. Within the claim's transaction."""
    _check_amounts(database, x, engine, capacity)
    wanted = x.request.resources.gpus
    if not wanted or capacity.gpus is None:
        return x
    taken = _taken(database)
    given = assign(wanted, capacity.gpus, taken)
    if given is None:
        free = [described(gpu) for gpu in capacity.gpus if gpu.pci_address not in taken]
        asked = ", ".join(described(gpu) for gpu in wanted)
        raise ResourcesUnavailable(
            f"gpus: {asked} asked for; free and allowed here: {', '.join(free) or 'none'}",
            mend="Ask for others or for fewer, or wait until another execution has ended",
            execution_id=x.id,
        )
    resources = msgspec.structs.replace(x.request.resources, gpus=given)
    return msgspec.structs.replace(x, request=msgspec.structs.replace(x.request, resources=resources))


def _taken(database: sqlite3.Connection) -> set[str]:
    """The addresses of the GPUs that open executions have."""
    found = database.execute(
        f"SELECT request FROM executions WHERE {OPEN} AND instr(CAST(request AS TEXT), '\"pci_address\"')"
    ).fetchall()
    gpus: list[GPU] = [gpu for (raw,) in found for gpu in decode(raw, ExecutionRequest).resources.gpus]
    return {gpu.pci_address for gpu in gpus if gpu.pci_address is not None}


def _check_amounts(database: sqlite3.Connection, x: Execution, engine: str, capacity: Capacity) -> None:
    for name in ("cpu", "memory", "disk", "pids"):
        wanted, limit = getattr(x.request.resources, name), getattr(capacity, name)
        if wanted is None or limit is None:
            continue
        (used,) = database.execute(
            f"SELECT coalesce(sum({name}), 0) FROM executions WHERE engine=? AND {OPEN}", (engine,)
        ).fetchone()
        if used + wanted > limit:
            raise ResourcesUnavailable(
                f"{name}: {wanted} asked for, {max(0, limit - used)} of {limit} free on engine {engine}",
                mend="Ask for less, or wait until another execution has ended",
                execution_id=x.id,
            )
