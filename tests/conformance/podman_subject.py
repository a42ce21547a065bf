"""The podman engine as a subject of the conformance suite, over the session's own service."""

from __future__ import annotations

import msgspec

from dms_executor import SpecConfig
from dms_executor.conformance import ShellSubject
from dms_executor.conformance.steps import Failure
from dms_executor.errors import EngineUnavailable
from dms_executor.types import Settings
from tests import podmand

__all__ = ["PodmanSubject"]


class PodmanSubject(ShellSubject):
    """Its settings name the service's socket; where they do not, the service is started first."""

    def settings(self) -> Settings:
        if "socket" in self.engine_settings:
            return super().settings()
        if problem := podmand.missing():
            raise EngineUnavailable(problem, mend="Install them, and run the tests as root")
        try:
            socket = {"socket": str(podmand.session().socket)}
        except RuntimeError as error:
            raise EngineUnavailable(str(error), mend="Run the tests where Podman can run") from error
        return msgspec.structs.replace(super().settings(), engines={self.engine: socket})

    def failing(self, how: Failure) -> SpecConfig:
        """An image that nobody looks for elsewhere, or no such command."""
        if how == "image":
            params = {"image": "localhost/dms-executor-test:missing", "cmd": ["true"], "pull": "never"}
            return SpecConfig(type=self.engine, params=params)
        return super().failing(how)

    def leftovers(self, tokens: list[str]) -> list[str]:
        """The service's containers, too."""
        listed = podmand.Podman.at(self.engine_settings["socket"]).remote("ps", "--all", "--format", "{{.Names}}")
        names = listed.stdout.decode().split()
        found = [f"container {name}" for name in names if any(token in name for token in tokens)]
        return found + super().leftovers(tokens)
