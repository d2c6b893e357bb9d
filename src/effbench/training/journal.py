"""The log of a training: a line per step in ``curve.jsonl``, and the same for TensorBoard."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from effbench import reading
from effbench.errors import DataError, MissingDependencyError

CURVE = "curve.jsonl"


class TrainingJournal:
    """The log of a training that resumes after ``step``; later lines are removed, as their steps run again.

    Only the process whose ``writes`` is true writes.
    """

    def __init__(self, folder: Path, step: int, writes: bool) -> None:
        self.folder, self.step, self.writes = folder, step, writes
        self._board: Any = None
        self._curve: Any = None

    def __enter__(self) -> TrainingJournal:
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / CURVE
            lines = [json.dumps(line) for line in read(path) if line["step"] <= self.step]
            draft = path.with_suffix(".tmp")
            draft.write_text("".join(f"{line}\n" for line in lines))
            draft.replace(path)
            self._curve = path.open("a", buffering=1)
            self._board = _board(self.folder / "tensorboard", self.step)
        return self

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        if self.writes:
            self._curve.write(json.dumps({"step": step, **numbers}) + "\n")
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.writes:
            self._curve.close()
            self._board.close()


def read(path: Path) -> list[dict[str, float]]:
    """Return the lines of a curve up to the first incomplete one."""
    lines: list[dict[str, float]] = []
    for number, line in reading.lines(path):
        try:
            lines.append(reading.json_value(line or b"", f"{path}:{number}"))
        except DataError:
            break
    return lines


def _board(folder: Path, step: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError("The log of a training", "tensorboard", "train") from error
    return SummaryWriter(str(folder), purge_step=step + 1)
