"""The command `dms-executor` and its global options; each command's module is imported when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import click

from .. import __version__
from .habits import ALIASES, nearest, of_command
from .session import Session, options_of_all

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["group"]

# name -> module, and the one line for the list of commands.
_COMMANDS = {
    "run": ("run", "Execute a job and wait for its end."),
    "start": ("run", "Begin a job and leave it running."),
    "ps": ("listing", "List executions."),
    "logs": ("logs", "Show the output of an execution."),
    "wait": ("control", "Wait for executions and print their codes."),
    "cancel": ("control", "Terminate executions: a signal, a grace period, then KILL."),
    "kill": ("control", "Send a signal to a job."),
    "pause": ("control", "Freeze jobs."),
    "resume": ("control", "Let frozen jobs go on."),
    "snapshot": ("saving", "Save a running job to disk."),
    "restore": ("saving", "Let a saved job go on."),
    "rm": ("control", "Remove executions with their logs and results."),
    "cleanup": ("cleanup", "Drop what is kept too long, and leftovers."),
    "attach": ("attach", "Connect to a running job: its input, its terminal, its output."),
    "exec": ("exec", "Execute a further command in a running job."),
    "cp": ("copy", "Copy files into a running job, or out of it."),
    "inspect": ("listing", "Show all that is known of executions, as JSON."),
    "port": ("ports", "Show where the ports of an execution are on this host."),
    "stats": ("stats", "Show what running jobs use."),
    "events": ("events", "Show the transitions of executions."),
    "images": ("images", "List, bring and remove images."),
    "engines": ("engines", "Show which engines are usable here, and how to mend the others."),
    "completion": ("completion", "Print the script by which a shell completes what is typed."),
}


class _Commands(click.Group):
    """Finds a command by name, and imports only its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of a job's life."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or of docker's name for it."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in _COMMANDS:
            return None
        module = import_module(f".{_COMMANDS[name][0]}", __package__)
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A command that is not there is told with what it is called here."""
        name = args[0]
        if not (ctx.resilient_parsing or name.startswith("-") or name in _COMMANDS or name in ALIASES):
            error = click.UsageError(f"No such command {name!r}.", ctx)
            error.hint = of_command(name) or nearest(name, [*_COMMANDS, *ALIASES])  # type: ignore[attr-defined]
            raise error
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names of commands, with none of them imported."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=line) for name, (_, line) in _COMMANDS.items() if name.startswith(incomplete)
        ]
        return found or click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, with none of them imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "obj": None},
)
@click.option("-v", "--verbose", count=True, help="Log transitions to stderr; -vv: each call to the outside, too.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Form of the log on stderr.")
@click.version_option(__version__, prog_name="dms-executor", message="%(prog)s %(version)s")
@click.pass_context
def group(context: click.Context, verbose: int, log_format: str | None) -> None:
    """Executes jobs in containers and microVMs, with no daemon in between.

    `dms-executor run rootfs:DIR echo hi` executes one; `dms-executor engines` tells what this machine can do.
    `dms-executor COMMAND --help` has examples.
    """
    session = context.ensure_object(Session)
    session.verbosity, session.log_format = verbose, log_format
    session.begin_logging()
    if context.invoked_subcommand is None:
        from .welcome import welcome

        welcome(context, session)


group.params.extend(options_of_all())
