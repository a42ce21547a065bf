"""Help teaches: each command has examples that it understands, and each option is explained."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest

from dms_executor.cli.commands import group

from .conftest import Cli

NAMES = group.list_commands(click.Context(group))
_ENDS = {"|", ")", ";", ">", "<", "&&"}


def _command(name: str) -> click.Command:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    return command


def _examples(name: str) -> list[str]:
    return list(getattr(_command(name), "examples", []))


def calls(line: str) -> Iterator[list[str]]:
    """The arguments of each `dms-executor` in a line of shell, a substitution in them as one word."""
    if "$(" in line and line.strip('"').endswith(")") and "dms-executor" in line.partition("$(")[2]:
        before, _, rest = line.partition("$(")
        inner, _, after = rest.rpartition(")")
        yield from calls(inner)
        line = f"{before.rstrip('=')} x{after}"
    words: list[str] | None = None
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for word in [*lexer, ";"]:
        if words is None:
            words = [] if word == "dms-executor" else None
        elif word in _ENDS:
            yield words
            words = None
        else:
            words.append(word)


@pytest.mark.parametrize("name", NAMES)
def test_a_command_has_examples_of_itself(cli: Cli, name: str) -> None:
    examples = _examples(name)
    assert examples
    assert any(name in words for line in examples for words in calls(line)), examples
    finished = cli(name, "--help")
    assert finished.code == 0
    assert all(line in finished.out.decode() for line in examples)


@pytest.mark.parametrize("line", [line for name in NAMES for line in _examples(name)])
def test_an_example_is_understood(line: str) -> None:
    found = list(calls(line))
    assert found, line
    for words in found:
        # Parsed as the shell's words would be, group and command; nothing is called.
        context = group.make_context("dms-executor", list(words))
        # As click calls it, by its releases from 8.2 on and by those before.
        first = context._protected_args if hasattr(context, "_protected_args") else context.protected_args
        name, command, rest = group.resolve_command(context, [*first, *context.args])
        assert command is not None
        command.make_context(name, rest, parent=context)


def test_an_example_with_an_unknown_option_is_found_out() -> None:
    assert list(calls("dms-executor cancel $(dms-executor ps -q --job-id nightly)")) == [
        ["ps", "-q", "--job-id", "nightly"],
        ["cancel", "x"],
    ]
    with pytest.raises(click.NoSuchOption):
        test_an_example_is_understood("dms-executor ps --bogus | cat")


@pytest.mark.parametrize("name", NAMES)
def test_each_option_is_explained_and_the_command_in_a_sentence(name: str) -> None:
    command = _command(name)
    assert command.help
    assert command.help.split("\n")[0].endswith((".", ":")) or "." in command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_help_lists_every_command(cli: Cli) -> None:
    shown = cli("--help").out.decode()
    assert all(f"  {name} " in shown for name in NAMES)
