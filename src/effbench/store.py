"""Measurements on disk: one JSON line per round, appended whole, never rewritten."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from effbench.codec import canonical, from_json, to_json
from effbench.errors import DataError
from effbench.schema import Measurement


class TornLineWarning(UserWarning):
    """The last line of a store was cut by a kill or a full disk; the lines before it are kept."""


def home(out: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder everything is written below: ``out``, else EFFBENCH_HOME, else ``runs`` here."""
    return Path(out or os.environ.get("EFFBENCH_HOME") or "runs")


class Store:
    """The measurements of one folder, in the order they were made."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "measurements.jsonl"

    def append(self, measurement: Measurement) -> None:
        """Add a measurement, as a rule of one round; it is on the disk when this returns.

        Raises:
            DataError: The folder cannot be written or the disk is full; earlier lines stay as they were.
        """
        from filelock import FileLock

        line = canonical(to_json(measurement)) + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")), self.path.open("ab", buffering=0) as stream:
                size = stream.tell()
                try:
                    # A line torn by an earlier kill must not swallow this one.
                    rest = (b"\n" if _torn(self.path, size) else b"") + line
                    while rest:  # unbuffered: nothing is left to be written once it failed
                        rest = rest[stream.write(rest) :]
                    os.fsync(stream.fileno())
                except OSError:
                    stream.truncate(size)
                    raise
        except OSError as error:
            raise DataError(
                f"Cannot write {self.path}: {error.strerror}.",
                hint="Nothing earlier was lost; free space or choose another folder with --out.",
            ) from error

    def __iter__(self) -> Iterator[Measurement]:
        """Yield every measurement, its rounds joined; a line that is cut short is reported with its number."""
        joined: dict[tuple[str, str, str], Measurement] = {}
        for line in self._lines():
            key = (line.run, line.digest, canonical(line.settings).decode())
            joined[key] = _join(joined[key], line) if key in joined else line
        yield from joined.values()

    def _lines(self) -> Iterator[Measurement]:
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                where = f"{self.path}:{number}"
                try:
                    data = json.loads(line)
                except ValueError:
                    warnings.warn(
                        TornLineWarning(f"{where}: not a whole JSON line; left out, the others are kept."), stacklevel=3
                    )
                    continue
                yield from_json(Measurement, data, where)


def _join(first: Measurement, more: Measurement) -> Measurement:
    samples = replace(first.samples, rounds=first.samples.rounds + more.samples.rounds)
    return replace(first, samples=samples, after=more.after)


def _torn(path: Path, size: int) -> bool:
    if size == 0:
        return False
    with path.open("rb") as stream:
        stream.seek(size - 1)
        return stream.read(1) != b"\n"
