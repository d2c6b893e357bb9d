"""A cell of a matrix as a job: plain JSON, run by one importable function, identified by what it measures.

`run` is all that a scheduler has to import, on this machine or another; `identity` tells two jobs that measure the
same, so that what is recorded is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from effbench import deploy
from effbench.api.export.exporter import GRAPH_PACKAGES, WRITERS
from effbench.api.export.run import export
from effbench.api.export.source import code_hashes, ingredients, resolve, versions
from effbench.api.export.stage import Notify, silent
from effbench.codec import fingerprint, from_json, to_json
from effbench.errors import DataError, EffbenchError, UnavailableError, UsageError, unknown_name
from effbench.schema import CALIBRATED, PRECISIONS, Cell, Device, InputShapes
from effbench.store import append_line

Job = dict[str, Any]

CODE = ("effbench.deploy.graph.from_torch:from_module", "effbench.deploy.artifact.fidelity:check")
SEARCHES = {"fp16": ("effbench.deploy.precision.diagnose:examine",)}
"""What mends a precision that misses its limit."""
PACKAGES = (*GRAPH_PACKAGES, "nncf")
MEASURES = ("resolution", "precision", "target", "batch", "images", "allow_fallback", "options", "verify")
"""What of a job decides its result, besides the model, the versions and the code."""
CELL_LIMIT_S = 600.0


def plan(
    models: Sequence[str],
    targets: Sequence[str],
    resolutions: Sequence[str | int],
    precisions: Sequence[str | None],
    **common: Any,
) -> list[Job]:
    """Return one job per cell; cells of one graph stand together, and the cheap and the common come first.

    Args:
        models: Names, ``.onnx`` files or factories.
        targets: Names.
        resolutions: Pixels, or height x width.
        precisions: None stands for each target's default.
        common: What all jobs share: ``batch``, ``weights``, ``seed``, ``images``, ``allow_fallback``, ``verify``,
            ``time_limit_s``, ``memory_limit_bytes``, ``out``.

    Raises:
        UsageError: A name that means nothing; nothing was done then.
        DataError: A file that does not exist.
    """
    for model in models:
        resolve(model, common.get("weights"), common.get("seed", 0))
    for target in targets:
        deploy.get(target)
    for precision in precisions:
        if precision is not None and precision not in PRECISIONS:
            raise unknown_name(precision, PRECISIONS, "precision")
    sizes = [str(InputShapes.parse(text)) for text in resolutions]
    defaults: dict[str, Any] = {
        "batch": 1,
        "weights": None,
        "seed": 0,
        "images": None,
        "options": {},
        "verify": True,
    }
    jobs: list[Job] = []
    for size, precision, model, target in product(sizes, precisions, models, targets):
        wanted = precision or deploy.get(target).precision
        place = {"model": model, "resolution": size, "precision": wanted, "target": target}
        job = {**defaults, **common, **place}
        # Images belong to the precisions that are calibrated; an export refuses them for the others.
        jobs.append(job if wanted in CALIBRATED else {**job, "images": None})
    return jobs


def run(job: Mapping[str, Any], notify: Notify = silent) -> dict[str, Any]:
    """Export and verify one cell; returns it as JSON. Whatever goes wrong is the cell's status, never an exception."""
    try:
        cell = made(job, notify=notify)
    except EffbenchError as error:
        cell = cell_of(job, error)
    return to_json(cell)


def made(job: Mapping[str, Any], device: Device | None = None, notify: Notify = silent) -> Cell:
    """Export and verify one cell, for a device where one is given; what fails in a stage is the cell's status.

    Raises:
        EffbenchError: The job names nothing that can be exported.
    """
    (cell,) = export(
        job["model"],
        [job["target"]],
        [job["resolution"]],
        precision=job["precision"],
        images=job["images"],
        batch=job["batch"],
        weights=job["weights"],
        seed=job["seed"],
        options=job["options"],
        device=device,
        allow_fallback=job["allow_fallback"],
        verify=job["verify"],
        out=job.get("out"),
        time_limit_s=job["time_limit_s"],  # one stage may take all of it
        cell_limit_s=job["time_limit_s"],
        memory_limit_bytes=job.get("memory_limit_bytes"),
        reduce_s=0,
        notify=notify,
    )
    return cell


def cell_of(job: Mapping[str, Any], error: EffbenchError) -> Cell:
    """Return the cell of a job that ended in an error."""
    name = resolve(job["model"]).name
    return Cell.of(name, InputShapes.parse(job["resolution"]), job["precision"], job["target"], error)


def like(job: Mapping[str, Any], other: Cell) -> Cell:
    """Return the cell of a job that fails as another did, because they share the graph that failed."""
    key = (resolve(job["model"]).name, InputShapes.parse(job["resolution"]), job["precision"], job["target"])
    named = dict(zip(("model", "shapes", "precision", "target"), key, strict=True))
    return replace(other, **named, artifact="", digest="", cached=False, seconds=0.0, notes=(), placement={})


def label(job: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return the model, size, precision and target of a job, as tables print them."""
    return (resolve(job["model"]).name, str(job["resolution"]), job["precision"], job["target"])


def group(job: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a job's graph in fp32 is one of; all precisions are written into that one."""
    return (job["model"], job["resolution"])


def identity(job: Mapping[str, Any]) -> str:
    """Return a hash of all that decides the result of a job: model, weights, options, versions and code."""
    target = deploy.get(job["target"])
    measured = {key: job.get(key) for key in MEASURES}
    return fingerprint(
        {
            **measured,
            "model": _model(job["model"], job["weights"], job["seed"]),
            "versions": versions(*PACKAGES, *target.packages),
            "code": _code(f"{type(target).__module__}:TARGET", job["precision"]),
        }
    )


@cache
def _model(model: str, weights: str | None, seed: int) -> str:
    try:
        return fingerprint(ingredients(resolve(model, weights, seed)))
    except UnavailableError as error:  # the package that brings the model is not installed
        return error.message


@cache
def _code(target: str, precision: str) -> str:
    return fingerprint(code_hashes(*CODE, target, *WRITERS.get(precision, ()), *SEARCHES.get(precision, ())))


class Journal:
    """The cells of a folder as they finished, one JSON line each; the last line of an identity counts."""

    def __init__(self, home: Path) -> None:
        self.path = home / "cells.jsonl"

    def append(self, job: Mapping[str, Any], cell: Mapping[str, Any]) -> None:
        """Add how a job ended; it is on the disk when this returns.

        Raises:
            DataError: The folder cannot be written or the disk is full; earlier lines stay as they were.
        """
        line = json.dumps({"id": identity(job), "job": dict(job), "cell": dict(cell)}, sort_keys=True)
        append_line(self.path, line.encode())

    def read(self) -> dict[str, Cell]:
        """Return the cells by identity; a line that a kill cut short is a cell that did not finish.

        Raises:
            DataError: A whole line is not what it should be.
        """
        return dict(self._lines())

    def _lines(self) -> Iterator[tuple[str, Cell]]:
        if not self.path.exists():
            return
        for number, line in enumerate(self.path.read_bytes().splitlines(), start=1):
            try:
                data = json.loads(line)
            except ValueError:
                continue
            where = f"{self.path}:{number}"
            if not isinstance(data, dict) or "id" not in data:
                raise DataError(f"{where}: not the record of a cell.", hint=f"Move {self.path} away and sweep again.")
            yield data["id"], from_json(Cell, data["cell"], where)


__all__ = ["CELL_LIMIT_S", "Job", "Journal", "UsageError", "cell_of", "group", "identity", "plan", "run"]
