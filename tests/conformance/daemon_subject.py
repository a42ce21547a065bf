"""The engines docker and podman as subjects of the conformance suite, over the session's own daemon of each."""

from __future__ import annotations

import msgspec

from dms_executor import SpecConfig
from dms_executor.conformance import ShellSubject
from dms_executor.conformance.steps import Failure
from dms_executor.errors import EngineUnavailable
from dms_executor.types import Settings
from tests.daemons import SESSIONS

__all__ = ["DaemonSubject"]


class DaemonSubject(ShellSubject):
    """Its settings name the daemon's socket; where they do not, the daemon is started first."""

    def settings(self) -> Settings:
        if "socket" in self.engine_settings:
            return super().settings()
        session = SESSIONS[self.engine]
        if problem := session.missing():
            raise EngineUnavailable(problem, mend="Install it, and run the tests as root")
        try:
            socket = {"socket": str(session.daemon().socket)}
        except RuntimeError as error:
            raise EngineUnavailable(str(error), mend="Run the tests where it can run") from error
        return msgspec.structs.replace(super().settings(), engines={self.engine: socket})

    def failing(self, how: Failure) -> SpecConfig:
        """An image that nobody looks for elsewhere, or no such command."""
        if how == "image":
            image = f"{SESSIONS[self.engine].image.partition(':')[0]}:missing"
            return SpecConfig(type=self.engine, params={"image": image, "cmd": ["true"], "pull": "never"})
        return super().failing(how)

    def leftovers(self, tokens: list[str]) -> list[str]:
        """The daemon's containers, too."""
        names = SESSIONS[self.engine].daemon().containers()
        found = [f"container {name}" for name in names if any(token in name for token in tokens)]
        return found + super().leftovers(tokens)
