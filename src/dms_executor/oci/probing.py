"""`probe`: which runtime, why, what can be enforced here, and what would mend the rest."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ..errors import EngineUnavailable
from ..programs import ENVIRONMENT
from ..supervisor import tether
from ..types import Probe
from .check import why_unlimited
from .devices import OciDevices
from .host import Host, capabilities, capacity, look
from .network_check import networks_of
from .rootless import why_no_namespace
from .runtime import program, version_of
from .spec import OciSettings
from .userns import check_host

__all__ = ["lacking", "probed"]

_DEADLINE = 20.0
_LIMITS = ("cpu", "memory", "pids", "disk")


async def probed(engine: str, settings: OciSettings, state_dir: Path, devices: OciDevices) -> Probe:
    """Makes nothing that stays. What would give a usable engine more powers stands in `mend`."""
    try:
        host = await asyncio.to_thread(look, settings, state_dir)
        version = await version_of(host.runtime)
        check_host(settings.userns, "" if host.rootless is not None else host.no_userns)
        if host.rootless is not None:
            await _try_namespace(host)
    except EngineUnavailable as error:
        return Probe(engine=engine, usable=False, problem=error.message, mend=error.mend)
    room = await asyncio.to_thread(capacity, host, state_dir)
    given = await devices.powers(host.runtime.flavour, host.rootless)
    networks, no_network = await networks_of(settings, host).powers()
    who = "; rootless" if host.rootless is not None else ""
    return Probe(
        engine=engine,
        usable=True,
        version=f"{version} ({host.runtime.why}; cgroups {host.cgroups.mode}{who})",
        capabilities=capabilities(host) | given | networks,
        capacity=room,
        mend="; ".join(filter(None, (*lacking(host, settings), no_network))),
    )


def lacking(host: Host, settings: OciSettings) -> list[str]:
    """How jobs get each limit, and the user namespace, that they are without."""
    if host.rootless is not None:
        return [host.unlimited]
    missing = [limit for limit in _LIMITS if limit not in host.limits]
    about = [": ".join((f"no limit of {limit}", *why_unlimited(limit, host))) for limit in missing]
    if host.no_userns and settings.userns == "auto" and not host.runtime.flavour.no_userns:
        about.insert(0, f"no job has a user namespace: {host.no_userns}")
    return about


async def _try_namespace(host: Host) -> None:
    """The truth about AppArmor, seccomp and quotas is a try: a namespace, and a mount in it."""
    if host.rootless is None:
        return
    argv = [await asyncio.to_thread(program, "mount"), "-t", "tmpfs", "none", "/proc"]
    done = await tether.run(
        await asyncio.to_thread(host.rootless.inside, argv), environment=ENVIRONMENT, deadline=_DEADLINE
    )
    if done.code != 0:
        raise await asyncio.to_thread(why_no_namespace, done.complaint)
