"""Evaluate: the deployed files, through their own runtime, over labelled images; resumed where it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effbench.api.evaluate.accuracy import Suspicion
from effbench.api.evaluate.session import Call, Result
from effbench.api.export.artifacts import find_or_export
from effbench.api.export.request import ExportRequest
from effbench.api.export.stage import Notify, silent
from effbench.api.remote import Remote, device_of
from effbench.data import open_dataset
from effbench.deploy.artifact import bundle
from effbench.errors import DataError, EffbenchError, UnavailableError, UsageError
from effbench.profiles.accuracy import score_output
from effbench.schema import DEFAULT_RESOLUTION, Artifact, Cell, DataInfo
from effbench.store import home as home_of


@dataclass(frozen=True)
class Evaluated:
    """What one call of `evaluate` gave."""

    data: DataInfo
    classes: tuple[str, ...] | None
    results: tuple[Result, ...]
    cells: tuple[Cell, ...] = ()
    suspicions: tuple[tuple[str, Suspicion], ...] = ()


def evaluate(
    names: Sequence[str],
    data: str | Path,
    *,
    targets: Sequence[str] = (),
    resolutions: Sequence[str | int] = (),
    classes: str | Path | Sequence[str] | None = None,
    max_images: int | None = None,
    precision: str | None = None,
    weights: str | None = None,
    seed: int = 0,
    threads: int = 1,
    batch: int | None = None,
    workers: int | None = None,
    reference: bool = True,
    check_preprocessing: bool = True,
    device: str = "local",
    out: str | Path | None = None,
    notify: Notify = silent,
) -> Evaluated:
    """Evaluate artifacts on labelled images, and compare each with the fp32 reference image by image.

    Args:
        names: Artifacts, or models (exported first where needed). None means every artifact exported so far.
        data: A folder, a list or shards (`effbench.data.open_dataset`).
        targets: For models; none means those at hand.
        resolutions: For models; none means 224.
        classes: The classes in the order of the outputs, or a file that lists them.
        max_images: At most so many, drawn at random with a fixed seed; a larger number takes the same and more.
        precision: For models; None takes each target's default.
        weights: For models, a .safetensors file.
        seed: Of untrained weights.
        threads: Of the runtime.
        batch: Images per inference; None takes what the artifact was exported with.
        workers: Threads that decode; None takes the cores that the runtime leaves.
        reference: Evaluate the fp32 reference too, once per model and data set, and compare with it.
        check_preprocessing: Try common alternatives on a few labelled images, once per model.
        device: Where artifacts run; images are decoded here, and the reference runs here.
        out: The folder to write below.
        notify: Called with one line per step.

    Raises:
        DataError: There are no images, one cannot be read, or the classes do not fit; what was done is kept.
        UsageError: An argument that means nothing.
    """
    if max_images is not None and max_images < 1:
        raise UsageError(f"--max-images {max_images} is too few.", hint="Give 1 or more.")
    home = home_of(out)
    found = open_dataset(data, None if classes is None else classes)
    artifacts, cells = _chosen(names, targets, resolutions, precision, weights, seed, out, notify)
    for artifact in artifacts:
        found.check_head(int(score_output(artifact.outputs, artifact.name).shape[1] or 0), artifact.name)
    notify(f"hash {len(found.items)} images")
    with Remote(device_of(device)) as remote:
        call = Call(home, Path(data), classes, found, max_images, threads, batch, workers, notify, remote)
        results, suspicions = _evaluated(call, artifacts, cells, reference, check_preprocessing)
    return Evaluated(call.info, found.classes, tuple(results), tuple(cells), tuple(suspicions))


def _evaluated(
    call: Call, artifacts: Sequence[Artifact], cells: list[Cell], reference: bool, check_preprocessing: bool
) -> tuple[list[Result], list[tuple[str, Suspicion]]]:
    results: list[Result] = []
    suspicions: list[tuple[str, Suspicion]] = []
    checked: set[str] = set()
    for artifact in artifacts:
        try:
            _check_device(call, artifact)
            result = call.evaluate(artifact)
            if reference:
                result = call.compared(result, artifact)
            results.append(result)
            root, simulated = call.root(artifact), result.evaluation.simulated
            if check_preprocessing and call.data.labelled and root not in checked and not simulated:
                checked.add(root)
                found_better = call.suspect(artifact, result.evaluation)
                suspicions += [(artifact.subject.model, doubt) for doubt in found_better]
        except DataError:
            raise
        except EffbenchError as error:
            cells.append(_cell(artifact, error))
    return results, suspicions


def _check_device(call: Call, artifact: Artifact) -> None:
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


def _chosen(
    names: Sequence[str],
    targets: Sequence[str],
    resolutions: Sequence[str | int],
    precision: str | None,
    weights: str | None,
    seed: int,
    out: str | Path | None,
    notify: Notify,
) -> tuple[list[Artifact], list[Cell]]:
    home = home_of(out)
    if not names:
        known = [item for item in bundle.artifacts(home) if item.subject.target != "onnx"]
        if not known:
            raise UsageError("Nothing is exported yet.", hint="Name a model: effbench evaluate MODEL --data FOLDER")
        return [bundle.load(item.folder) for item in known if not targets or item.subject.target in targets], []
    request = ExportRequest(
        "",
        targets,
        resolutions or (DEFAULT_RESOLUTION,),
        precision=precision,
        weights=weights,
        seed=seed,
        out=out,
        notify=notify,
    )
    return find_or_export(names, request)


def _cell(artifact: Artifact, error: EffbenchError) -> Cell:
    subject = artifact.subject
    key = (subject.model, subject.shapes, subject.storage_precision, subject.target)
    return Cell.of(*key, error, artifact=str(artifact.folder), digest=artifact.digest)
