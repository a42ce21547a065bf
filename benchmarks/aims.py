"""The ratios that are aimed at, and whether a run shows them."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

__all__ = ["AIMS", "Aim", "met"]


class Aim(NamedTuple):
    """Of workload `key`: ours over the peer's at most `bound`; without a peer the median of ours, in its unit.

    `inverse`: the peer's over ours at least `bound` ("so many times as fast"), for rates ours over the peer's.
    """

    what: str
    key: str
    ours: str
    peer: str
    bound: float
    inverse: bool = False


def _times(ours: str, peer: str, bound: float, key: str, what: str) -> Aim:
    return Aim(f"{what}, {ours}: times `{peer}`", key, ours, peer, bound, True)


AIMS = [
    Aim("launch: over bare crun", "launch", "ours, crun", "crun run", 1.5),
    Aim("launch: over bare runc", "launch", "ours, runc", "runc run", 1.2),
    _times("ours, crun", "docker run", 15, "launch", "launch"),
    _times("ours, runc", "docker run", 8, "launch", "launch"),
    _times("ours, crun", "docker run", 15, "flight-16", "jobs per second, 16 in flight"),
    _times("ours, runc", "docker run", 8, "flight-16", "jobs per second, 16 in flight"),
    Aim("a line to a follower, ms, crun", "line", "ours, crun", "", 2.0),
    Aim("a line to a follower, ms, runc", "line", "ours, runc", "", 2.0),
    Aim("cancel, ms over the bare runtime's own, crun", "cancel", "ours, crun", "-crun kill", 20.0),
    Aim("cancel, ms over the bare runtime's own, runc", "cancel", "ours, runc", "-runc kill", 20.0),
    _times("dms-executor run, crun", "docker run", 2, "command", "whole process"),
    _times("dms-executor run, runc", "docker run", 1.5, "command", "whole process"),
    Aim("import, ms over `import asyncio`", "import", "import dms_executor", "-import asyncio", 60.0),
]


def met(workloads: list[dict[str, Any]], aims: list[Aim] = AIMS) -> list[tuple[str, str, str]]:
    """Each aim, what was seen and the verdict; an aim whose contestants took no part is not judged."""
    tables = {workload["key"]: workload for workload in workloads}
    return [_judged(aim, tables.get(aim.key)) for aim in aims]


def _judged(aim: Aim, table: dict[str, Any] | None) -> tuple[str, str, str]:
    bound = f"at {'least' if aim.inverse else 'most'} {aim.bound:g}"
    what = f"{aim.what}: {bound}"
    contestants = table["contestants"] if table else {}
    ours, peer = contestants.get(aim.ours), contestants.get(aim.peer.removeprefix("-"))
    if ours is None or (aim.peer and peer is None):
        return what, "", "not measured"
    if not peer or aim.peer.startswith("-"):
        seen = ours["median"] - (peer["median"] if peer else 0.0)
    else:
        pairs = [mine / other for mine, other in zip(ours["values"], peer["values"], strict=False)]
        seen = statistics.median(pairs)
        if aim.inverse and table is not None and table["better"] == "lower":
            seen = 1 / seen
    good = seen >= aim.bound if aim.inverse else seen <= aim.bound
    return what, f"{seen:.2f}", "met" if good else "**missed**"
