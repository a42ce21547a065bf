"""What an engine does with every request for devices: one at a time, out of the loop, refused in the engine's name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path

from ..errors import NotSupported
from ..policy import Policy
from ..types import ExecutionRequest
from .grants import DeviceGrants, Hooks, grant_devices, usable_gpu
from .places import is_jobs_own
from .registry import Registry

__all__ = ["Granter"]

Check = Callable[[DeviceGrants], None]


class Granter:
    """One engine's. `hooks`: see `grant_devices`; `refused`: what no spec may mount."""

    def __init__(
        self, engine: str, policy: Policy, cdi_folders: Collection[str], hooks: Hooks, refused: Collection[Path]
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._registry = Registry(tuple(cdi_folders))
        self._hooks = hooks
        self._refused = tuple(refused)
        self._turn = asyncio.Lock()

    async def grant(
        self, request: ExecutionRequest, check: Check, by_daemon: Callable[[], Collection[str]] = tuple
    ) -> DeviceGrants:
        """`check` raises `NotSupported` for what the engine cannot give; `by_daemon`: whose GPUs its daemon hands over.

        Raises `InvalidRequest`, `PolicyDenied`, `NotSupported`, `ResourcesUnavailable`, `EngineUnavailable`.
        """
        if not request.devices and not request.resources.gpus:
            return DeviceGrants()
        async with self._turn:
            return await asyncio.to_thread(self._grant, request, check, by_daemon)

    async def powers(self, check: Check, by_daemon: Callable[[], Collection[str]] = tuple) -> frozenset[str]:
        """The capabilities: GPUs are declared only where one of those that are here could be given."""

        def found() -> bool:
            return usable_gpu(self._registry, self._hooks, self._checked(check), by_daemon())

        async with self._turn:
            has_gpu = await asyncio.to_thread(found)
        return frozenset({"devices", "gpus"} if has_gpu else {"devices"})

    def _grant(self, request: ExecutionRequest, check: Check, by_daemon: Callable[[], Collection[str]]) -> DeviceGrants:
        try:
            granted = grant_devices(
                request,
                self._policy,
                self._registry,
                refused=self._refused,
                hooks=self._hooks,
                by_daemon=by_daemon(),
            )
        except NotSupported as error:
            error.engine = self._engine
            raise
        self._checked(check)(granted)
        return granted

    def _checked(self, check: Check) -> Check:
        def both(granted: DeviceGrants) -> None:
            for target in (*(node.path for node in granted.nodes), *(mount.target for mount in granted.mounts)):
                if is_jobs_own(target):
                    raise NotSupported(
                        f"engine {self._engine} cannot put a device at {target!r}, which is the job's own",
                        engine=self._engine,
                        what="$.devices",
                        mend="Mend the CDI spec",
                    )
            check(granted)

        return both
