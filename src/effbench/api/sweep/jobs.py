"""A cell of a matrix as a job: plain data, run by one importable function, identified by what decides its result.

`run` is all that a scheduler has to import, on this machine or another; two jobs of one `identity` have one result, so
that a recorded cell is not made again.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from effbench import deploy
from effbench.api.export.exporter import GRAPH_PACKAGES, WRITERS, proof_sha256
from effbench.api.export.request import ExportRequest, check_precisions
from effbench.api.export.run import run_export
from effbench.api.export.source import code_hashes, ingredients, resolve, versions
from effbench.api.export.stage import Notify, silent
from effbench.codec import fingerprint, from_json, to_json
from effbench.errors import DataError, EffbenchError, UnavailableError
from effbench.schema import CALIBRATED, DEFAULT_BATCH, Cell, Device, InputShapes, Resolution
from effbench.store import BadLineWarning, append_line, read_lines

CODE = ("effbench.deploy.graph.from_torch:from_module", "effbench.deploy.artifact.fidelity:check")
SEARCHES = {"fp16": ("effbench.deploy.precision.diagnose:examine",)}
"""The search that repairs a precision which misses its limit."""
PACKAGES = (*GRAPH_PACKAGES, "nncf")
CELL_LIMIT_S = 600.0


@dataclass(frozen=True)
class CellJob:
    """One cell of a matrix as plain data, so that any process or host can export it.

    Attributes:
        model: A name, an ``.onnx`` file or a factory.
        resolution: Pixels, or height x width, as text.
        precision: Of the artifact.
        target: The runtime.
        batch: Images per inference.
        weights: A .safetensors file, or None.
        seed: Of untrained weights.
        images: A folder for calibration, ``synthetic``, or None.
        options: Of the target.
        allow_fallback: Accept operators that another unit takes over.
        verify: Compare with the reference.
        time_limit_s: For the cell, all its stages together; one stage may take all of it.
        memory_limit_bytes: For each stage, or None.
        out: The folder to write below; None means that of the host.
    """

    model: str
    resolution: str
    precision: str
    target: str
    batch: int = DEFAULT_BATCH
    weights: str | None = None
    seed: int = 0
    images: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    allow_fallback: bool = False
    verify: bool = True
    time_limit_s: float = CELL_LIMIT_S
    memory_limit_bytes: int | None = None
    out: str | None = None

    DECIDE: ClassVar[tuple[str, ...]] = (
        "resolution",
        "precision",
        "target",
        "batch",
        "images",
        "options",
        "allow_fallback",
        "verify",
    )
    """The fields that decide the result, besides the model, its weights and seed."""

    @property
    def graph(self) -> tuple[str, str]:
        """The fp32 graph that the cell needs; all precisions are written into that one."""
        return (self.model, self.resolution)

    @property
    def label(self) -> tuple[str, str, str, str]:
        """Model, size, precision and target, as tables print them."""
        return (resolve(self.model).name, self.resolution, self.precision, self.target)

    def request(self, device: Device | None = None, notify: Notify = silent) -> ExportRequest:
        """Return the export that makes the cell, for a device if one is given."""
        return ExportRequest(
            self.model,
            [self.target],
            [self.resolution],
            precision=self.precision,
            images=self.images,
            batch=self.batch,
            weights=self.weights,
            seed=self.seed,
            options=self.options,
            device=device,
            allow_fallback=self.allow_fallback,
            verify=self.verify,
            out=self.out,
            time_limit_s=self.time_limit_s,
            cell_limit_s=self.time_limit_s,
            memory_limit_bytes=self.memory_limit_bytes,
            reduce_s=0,
            notify=notify,
        )


def plan(
    models: Sequence[str],
    targets: Sequence[str],
    resolutions: Sequence[Resolution],
    precisions: Sequence[str | None],
    **common: Any,
) -> list[CellJob]:
    """Return one job per cell; cells of one graph stand together, and the cheap and the common come first.

    Args:
        models: Names, ``.onnx`` files or factories.
        targets: Names.
        resolutions: Pixels, or height x width.
        precisions: None stands for each target's default.
        common: Fields of `CellJob` that all jobs share.

    Raises:
        UsageError: A name is unknown; nothing was done then.
        DataError: A file does not exist.
    """
    for model in models:
        resolve(model, common.get("weights"), common.get("seed", 0))
    for target in targets:
        deploy.get(target)
    check_precisions(name for name in precisions if name is not None)
    sizes = [str(InputShapes.parse(text)) for text in resolutions]
    images = common.pop("images", None)
    cells: list[CellJob] = []
    for size, precision, model, target in product(sizes, precisions, models, targets):
        stored = precision or deploy.get(target).precision
        # Images belong to the precisions that are calibrated; an export refuses them for the others.
        calibration = images if stored in CALIBRATED else None
        cells.append(CellJob(model, size, stored, target, images=calibration, **common))
    return cells


def run(job: Mapping[str, Any], notify: Notify = silent) -> dict[str, Any]:
    """Export and verify one cell from its JSON; any error is the cell's status, never an exception.

    Returns:
        The cell as JSON.
    """
    return to_json(run_cell(from_json(CellJob, job, "job"), notify=notify))


def run_cell(job: CellJob, notify: Notify = silent) -> Cell:
    """Export and verify one cell; any error is its status."""
    try:
        return export_cell(job, notify=notify)
    except EffbenchError as error:
        return cell_of(job, error)


def export_cell(job: CellJob, device: Device | None = None, notify: Notify = silent) -> Cell:
    """Export and verify one cell, for a device if one is given; what fails in a stage is the cell's status.

    Raises:
        EffbenchError: The job names nothing that can be exported.
    """
    (cell,) = run_export(job.request(device, notify))
    return cell


def cell_of(job: CellJob, error: EffbenchError) -> Cell:
    """Return the cell of a job that ended in an error."""
    return Cell.of(resolve(job.model).name, InputShapes.parse(job.resolution), job.precision, job.target, error)


def like(job: CellJob, other: Cell) -> Cell:
    """Return the cell of a job that fails as another did, because they share the graph that failed."""
    return replace(
        other,
        model=resolve(job.model).name,
        shapes=InputShapes.parse(job.resolution),
        precision=job.precision,
        target=job.target,
        artifact="",
        digest="",
        cached=False,
        seconds=0.0,
        notes=(),
        placement={},
    )


def identity(job: CellJob) -> str:
    """Return a hash of all that decides the result of a job: model, weights, options, versions and code."""
    target = deploy.get(job.target)
    return fingerprint(
        {
            **{name: getattr(job, name) for name in CellJob.DECIDE},
            "model": _model(job.model, job.weights, job.seed),
            "versions": versions(*PACKAGES, *target.packages),
            "code": _code(f"{type(target).__module__}:TARGET", job.precision),
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
    code = code_hashes(*CODE, target, *WRITERS.get(precision, ()), *SEARCHES.get(precision, ()))
    return fingerprint([proof_sha256(), *code])


class Journal:
    """The cells of a folder as they finished, one JSON line each; the last line of an identity counts."""

    def __init__(self, home: Path) -> None:
        self.path = home / "cells.jsonl"

    def append(self, job: CellJob, cell: Cell) -> None:
        """Add how a job ended; it is on the disk when this returns.

        Raises:
            DataError: The folder cannot be written or the disk is full; earlier lines stay as they were.
        """
        line = json.dumps({"id": identity(job), "job": to_json(job), "cell": to_json(cell)}, sort_keys=True)
        append_line(self.path, line.encode())

    def read(self) -> dict[str, Cell]:
        """Return the cells by identity; a line that cannot be read is named in a warning, and its cell runs again."""
        return dict(self._lines())

    def _lines(self) -> Iterator[tuple[str, Cell]]:
        for where, data in read_lines(self.path):
            try:
                identity, cell = str(data["id"]), data["cell"]
            except (KeyError, TypeError):
                warnings.warn(BadLineWarning(f"{where}: not the record of a cell; it is skipped."), stacklevel=3)
                continue
            try:
                yield identity, from_json(Cell, cell, where)
            except DataError as error:
                warnings.warn(BadLineWarning(f"{error.message} The line is skipped."), stacklevel=3)
