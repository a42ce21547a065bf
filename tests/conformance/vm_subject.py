"""The engines of microVMs as subjects of the conformance suite: each job boots a kernel."""

from __future__ import annotations

import msgspec

from dms_executor.conformance import ShellSubject
from dms_executor.errors import EngineUnavailable
from dms_executor.types import Settings
from tests import firecrackers, qemus

__all__ = ["VmSubject"]

_LOOKED = {"qemu": (qemus.missing, qemus.settings), "firecracker": (firecrackers.missing, firecrackers.settings)}


class VmSubject(ShellSubject):
    """Its settings name the kernel; where they do not, the one of the tests is looked for."""

    def settings(self) -> Settings:
        if self.engine_settings:
            return super().settings()
        missing, settings = _LOOKED[self.engine]
        if problem := missing():
            raise EngineUnavailable(problem, mend="Install what is missing, and run the tests as root on x86_64")
        return msgspec.structs.replace(super().settings(), engines={self.engine: settings()})
