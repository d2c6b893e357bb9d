"""Store measurements and evaluations as JSON lines, each appended atomically and never rewritten."""

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
    """A line of a store is incomplete, after a kill or a full disk; all other lines are kept."""


def home(out: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder for all output: ``out``, else EFFBENCH_HOME, else ``runs`` in the current folder."""
    return Path(out or os.environ.get("EFFBENCH_HOME") or "runs")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically, so that a kill leaves the old file or the new one; create its folder.

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
        raise DataError(f"Cannot write {path}: {error.strerror}.", hint="Choose another folder with --out.") from error


class Store:
    """The measurements and evaluations of one folder, oldest first."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "measurements.jsonl"
        self.evaluations_path = folder / "evaluations.jsonl"

    def append(self, record: Measurement | Evaluation) -> None:
        """Append a measurement of one round, or an evaluation of some images, and wait until it is on the disk.

        Raises:
            DataError: The folder cannot be written or the disk is full; earlier lines stay as they were.
        """
        path = self.path if isinstance(record, Measurement) else self.evaluations_path
        append_line(path, canonical(to_json(record)))

    def __iter__(self) -> Iterator[Measurement]:
        """Yield every measurement with all its rounds; warn about an incomplete line."""
        joined: dict[tuple[str, str, str], Measurement] = {}
        for line in _lines(self.path, Measurement):
            key = (line.run, line.digest, canonical(line.settings).decode())
            joined[key] = _join(joined[key], line) if key in joined else line
        yield from joined.values()

    def evaluations(self) -> list[Evaluation]:
        """Return every evaluation, its lines merged; an image that two lines hold counts once."""
        joined: dict[tuple[Any, ...], list[Evaluation]] = {}
        for line in _lines(self.evaluations_path, Evaluation):
            joined.setdefault(line.identity(), []).append(line)
        return [merge(lines) for lines in joined.values()]


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file and wait until it is on the disk.

    Raises:
        DataError: The folder cannot be written or the disk is full; earlier lines stay as they were.
    """
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")), path.open("ab", buffering=0) as stream:
            size = stream.tell()
            try:
                # A line that an earlier kill cut short must not swallow this one.
                pending = (b"\n" if _is_torn(path, size) else b"") + line + b"\n"
                while pending:  # unbuffered: after a failure nothing is left to be written
                    pending = pending[stream.write(pending) :]
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
    """Yield the location and the data of each JSON line; warn about an incomplete line."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            location = f"{path}:{number}"
            try:
                data = json.loads(line)
            except ValueError:
                text = f"{location}: not a complete JSON line; skipped, all others are kept."
                warnings.warn(TornLineWarning(text), stacklevel=stacklevel)
                continue
            yield location, data


def _lines(path: Path, record_type: type[T]) -> Iterator[T]:
    for location, data in read_lines(path, stacklevel=5):
        yield from_json(record_type, data, location)


def merge(lines: Sequence[Evaluation]) -> Evaluation:
    """Merge the lines of one evaluation; an image that two of them hold counts once."""
    seen: set[int] = set()
    columns: dict[str, list[Any]] = {name: [] for name in vars(lines[0].predictions)}
    for line in lines:
        fresh = [index for index, image in enumerate(line.predictions.images) if image not in seen]
        seen |= set(line.predictions.images)
        for name, column in columns.items():
            values = getattr(line.predictions, name)
            column += [values[index] for index in fresh]
    predictions = Predictions(**{name: tuple(column) for name, column in columns.items()})
    return replace(lines[-1], predictions=predictions, seconds=sum(line.seconds for line in lines))


def _join(first: Measurement, second: Measurement) -> Measurement:
    samples = replace(first.samples, rounds=first.samples.rounds + second.samples.rounds)
    return replace(first, samples=samples, after=second.after)


def _is_torn(path: Path, size: int) -> bool:
    if size == 0:
        return False
    with path.open("rb") as stream:
        stream.seek(size - 1)
        return stream.read(1) != b"\n"
