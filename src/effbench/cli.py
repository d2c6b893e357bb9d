"""The command line: parse, call `effbench.api`, print, map errors to exit codes.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from effbench import __version__
from effbench.boundary import quiet
from effbench.registry import constants_in

if TYPE_CHECKING:
    from effbench.errors import EffbenchError

EXIT_CODES = """\b
Exit codes: 0 fine, 1 fidelity failed or slower, 2 usage or data, 3 inconclusive or
unverifiable, 4 target or device unavailable, 5 failed, 130 interrupted."""


class _Commands(click.Group):
    """Suggests near command names."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from effbench.errors import unknown_name

            raise unknown_name(args[0], self.list_commands(ctx), "command") from error


@click.group(
    cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="effbench")
def cli() -> None:
    """Export vision backbones to edge runtimes from one ONNX graph, prove that they are still the same model, and
    measure latency that can be defended.

    \b
    effbench export regla_m --target ort     one graph, translated and verified
    effbench profile --res 512               latency of everything exported
    effbench report                          accuracy against latency, with provenance
    """  # noqa: D301


for _commands in constants_in("effbench.commands", "COMMANDS"):
    for _command in _commands:
        cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every error ends as one sentence, with ``--json`` also as one document, and its exit code.

    An exception that is no `EffbenchError` ends with 5: 1 means that a model became slower.
    """
    from effbench.errors import EffbenchError, UsageError

    quiet.keep_caches_here()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        cli.main(args=words, prog_name="effbench", standalone_mode=False)
    except EffbenchError as error:
        click.echo(f"effbench: {error}", err=True)
        _fail(error, words)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        _fail(UsageError(error.format_message()), words)
    except (click.Abort, KeyboardInterrupt):
        interruption = EffbenchError("interrupted; finished results are kept")
        interruption.exit_code = 130
        click.echo(f"effbench: {interruption}", err=True)
        _fail(interruption, words)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  # the traceback is shown; only the exit code differs
        traceback.print_exc()
        _fail(EffbenchError(f"{type(error).__name__}: {error}", hint="This is a fault of effbench."), words)


def _fail(error: EffbenchError, words: Sequence[str]) -> NoReturn:
    """End with the exit code of an error that is already shown, and with its document if ``--json`` is given."""
    from effbench.codec import error_document

    if "--json" in words:
        click.echo(error_document(error), nl=False)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
