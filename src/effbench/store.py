"""Measurements and evaluations on disk: JSON lines, appended whole, never rewritten."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from effbench.codec import canonical, from_json, to_json
from effbench.errors import DataError
from effbench.schema import Evaluation, Measurement, Predictions

T = TypeVar("T", Measurement, Evaluation)


class TornLineWarning(UserWarning):
    """The last line of a store was cut by a kill or a full disk; the lines before it are kept."""


def home(out: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder everything is written below: ``out``, else EFFBENCH_HOME, else ``runs`` here."""
    return Path(out or os.environ.get("EFFBENCH_HOME") or "runs")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one; its folder is made.

    Raises:
        DataError: The folder cannot be written or the disk is full.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(text, encoding="utf-8", newline="\n")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror}.", hint="Choose another with --out.") from error


class Store:
    """The measurements and evaluations of one folder, in the order they were made."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "measurements.jsonl"
        self.evaluations_path = folder / "evaluations.jsonl"

    def append(self, record: Measurement | Evaluation) -> None:
        """Add a measurement of one round, or an evaluation of some images; it is on the disk when this returns.

        Raises:
            DataError: The folder cannot be written or the disk is full; earlier lines stay as they were.
        """
        path = self.path if isinstance(record, Measurement) else self.evaluations_path
        append_line(path, canonical(to_json(record)))

    def __iter__(self) -> Iterator[Measurement]:
        """Yield every measurement, its rounds joined; a line that is cut short is reported with its number."""
        joined: dict[tuple[str, str, str], Measurement] = {}
        for line in _lines(self.path, Measurement):
            key = (line.run, line.digest, canonical(line.settings).decode())
            joined[key] = _join(joined[key], line) if key in joined else line
        yield from joined.values()

    def evaluations(self) -> list[Evaluation]:
        """Return every evaluation, its lines joined; an image that two lines hold counts once."""
        joined: dict[tuple[Any, ...], list[Evaluation]] = {}
        for line in _lines(self.evaluations_path, Evaluation):
            joined.setdefault(line.identity(), []).append(line)
        return [merge(lines) for lines in joined.values()]


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file, as a JSON document; it is on the disk when this returns.

    Raises:
        DataError: The folder cannot be written or the disk is full; earlier lines stay as they were.
    """
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")), path.open("ab", buffering=0) as stream:
            size = stream.tell()
            try:
                # A line torn by an earlier kill must not swallow this one.
                rest = (b"\n" if _torn(path, size) else b"") + line + b"\n"
                while rest:  # unbuffered: nothing is left to be written once it failed
                    rest = rest[stream.write(rest) :]
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(size)
                raise
    except OSError as error:
        raise DataError(
            f"Cannot write {path}: {error.strerror}.",
            hint="Nothing earlier was lost; free space or choose another folder with --out.",
        ) from error


def read_lines(path: Path, stacklevel: int = 3) -> Iterator[tuple[str, Any]]:
    """Yield each JSON line with where it stands; a line that is cut short is reported with its number."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            where = f"{path}:{number}"
            try:
                data = json.loads(line)
            except ValueError:
                text = f"{where}: not a whole JSON line; left out, the others are kept."
                warnings.warn(TornLineWarning(text), stacklevel=stacklevel)
                continue
            yield where, data


def _lines(path: Path, kind: type[T]) -> Iterator[T]:
    for where, data in read_lines(path, stacklevel=5):
        yield from_json(kind, data, where)


def merge(lines: Sequence[Evaluation]) -> Evaluation:
    """Join lines of one evaluation; an image that two of them hold counts once."""
    seen: set[int] = set()
    columns: dict[str, list[Any]] = {name: [] for name in vars(lines[0].predictions)}
    for line in lines:
        fresh = [place for place, image in enumerate(line.predictions.images) if image not in seen]
        seen |= set(line.predictions.images)
        for name, column in columns.items():
            values = getattr(line.predictions, name)
            column += [values[place] for place in fresh]
    predictions = Predictions(**{name: tuple(column) for name, column in columns.items()})
    return replace(lines[-1], predictions=predictions, seconds=sum(line.seconds for line in lines))


def _join(first: Measurement, more: Measurement) -> Measurement:
    samples = replace(first.samples, rounds=first.samples.rounds + more.samples.rounds)
    return replace(first, samples=samples, after=more.after)


def _torn(path: Path, size: int) -> bool:
    if size == 0:
        return False
    with path.open("rb") as stream:
        stream.seek(size - 1)
        return stream.read(1) != b"\n"
