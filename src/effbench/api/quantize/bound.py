"""Export int8 within a bound: what a search needs of an export, and what its outcome means for the cells."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from effbench import deploy
from effbench.api.evaluate.session import Call
from effbench.api.export.exporter import Exporter
from effbench.api.export.request import ExportRequest
from effbench.api.export.run import prepared
from effbench.api.keywords import from_fields
from effbench.api.quantize.search import Outcome, check, search
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


@from_fields(QuantizeRequest)
def quantize(request: QuantizeRequest) -> list[Cell]:
    """Export a model in int8 with as few operators in float as keep the drop of top-1 within a bound.

    Arguments are the fields of `QuantizeRequest`, those of `ExportRequest` included. The operators are searched once
    per size, through the first target that runs here; every target's artifact is made of that mix.

    Returns:
        One cell per resolution and target; where the bound was missed they have failed, with exit code 1.

    Raises:
        UsageError: An argument that names nothing valid; nothing was done then.
        DataError: A file that is not what it should be.
    """
    exporter, plan = prepared(request, whole_int8=True)  # the search says itself what goes back to float
    return cells(exporter, plan, request)


class ExportMaker:
    """Makes the artifacts of a search, by precision or as a mix; what exists is found, not made again."""

    def __init__(self, request: Exporter, size: InputShapes, target: str) -> None:
        self._request, self._size, self._target = request, size, target
        self._mixes: dict[Mix, Artifact] = {}

    def plain(self, precision: str) -> Artifact:
        """Return the artifact in one precision for the target of the search."""
        return self._request.artifact(self._size, self._target, precision)[0]

    def graphs(self) -> tuple[Artifact, Artifact]:
        """Return the graph in fp32 and in int8."""
        return self._request.in_precision(self._size, "fp32"), self._request.in_precision(self._size, "int8")

    def mixed(self, mix: Mix) -> Artifact:
        """Return the artifact of a mix for the target of the search."""
        if mix not in self._mixes:
            self._request.mixes[self._size] = mix
            try:
                self._mixes[mix] = self._request.artifact(self._size, self._target, "int8")[0]
            finally:
                del self._request.mixes[self._size]
        return self._mixes[mix]

    def clear(self, kept: Mix | None) -> None:
        """Remove the candidates that were not taken; their predictions stay in the store."""
        rest = [made for mix, made in self._mixes.items() if mix != kept]
        digests = {made.graph_digest for made in rest}
        graphs = [item for item in bundle.artifacts(self._request.home) if item.digest in digests]
        for folder in {item.folder for item in (*rest, *graphs)}:
            shutil.rmtree(folder, ignore_errors=True)


def cells(request: Exporter, plan: Sequence[tuple[InputShapes, str]], asked: QuantizeRequest) -> list[Cell]:
    """Search a mix once per size and make every target's artifact of it."""
    place, max_drop_pct, verify, classes = Path(asked.data), asked.max_drop, asked.verify, asked.classes
    listed = None if classes is None else str(Path(classes).resolve())
    data = open_dataset(place, listed)
    if data.partly_labelled:
        raise DataError(f"{data.name}: some images have a label, others none.", hint="All of them, or none.")
    check(data, max_drop_pct)
    found = []
    for size in dict.fromkeys(size for size, _ in plan):
        targets = [target for other, target in plan if other == size]
        runnable = [name for name in targets if deploy.get(name).available() is None]
        try:
            outcome = _search_one(request, size, (runnable or targets)[0], data, max_drop_pct, place, listed)
        except DataError:
            raise
        except EffbenchError as error:
            found += [Cell.of(request.source.name, size, "int8", name, error) for name in targets]
            continue
        notes = (*outcome.notes, *(trial.text() for trial in outcome.trials))
        for name in targets:
            if outcome.mix is None:
                graph = request.in_precision(size, "fp32")
                missed = FidelityError(
                    f"no mix keeps a drop of {max_drop_pct:g} points: {outcome.notes[-1]}.",
                    hint="Give more images, a larger --max-drop, or export in fp16.",
                )
                found.append(Cell.of(graph.subject.model, size, "int8", name, missed, notes=notes))
                continue
            request.mixes[size] = outcome.mix
            cell = request.cell(size, name, "int8", verify)
            found.append(replace(cell, notes=(*cell.notes, *notes)))
    return found


def _search_one(
    request: Exporter,
    size: InputShapes,
    target: str,
    data: Dataset,
    max_drop_pct: float,
    place: Path,
    classes: str | None,
) -> Outcome:
    maker = ExportMaker(request, size, target)
    graph = request.in_precision(size, "fp32")
    data.check_head(int(score_output(graph.outputs, graph.name).shape[1] or 0), graph.name)
    call = Call(request.home, place, classes, data, None, 1, None, None, request.notify)
    outcome = search(maker, call, max_drop_pct)
    maker.clear(outcome.mix)
    return outcome
