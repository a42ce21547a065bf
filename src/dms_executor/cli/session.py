"""What every command shares: the global options, the open executor, the log."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .codes import FAILED, INTERRUPTED
from .log_format import EitherLines
from .terminal import end_line, report, silence

if TYPE_CHECKING:
    from ..executor import Executor

__all__ = ["Command", "Session", "completed", "each", "options_of_all", "session_of"]


class Session:
    """The global options of one call."""

    def __init__(self) -> None:
        self.state_dir: str | None = None
        self.settings: str | None = None
        self.json = False
        self.verbosity = 0
        self.log_format: str | None = None

    @asynccontextmanager
    async def open(self, *, follow: bool = True) -> AsyncIterator[Executor]:
        """The executor, by the policy of the machine's owner. `follow=False`: for a command that only looks."""
        gc.disable()  # what imports make is there to stay: collections meanwhile find nothing
        try:
            from ..executor import Executor
            from ..policy import Policy
        finally:
            gc.enable()

        from .settings_file import settings_file

        settings = settings_file(self.settings)
        async with Executor.open(
            self.state_dir, policy=Policy.trusted(), settings=settings, _follow=follow
        ) as executor:
            yield executor

    def used_before(self) -> bool:
        """Whether the state folder is there."""
        from ..journal.folder import state_folder_default

        return (Path(self.state_dir) if self.state_dir is not None else state_folder_default()).exists()

    def run(self, work: Callable[[Executor], Awaitable[int | None]], *, follow: bool = False) -> int:
        """Opens the executor and does one command's work with it."""

        async def whole() -> int:
            async with self.open(follow=follow) as executor:
                return await work(executor) or 0

        try:
            return asyncio.run(whole())
        except KeyboardInterrupt:
            end_line()
            return INTERRUPTED
        except BrokenPipeError:
            # Whoever read our output has what it wanted.
            silence()
            return 0

    def begin_logging(self) -> None:
        """Warnings, with -v transitions, with -vv each call to the outside, to stderr; with --json as JSON, too."""
        handler = logging.StreamHandler(sys.stderr)
        # --json may come behind the command, and so later than this.
        handler.setFormatter(EitherLines(lambda: self.log_format == "json" or (self.log_format is None and self.json)))
        logger = logging.getLogger("dms_executor")
        logger.addHandler(handler)
        logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(self.verbosity, 2)])


def session_of(context: click.Context) -> Session:
    """The session of a command's context."""
    return context.ensure_object(Session)


def completed(what: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """How a parameter is completed, by a function of `completion`, which is imported when a key asks for it."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
        from . import completion

        found: list[Any] = getattr(completion, what)(context, parameter, incomplete)
        return found

    return complete


def _set_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    session_of(context).json |= value


def _set_state_dir(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    session = session_of(context)
    session.state_dir = value if value is not None else session.state_dir


def _set_settings(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    session = session_of(context)
    session.settings = value if value is not None else session.settings


def options_of_all() -> list[click.Option]:
    """The options that stand before a command or after it."""
    return [
        click.Option(
            ["--state-dir"],
            metavar="DIR",
            expose_value=False,
            callback=_set_state_dir,
            help="State folder. Default: $DMS_EXECUTOR_STATE_DIR, else /var/lib/dms-executor as root, "
            "~/.local/state/dms-executor otherwise.",
        ),
        click.Option(
            ["--settings"],
            metavar="FILE",
            expose_value=False,
            callback=_set_settings,
            help="Settings of the executor and its engines, YAML or JSON. Default: $DMS_EXECUTOR_SETTINGS.",
        ),
        click.Option(
            ["--json"], is_flag=True, expose_value=False, callback=_set_json, help="One JSON object a line, errors too."
        ),
    ]


class Command(click.Command):
    """A command with the options of all, and with examples below its help."""

    def __init__(self, *arguments: Any, examples: str = "", **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.params.extend(options_of_all())
        self.examples = [line.strip() for line in examples.strip().splitlines()]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, line by line."""
        if not self.examples:
            return
        title = "Example" if len(self.examples) == 1 else "Examples"
        with formatter.section(title):
            for line in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


async def each(ids: tuple[str, ...], session: Session, work: Callable[[str], Awaitable[None]]) -> int:
    """Does `work` for each id; one that fails is reported and does not keep the others from it."""
    from ..errors import ExecutorError

    code = 0
    for execution_id in ids:
        try:
            await work(execution_id)
        except ExecutorError as error:
            error.execution_id = error.execution_id or execution_id
            report(error, as_json=session.json)
            code = FAILED
    return code
