"""Export int8 within a bound on accuracy: the exports that a search needs, and the cells of its outcome."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from effbench import deploy
from effbench.api.evaluate.request import EvaluateRequest
from effbench.api.evaluate.session import EvaluationRun
from effbench.api.export.exporter import Exporter
from effbench.api.export.request import ExportRequest
from effbench.api.export.run import Plan, prepared
from effbench.api.keywords import from_fields
from effbench.api.quantize.search import SearchOutcome, check, search
from effbench.data import Dataset, open_dataset
from effbench.deploy.artifact import bundle
from effbench.deploy.precision.mix import Mix
from effbench.errors import DataError, EffbenchError, FidelityError, UsageError
from effbench.profiles.accuracy import score_output
from effbench.schema import Artifact, Cell, InputShapes


@dataclass(frozen=True, kw_only=True)
class QuantizeRequest(ExportRequest):
    """An export in int8 whose loss of accuracy is bounded.

    Attributes:
        max_drop: Points of top-1 that int8 may cost; operators that cost more stay in float (docs/how-to/quantize.md).
        data: The images that the drop is judged on, with labels or without.
        classes: A file that lists their classes in the order of the outputs.
    """

    max_drop: float
    data: str | Path
    classes: str | Path | None = None
    precision: str | None = "int8"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision != "int8":
            raise UsageError("--max-drop and --data belong to int8.", hint="Add --precision int8.")
        if str(self.images) == "synthetic":
            raise UsageError("A bound on accuracy takes real images to calibrate with.", hint="--images FOLDER")


@dataclass(frozen=True)
class SizeResult:
    """The cells of one input size, one per target, and the search that led to them; None where it failed."""

    cells: tuple[Cell, ...]
    outcome: SearchOutcome | None


@from_fields(QuantizeRequest)
def quantize(request: QuantizeRequest) -> list[Cell]:
    """Export a model in int8 with as few operators in float as keep the drop of top-1 within a bound.

    Arguments are the fields of `QuantizeRequest`, those of `ExportRequest` included; returns and errors are those of
    `run_quantize`.
    """
    return run_quantize(request)


def run_quantize(request: QuantizeRequest) -> list[Cell]:
    """Export a model in int8 with as few operators in float as keep the drop of top-1 within a bound.

    The operators are searched once per size, through the first target that runs here; every target's artifact is made
    of that mix.

    Returns:
        One cell per resolution and target; if the bound was missed they have failed, with exit code 1.

    Raises:
        UsageError: A field has an invalid value; nothing was done then.
        DataError: A file cannot be read, or has other content than expected.
    """
    return [cell for result in quantize_sizes(request) for cell in result.cells]


def quantize_sizes(request: QuantizeRequest) -> list[SizeResult]:
    """Do what `run_quantize` does, and return the outcome of each size's search beside its cells."""
    exporter, plan = prepared(request, whole_int8=True)  # the search chooses the operators that stay in float
    classes = None if request.classes is None else str(Path(request.classes).resolve())
    data = open_dataset(Path(request.data), classes)
    if data.partly_labelled:
        raise DataError(f"{data.name}: some images have a label, others none.", hint="All of them, or none.")
    check(data, request.max_drop)
    return [_quantize_size(exporter, plan, shapes, data, request) for shapes in dict.fromkeys(size for size, _ in plan)]


class ExportMaker:
    """Exports the artifacts of a search, by precision or as a mix; cached ones are reused."""

    def __init__(self, exporter: Exporter, size: InputShapes, target: str) -> None:
        self._exporter, self._size, self._target = exporter, size, target
        self._mixes: dict[Mix, Artifact] = {}

    def plain(self, precision: str) -> Artifact:
        """Return the artifact in one precision for the target of the search."""
        return self._exporter.artifact(self._size, self._target, precision)[0]

    def graphs(self) -> tuple[Artifact, Artifact]:
        """Return the graph in fp32 and in int8."""
        return self._exporter.in_precision(self._size, "fp32"), self._exporter.in_precision(self._size, "int8")

    def mixed(self, mix: Mix) -> Artifact:
        """Return the artifact of a mix for the target of the search."""
        if mix not in self._mixes:
            self._exporter.mixes[self._size] = mix
            try:
                self._mixes[mix] = self._exporter.artifact(self._size, self._target, "int8")[0]
            finally:
                del self._exporter.mixes[self._size]
        return self._mixes[mix]

    def clear(self, chosen: Mix | None) -> None:
        """Remove the candidates that were not chosen; their predictions stay in the store."""
        candidates = [artifact for mix, artifact in self._mixes.items() if mix != chosen]
        digests = {artifact.graph_digest for artifact in candidates}
        graphs = [item for item in bundle.artifacts(self._exporter.home, skip=True) if item.digest in digests]
        for folder in {item.folder for item in (*candidates, *graphs)}:
            shutil.rmtree(folder, ignore_errors=True)


def _quantize_size(
    exporter: Exporter, plan: Plan, shapes: InputShapes, data: Dataset, request: QuantizeRequest
) -> SizeResult:
    """Search a mix for one size and make every target's artifact of it."""
    targets = [target for size, target in plan if size == shapes]
    runnable = [name for name in targets if deploy.get(name).available() is None]
    try:
        outcome = _search_one(exporter, shapes, (runnable or targets)[0], data, request)
    except DataError:
        raise
    except EffbenchError as error:
        return SizeResult(tuple(Cell.of(exporter.source.name, shapes, "int8", name, error) for name in targets), None)
    notes = (*outcome.notes, *(trial.text() for trial in outcome.trials))
    if outcome.mix is None:
        missed = FidelityError(
            f"no mix keeps a drop of {request.max_drop:g} points: {outcome.notes[-1]}.",
            hint="Give more images, a larger --max-drop, or export in fp16.",
        )
        cells = [Cell.of(exporter.source.name, shapes, "int8", name, missed, notes=notes) for name in targets]
        return SizeResult(tuple(cells), outcome)
    exporter.mixes[shapes] = outcome.mix
    cells = [exporter.cell(shapes, name, "int8", request.verify) for name in targets]
    return SizeResult(tuple(replace(cell, notes=(*cell.notes, *notes)) for cell in cells), outcome)


def _search_one(
    exporter: Exporter, shapes: InputShapes, target: str, data: Dataset, request: QuantizeRequest
) -> SearchOutcome:
    maker = ExportMaker(exporter, shapes, target)
    graph = exporter.in_precision(shapes, "fp32")
    data.check_head(int(score_output(graph.outputs, graph.name).shape[1] or 0), graph.name)
    evaluation = EvaluateRequest((), request.data, classes=request.classes, out=exporter.home, notify=exporter.notify)
    outcome = search(maker, EvaluationRun(evaluation, data), request.max_drop)
    maker.clear(outcome.mix)
    return outcome
