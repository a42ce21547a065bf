"""The qemu engine as a subject of the conformance suite: each job boots a kernel."""

from __future__ import annotations

import msgspec

from dms_executor.conformance import ShellSubject
from dms_executor.errors import EngineUnavailable
from dms_executor.types import Settings
from tests import qemus

__all__ = ["QemuSubject"]


class QemuSubject(ShellSubject):
    """Its settings name the kernel; where they do not, the one of the tests is looked for."""

    def settings(self) -> Settings:
        if self.engine_settings:
            return super().settings()
        if problem := qemus.missing():
            raise EngineUnavailable(problem, mend="Install QEMU, and run the tests as root on x86_64")
        return msgspec.structs.replace(super().settings(), engines={self.engine: qemus.settings()})
