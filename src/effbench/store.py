"""Store measurements and evaluations as JSON lines, each appended atomically and never rewritten."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, TypeVar

from effbench import drafts, reading
from effbench.codec import canonical, from_json, to_json
from effbench.errors import DataError
from effbench.schema import Evaluation, Measurement, Predictions

R = TypeVar("R")


LOCK_S = 60.0
"""How long a writer waits for another one; appending a line takes milliseconds."""

NOTE_CHARS = 1 << 16
"""Of one text in a stored line: a report prints all of them."""

SHOWN = 5
"""So many unreadable lines of a file are named one by one."""


class BadLineWarning(UserWarning):
    """A line of a store cannot be read and is skipped; all other lines are kept."""


class TornLineWarning(BadLineWarning):
    """A line of a store is incomplete, after a kill or a full disk."""


def home(out: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder for all output: ``out``, else EFFBENCH_HOME, else ``runs`` in the current folder."""
    return Path(out or os.environ.get("EFFBENCH_HOME") or "runs")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically, so that a kill leaves the old file or the new one; create its folder.

    Raises:
        DataError: The folder cannot be written or the disk is full.
    """
    try:
        with drafts.draft(path.parent, f".{path.name}.") as draft:
            draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
            draft.replace(path)
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
            DataError: The record could not be read back, the folder cannot be written or the disk is full; earlier
                lines stay as they were.
        """
        append_line(self.path if isinstance(record, Measurement) else self.evaluations_path, _line_of(record))

    def append_missing(self, measurements: Sequence[Measurement]) -> None:
        """Append those rounds of one run of an artifact that are not stored yet; two imports at once store each once.

        Raises:
            DataError: As for `append`.
        """
        lines = [_line_of(item) for item in measurements]
        with locked(self.path):
            ends = {(item.run, item.digest): len(item.samples.rounds) for item in self}
            for item, line in zip(measurements, lines, strict=True):
                rounds, key = len(item.samples.rounds), (item.run, item.digest)
                if ends.get(key, 0) >= rounds:
                    ends[key] -= rounds
                else:
                    _append(self.path, line)

    def __iter__(self) -> Iterator[Measurement]:
        """Yield every measurement with all its rounds; a line that cannot be read is named in a warning and skipped."""
        joined: dict[tuple[str, str, str, str], Measurement] = {}
        for line in records(self.path, Measurement, stacklevel=4):
            # Two models may have equal files, and so one digest.
            key = (line.run, line.digest, line.subject.model, canonical(line.settings).decode())
            joined[key] = _join(joined[key], line) if key in joined else line
        yield from joined.values()

    def evaluations(self) -> list[Evaluation]:
        """Return every evaluation, its lines merged; an image that two lines hold counts once."""
        joined: dict[tuple[Any, ...], list[Evaluation]] = {}
        for line in records(self.evaluations_path, Evaluation, stacklevel=4):
            joined.setdefault(line.identity(), []).append(line)
        return [merge(lines) for lines in joined.values()]


def _line_of(record: Measurement | Evaluation) -> bytes:
    """Return the line of a record, which can be read back."""
    line = canonical(to_json(record))
    _record(type(record), line, f"this {type(record).__name__.lower()}")
    return line


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file and wait until it is on the disk.

    Raises:
        DataError: The folder cannot be written, the disk is full, or another process does not release the file;
            earlier lines stay as they were.
    """
    with locked(path):
        _append(path, line)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file below a home: what is read and written inside, no other process changes meanwhile.

    Raises:
        DataError: Another process does not release it, or the folder cannot be written; also for an OSError inside.
    """
    from filelock import Timeout

    try:
        with drafts.file_lock(path.with_suffix(".lock"), LOCK_S):
            yield
    except Timeout:
        raise DataError(
            f"{path}: another process has held its lock for {LOCK_S:g} s.", hint="Nothing was lost; run it again."
        ) from None
    except OSError as error:
        raise DataError(
            f"Cannot write {path}: {error.strerror}.",
            hint="Nothing earlier was lost; free space or choose another folder with --out.",
        ) from error


def _append(path: Path, line: bytes) -> None:
    with _appending(path) as stream:
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


def _appending(path: Path) -> IO[bytes]:
    """Open a file to append to it; a pipe in its place, whose reader could be waited for for ever, is refused."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DataError(f"{path} is not a regular file.", hint="Remove it, or choose another folder with --out.")
    stream = os.fdopen(handle, "ab", buffering=0)
    stream.seek(0, os.SEEK_END)
    return stream


def read_lines(path: Path, stacklevel: int = 3) -> Iterator[tuple[str, Any]]:
    """Yield the location and the data of each JSON line; one that cannot be read is named in a warning and skipped."""
    skipped = 0
    for number, line in reading.lines(path):
        location = f"{path}:{number}"
        try:
            data = _parsed(line, location)
        except DataError as error:
            skipped += 1
            _warn(error.message, skipped, stacklevel, torn=line is not None and not line.endswith(b"}"))
            continue
        yield location, data


def records(path: Path, record_type: type[R], stacklevel: int = 3) -> Iterator[R]:
    """Yield the record of each line; one that cannot be read as such is named in a warning and skipped."""
    skipped = 0
    for location, data in read_lines(path, stacklevel=stacklevel + 2):
        try:
            yield from_json(record_type, data, location)
        except DataError as error:
            skipped += 1
            _warn(error.message, skipped, stacklevel)


def _parsed(line: bytes | None, location: str) -> Any:
    if line is None:
        raise DataError(f"{location}: longer than {reading.LINE_BYTES >> 20} MiB.")
    return reading.json_value(line, location, longest=NOTE_CHARS)


def _record(record_type: type[R], line: bytes, location: str) -> R:
    return from_json(record_type, _parsed(line, location), location)


def _warn(message: str, skipped: int, stacklevel: int, torn: bool = False) -> None:
    if skipped > SHOWN:
        return
    more = "" if skipped < SHOWN else " Further ones are not named."
    kind = TornLineWarning if torn else BadLineWarning
    warnings.warn(kind(f"{message} The line is skipped; all others are kept.{more}"), stacklevel=stacklevel + 1)


def merge(lines: Sequence[Evaluation]) -> Evaluation:
    """Merge the lines of one evaluation; an image that two of them hold counts once."""
    images: set[int] = set()
    columns: dict[str, list[Any]] = {name: [] for name in vars(lines[0].predictions)}
    for line in lines:
        fresh = [index for index, image in enumerate(line.predictions.images) if image not in images]
        images |= set(line.predictions.images)
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
