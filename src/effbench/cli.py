"""The command line: parse, call `effbench.api`, print, map errors to exit codes.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from effbench import __version__
from effbench.boundary import quiet
from effbench.boundary.names import printable
from effbench.registry import constants_in

if TYPE_CHECKING:
    from effbench.errors import EffbenchError

EXIT_CODES = """\b
Exit codes: 0 fine, 1 fidelity failed or slower, 2 usage or data, 3 inconclusive or
unverifiable, 4 target or device unavailable, 5 failed, 130 interrupted, 141 the
reader of the output closed it."""

CLOSED_PIPE = 141
"""As a shell reports a program that SIGPIPE ended: ``effbench report | head``."""

OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF)
LOGS = 20


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

    1 means that a model became slower or is not the same; an exception that nobody expected ends with 5 and a log.
    """
    quiet.keep_caches_here()
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show
    shown, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        code = _run(words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        code = CLOSED_PIPE
        _give_up_output()
    except OSError as error:
        code = 5
        click.echo(f"effbench: the output cannot be written: {error.strerror}.", err=True)
        _give_up_output()
    finally:
        warnings.showwarning = shown
    sys.exit(code)


def _run(words: Sequence[str]) -> int:
    """Run a command, show how it failed, and return its exit code; only what concerns the output is raised."""
    from effbench.errors import DataError, EffbenchError, UsageError

    stdout = sys.stdout
    try:
        cli.main(args=list(words), prog_name="effbench", standalone_mode=False)
    except SystemExit as ended:
        if sys.stdout is not stdout:  # click wraps a closed one, and ends with 1, which would say "slower"
            raise BrokenPipeError from None
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except EffbenchError as error:
        return _failed(error, words)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show()
        return _failed(UsageError(error.format_message()), words, shown=True)
    except (click.Abort, KeyboardInterrupt):
        interruption = EffbenchError("interrupted; finished results are kept")
        interruption.exit_code = 130
        return _failed(interruption, words)
    except OSError as error:
        if error.filename is None and error.errno in OUTPUT_ERRORS:
            raise
        if error.filename is None or isinstance(error.filename, int):
            return _failed(_unexpected(error, words), words)
        return _failed(DataError(f"{error.filename}: {error.strerror or error}."), words)
    except MemoryError:
        text = "The memory of this machine was not enough."
        return _failed(EffbenchError(text, hint="Nothing half-made was kept; free memory, and run it again."), words)
    except Exception as error:  # noqa: BLE001  # it ends here, with a log
        return _failed(_unexpected(error, words), words)
    return 0


def _failed(error: EffbenchError, words: Sequence[str], shown: bool = False) -> int:
    """Show an error, with ``--json`` also as the one document on standard output; return its exit code."""
    from effbench.codec import error_document

    if not shown:
        click.echo(f"effbench: {printable(str(error))}", err=True)
    if "--json" in words:
        click.echo(error_document(error), nl=False)
    return error.exit_code


def _unexpected(error: BaseException, words: Sequence[str]) -> EffbenchError:
    """Return the error for an exception that nobody expected, and write the log that its report needs."""
    from effbench.errors import EffbenchError

    text = "".join(traceback.format_exception(error))
    first = (str(error).splitlines() or [""])[0][:300]
    log = _write_log(f"effbench {__version__}, Python {sys.version}\neffbench {shlex.join(words)}\n\n{text}")
    if log is None:
        click.echo(text, err=True, nl=False)
    place = "the lines above" if log is None else str(log)
    hint = f"This is a fault of effbench. Please report it with {place}, which holds the command and where it failed."
    return EffbenchError(f"{type(error).__name__}: {first}".rstrip(": "), hint=hint)


def _write_log(text: str) -> Path | None:
    """Write a log below the user's cache folder, keep the newest few, and return its path; None if it cannot be."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "effbench" / "errors"
    log = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log.write_text(text, encoding="utf-8", errors="backslashreplace")
        for old in sorted(folder.glob("*.log"))[:-LOGS]:
            old.unlink(missing_ok=True)
    except OSError:
        return None
    return log


def _give_up_output() -> None:
    """Point standard output elsewhere, so that what is still buffered for it is not tried again at the exit."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning of effbench as a sentence, and any other as Python does."""
    own = category.__module__.startswith("effbench")
    text = (
        printable(f"effbench: {message}\n")
        if own
        else warnings.formatwarning(message, category, filename, lineno, line)
    )
    click.echo(text, file=file, err=True, nl=False)


if __name__ == "__main__":
    main()
