"""The power `exec`: what the daemon is asked for, and what its refusals mean.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Exec
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..engine import Command, Execution, Handle
from ..errors import EngineUnreachable, ExecutionNotRunning, ExecutorError, StartFailed
from . import files
from .client import ApiError
from .names import CALLS, INIT
from .session import Called, Started, open_called

if TYPE_CHECKING:
    from .client import Client
    from .dialect import Dialect

__all__ = ["Execs"]

_START = 90.0
_KILLED = 137


class Execs:
    """The part of the engine that starts further commands."""

    _client: Client
    dialect: ClassVar[Dialect]

    async def exec(self, x: Execution, h: Handle, command: Command) -> Called:
        """Raises `StartFailed`, `ExecutionNotRunning`."""

        async def begin(name: str) -> Callable[[], Awaitable[Started]]:
            return await self._begin(x, h, command, name)

        return await open_called(files.calls_of(x), begin, terminal=command.terminal is not None)

    async def _begin(self, x: Execution, h: Handle, command: Command, name: str) -> Callable[[], Awaitable[Started]]:
        try:
            made = await self._client.post(f"/containers/{h.state['container']}/exec", _body(h, command, name))
            await self._client.post(f"/exec/{made['Id']}/start", {"Detach": True, "Tty": False}, deadline=_START)
        except ApiError as error:
            raise _refusal(error, x) from error

        async def look() -> Started:
            try:
                found = await self._client.get(f"/exec/{made['Id']}/json")
            except ApiError as error:
                if error.is_gone:  # with its container
                    return Started(0, _KILLED)
                raise EngineUnreachable(error.message, execution_id=x.id) from error
            pid = found.get("Pid") or 0
            if found["Running"] and not self.dialect.tells_ends and not await asyncio.to_thread(_exists, pid):
                return Started(pid, _KILLED)  # of an end that it could tell the init has told
            return Started(pid, None if found["Running"] else found.get("ExitCode"))

        return look


def _body(h: Handle, command: Command, name: str) -> dict[str, Any]:
    environment = {**({"TERM": "xterm"} if command.terminal is not None else {}), **command.environment}
    # A container's variables are its commands', too; but the job's secrets are the job's. Docker would leave out what
    # is given by its name alone, Podman refuses that: the init does it.
    secrets = [secret for secret in h.state.get("secrets", []) if secret not in environment]
    words = [INIT, "-c", "=".join([f"{CALLS}/{name}", *secrets])]
    if command.terminal is not None:
        words += ["-t", "{}x{}".format(*command.terminal)]
    body: dict[str, Any] = {
        "Cmd": [*words, "--", *command.argv],
        "Env": [f"{variable}={value}" for variable, value in environment.items()],
    }
    if command.user is not None:
        body["User"] = command.user
    if command.working_directory is not None:
        body["WorkingDir"] = command.working_directory
    return body


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _refusal(error: ApiError, x: Execution) -> ExecutorError:
    if error.status == 409 and "paused" in error.message:
        return ExecutionNotRunning(
            f"execution {x.id} is paused", status="paused", mend="Resume it first", execution_id=x.id
        )
    if error.is_over:
        return ExecutionNotRunning("it has ended", execution_id=x.id)
    return StartFailed(error.message, execution_id=x.id)
