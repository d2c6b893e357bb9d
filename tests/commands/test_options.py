"""Options as the command line reads them: one value or several, and the names that a command's function takes."""

from __future__ import annotations

import dataclasses
import inspect

import click
import pytest

from effbench import reports
from effbench.cli import cli
from effbench.commands import _shared
from effbench.commands._shared import Command
from effbench.errors import UsageError
from effbench.profiles import vendors
from effbench.reports import gate, rows
from effbench.schema import DEFAULT_RESOLUTION, DEFAULT_THREADS, InputShapes
from effbench.statistics.verdict import WHEN_INCONCLUSIVE

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


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_a_command_takes_the_options_that_it_declares(command: click.Command):
    assert command.callback is not None
    parameters = inspect.signature(command.callback).parameters.values()
    assert {parameter.name for parameter in command.params} == {parameter.name for parameter in parameters}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_the_list_of_commands_shows_a_whole_sentence(command: click.Command):
    assert not command.get_short_help_str(limit=64).endswith("...")


@dataclasses.dataclass(frozen=True)
class Size:
    height: int
    width: int


def test_options_of_a_record_reach_the_command_as_one():
    calls = []

    @_shared.grouped(Size, "size")
    def command(name: str, size: Size) -> None:
        calls.append((name, size))

    assert ["name", "height", "width"] == list(inspect.signature(command).parameters)
    command(name="a", width=3, height=2)
    assert [("a", Size(2, 3))] == calls
    with pytest.raises(TypeError, match="depth"):
        command(name="a", width=3, height=2, depth=1)
    with pytest.raises(KeyError, match="width"):
        command(name="a", height=2)


@pytest.mark.parametrize("command", [c for c in COMMANDS if any("--res" in p.opts for p in c.params)], ids=str)
def test_a_size_is_parsed_at_the_command_line(command: click.Command):
    if command.name == "claims":
        pytest.skip("--res of claims is a range of sizes")
    (option,) = [parameter for parameter in command.params if "--res" in parameter.opts]
    context = click.Context(command)
    values = option.type_cast_value(context, ["384x640"] if option.multiple else "384x640")
    assert InputShapes((384, 640)) == (values[0] if option.multiple else values)
    with pytest.raises(UsageError, match=r"not a size in pixels.*\n.*512, or 384x640"):
        option.type_cast_value(context, ["big"] if option.multiple else "big")


def test_defaults_are_those_of_the_records():
    distill = cli.commands["distill"].make_context("distill", ["regla_m", "--data", "x"])
    assert InputShapes.parse(DEFAULT_RESOLUTION) == distill.params["resolution"]
    evaluate = cli.commands["evaluate"].make_context("evaluate", ["--data", "x"])
    assert DEFAULT_THREADS == evaluate.params["threads"]
    assert f"[default: {DEFAULT_THREADS}]" in evaluate.get_help()


def choices(command: str, option: str) -> set[str]:
    """Return the names that the shell completes after an option."""
    (parameter,) = [item for item in cli.commands[command].params if option in item.opts]
    items = parameter.type.shell_complete(click.Context(cli.commands[command]), parameter, "")
    return {item.value for item in items}


@pytest.mark.parametrize(
    ("command", "option", "valid"),
    [
        ("gate", "--format", gate.FORMATS.keys() - {"terminal"}),
        ("compare", "--format", gate.FORMATS.keys() - {"terminal"}),
        ("report", "--format", reports.FORMATS.keys() - {"terminal"}),
        ("report", "--metric", set(reports.METRICS)),
        ("report", "--published", set(rows.PUBLISHED_CHOICES)),
        ("sweep", "--format", set(reports.TABLE_FORMATS)),
        ("import", "--format", set(vendors.readers())),
    ],
)
def test_the_names_of_an_option_are_those_that_its_function_takes(command: str, option: str, valid: set[str]):
    assert valid == choices(command, option)


def test_an_inconclusive_verdict_has_the_codes_of_the_statistics():
    (parameter,) = [item for item in cli.commands["gate"].params if "--inconclusive" in item.opts]
    assert isinstance(parameter.type, click.Choice)
    assert set(WHEN_INCONCLUSIVE) == set(parameter.type.choices)
