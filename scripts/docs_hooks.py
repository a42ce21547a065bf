"""What mkdocs asks while it builds the site: the help of the commands, from the commands themselves."""

from __future__ import annotations

from typing import Any

import click

HERE = "<!-- help of all commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page of the command line, with the help of each command."""
    return markdown.replace(HERE, helps()) if HERE in markdown else markdown


def helps() -> str:
    """A section for each command, as `--help` shows it."""
    from dms_executor.cli.commands import group

    whole = click.Context(group, info_name="dms-executor", terminal_width=100)
    parts = []
    for name in group.list_commands(whole):
        command = group.get_command(whole, name)
        assert command is not None
        text = command.get_help(click.Context(command, parent=whole, info_name=name, terminal_width=100))
        parts.append(f"### {name}\n```text\n{text}\n```")
    return "\n\n".join(parts)
