"""Errors that a user's own code raises, shown as theirs: what, and in which line of which file."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from effbench.errors import ConversionError, EffbenchError
from effbench.models.sources import installed_folders

_OWN = str(Path(__file__).resolve().parents[1])


@contextmanager
def user_code(stage: str) -> Iterator[None]:
    """Run code of a user inside; ``stage`` says what it was called for.

    Raises:
        ConversionError: The code raised something, or ended the process.
        EffbenchError: Effbench raised it inside.
    """
    try:
        yield
    except (EffbenchError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        traceback.print_exc(file=sys.stderr)  # the log of a failure holds the whole stack
        raise ConversionError(stage, described(error), hint=_advice(error)) from error


def described(error: BaseException) -> str:
    """Return an error's class and first line, and the innermost line of the user's own files that led to it."""
    first = next(iter(str(error).strip().splitlines()), "")
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    place = _place(error)
    return f"{text} ({place})" if place else text


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}, line {error.lineno}"
    libraries = (*installed_folders(), _OWN)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if not frame.filename.startswith(libraries)]
    return f"{_short(own[-1].filename)}, line {own[-1].lineno}, in {own[-1].name}" if own else ""


def _short(name: str) -> str:
    path = Path(name)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else name


def _advice(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"The model's own code opens '{error.filename}', looked for from {Path.cwd()}."
    return "The model's own code raised this, not effbench."
