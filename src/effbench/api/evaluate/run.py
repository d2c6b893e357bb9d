"""Evaluate artifacts through their own runtime over labelled images; a stopped evaluation is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from effbench.api.evaluate.accuracy import Suspicion
from effbench.api.evaluate.request import EvaluateRequest
from effbench.api.evaluate.session import EvaluationRun, Result
from effbench.api.export.artifacts import find_or_export
from effbench.api.export.request import ExportRequest
from effbench.api.keywords import from_fields
from effbench.api.remote import Remote, device_of
from effbench.data import open_dataset
from effbench.deploy.artifact import bundle
from effbench.errors import DataError, EffbenchError, UnavailableError, UsageError
from effbench.profiles.accuracy import score_output
from effbench.schema import Artifact, Cell, DataInfo
from effbench.store import home as home_of


@dataclass(frozen=True)
class Evaluated:
    """The results of one call of `evaluate`."""

    data: DataInfo
    classes: tuple[str, ...] | None
    results: tuple[Result, ...]
    cells: tuple[Cell, ...] = ()
    suspicions: tuple[tuple[str, Suspicion], ...] = ()


@from_fields(EvaluateRequest)
def evaluate(request: EvaluateRequest) -> Evaluated:
    """Evaluate artifacts on labelled images, and compare each with the fp32 reference image by image.

    Arguments are the fields of `EvaluateRequest`; returns and errors are those of `run_evaluation`.
    """
    return run_evaluation(request)


def run_evaluation(request: EvaluateRequest) -> Evaluated:
    """Evaluate the images that the store lacks predictions for, and return all results.

    Raises:
        DataError: There are no images, one cannot be read, or the classes do not fit; finished predictions are kept.
        UsageError: A name is neither a model's nor an artifact's.
    """
    dataset = open_dataset(request.data, request.classes)
    artifacts, cells = _artifacts(request)
    for artifact in artifacts:
        dataset.check_head(int(score_output(artifact.outputs, artifact.name).shape[1] or 0), artifact.name)
    request.notify(f"hash {len(dataset.items)} images")
    with Remote(device_of(request.device)) as remote:
        call = EvaluationRun(request, dataset, remote)
        results, suspicions = _evaluated(call, artifacts, cells, request)
    return Evaluated(call.info, dataset.classes, tuple(results), tuple(cells), tuple(suspicions))


def _evaluated(
    call: EvaluationRun, artifacts: Sequence[Artifact], cells: list[Cell], request: EvaluateRequest
) -> tuple[list[Result], list[tuple[str, Suspicion]]]:
    results: list[Result] = []
    suspicions: list[tuple[str, Suspicion]] = []
    checked: set[str] = set()
    for artifact in artifacts:
        try:
            _check_device(call, artifact)
            result = call.evaluate(artifact)
            if request.reference:
                result = call.compared(result, artifact)
            results.append(result)
            root, simulated = call.root(artifact), result.evaluation.simulated
            if request.check_preprocessing and call.data.labelled and root not in checked and not simulated:
                checked.add(root)
                better = call.suspect(artifact, result.evaluation)
                suspicions += [(artifact.subject.model, suspicion) for suspicion in better]
        except DataError:
            raise
        except EffbenchError as error:
            cells.append(_cell(artifact, error))
    return results, suspicions


def _check_device(call: EvaluationRun, artifact: Artifact) -> None:
    if call.remote is None:
        return
    device, target = call.remote.device, artifact.subject.target
    if device.targets and target not in device.targets:
        raise UnavailableError(f"'{device.name}' runs {', '.join(device.targets)}, not {target}.")
    if not artifact.placement.get("finished", True):
        raise UnavailableError(
            f"{artifact.name} is a bundle that its device has to finish; effbench evaluates whole artifacts only.",
            hint="Finish it there (effbench export --finish) and evaluate it there.",
        )


def _artifacts(request: EvaluateRequest) -> tuple[list[Artifact], list[Cell]]:
    """Return the artifacts that a request means, exported where they are missing, and the cells of failures."""
    if not request.names:
        exported = [item for item in bundle.artifacts(home_of(request.out)) if item.subject.target != "onnx"]
        if not exported:
            raise UsageError("Nothing is exported yet.", hint="Name a model: effbench evaluate MODEL --data FOLDER")
        targets = request.targets
        return [bundle.load(item.folder) for item in exported if not targets or item.subject.target in targets], []
    template = ExportRequest(
        "",
        request.targets,
        request.resolutions,
        precision=request.precision,
        weights=request.weights,
        seed=request.seed,
        out=request.out,
        notify=request.notify,
    )
    return find_or_export(request.names, template)


def _cell(artifact: Artifact, error: EffbenchError) -> Cell:
    subject = artifact.subject
    key = (subject.model, subject.shapes, subject.storage_precision, subject.target)
    return Cell.of(*key, error, artifact=str(artifact.folder), digest=artifact.digest)
