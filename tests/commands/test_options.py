"""Options as the command line reads them: one value or several, and the names that a command's function takes."""

from __future__ import annotations

import click
import pytest

from effbench.cli import cli
from effbench.commands._shared import Command
from effbench.errors import UsageError

COMMANDS = sorted(cli.commands.values(), key=lambda command: str(command.name))
SINGLE = [
    (command, option)
    for command in COMMANDS
    for option in command.params
    if isinstance(option, click.Option) and not option.multiple and (not option.is_flag or option.secondary_opts)
]


def test_every_command_has_the_class_that_counts_its_options():
    assert [] == [command.name for command in COMMANDS if not isinstance(command, Command)]
    assert {"export", "gate", "import"} <= {command.name for command in COMMANDS}


@pytest.mark.parametrize(("command", "option"), SINGLE, ids=lambda item: item.name)
def test_an_option_of_one_value_is_refused_twice(command: click.Command, option: click.Option):
    words = [option.opts[0], (option.secondary_opts or option.opts)[0]]
    arguments = words if option.is_flag else [word for name in words for word in (name, "1")]
    with pytest.raises(UsageError, match=f"{option.opts[0]}.* is given 2 times"):
        command.make_context(str(command.name), arguments)


def test_options_of_several_values_and_flags_may_be_repeated():
    export = cli.commands["profile"]
    words = ["-t", "ort", "-t", "ov", "--json", "--json", "--res", "224", "--res", "512"]
    context = export.make_context("profile", words)
    assert ("ort", "ov") == context.params["targets"]
