"""Job of the export worker that makes wrong conversions of a graph and counts those that the check finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench.codec import to_json
from effbench.deploy import Array
from effbench.deploy.artifact import bundle, feeding, fidelity
from effbench.deploy.artifact.feeding import count_of
from effbench.deploy.artifact.judge import Terms, own_rounding, verdict
from effbench.deploy.graph import mutations, onnx_file
from effbench.deploy.graph.run_ort import runner
from effbench.errors import EffbenchError
from effbench.schema import CALIBRATED, Artifact, MutationOutcome, MutationReport
from effbench.schema.mutation import EQUIVALENT, FOUND, MISSED, REFUSED
from effbench.threads import one_thread

if TYPE_CHECKING:
    from onnx import ModelProto

Feeds = Sequence[Mapping[str, Array]]
PAIRED_IMAGES = 6
"""Images that two graphs are paired on, operator by operator."""


@dataclass(frozen=True)
class Case:
    """A graph, what it is checked against, and how.

    Attributes:
        model: The graph that is converted wrongly; of static shape, shapes inferred.
        expected: The reference's outputs.
        feeds: Inputs, one batch each.
        precision: Stored in the graph.
        terms: Kinds and the model's own rounding.
        exact: The float graph, if ``model`` is quantized.
        batch: Samples in each of the feeds.
    """

    model: ModelProto
    expected: Mapping[str, Array]
    feeds: Feeds
    precision: str
    terms: Terms
    exact: ModelProto | None = None
    batch: int = 1

    def reasons(self, wrong: ModelProto) -> tuple[str, ...]:
        """Return why the check fails for a graph in the place of ``model``; empty if it passes."""
        outputs = fidelity.run_all(runner(wrong), self.feeds, self.batch)
        reasons = verdict(self.expected, outputs, self.precision, self.terms).reasons
        if reasons or self.exact is None:
            return reasons
        from effbench.deploy.precision.pairing import pair

        faults = pair(self.exact, wrong, self.feeds[:PAIRED_IMAGES]).faults
        return tuple(str(fault) for fault in faults if not fault.poor)

    def exact_outputs(self, model: ModelProto) -> dict[str, Array]:
        """Return a graph's outputs in float64."""
        from effbench.deploy.interpreter import Interpreter

        with one_thread():
            return fidelity.run_all(lambda feed: Interpreter(model).run(feed, "float64"), self.feeds, self.batch)


def outcomes(case: Case, each: int, seed: str) -> list[MutationOutcome]:
    """Make wrong conversions of a graph, ``each`` of every kind, and check them."""
    correct: dict[str, Array] = {}
    result = []
    for mutation in mutations.mutations(case.model, each, seed):
        try:
            reasons = case.reasons(mutation.model)
        except EffbenchError as error:
            result.append(MutationOutcome(mutation.kind, mutation.place, REFUSED, error.message))
            continue
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            text = str(error).splitlines()[0]
            result.append(MutationOutcome(mutation.kind, mutation.place, REFUSED, text))
            continue
        if reasons:
            result.append(MutationOutcome(mutation.kind, mutation.place, FOUND, reasons[0]))
            continue
        correct = correct or case.exact_outputs(case.model)
        changes = own_rounding(correct, case.exact_outputs(mutation.model))
        change = max((float(value.max(initial=0)) for value in changes.values()), default=0.0)
        outcome = EQUIVALENT if _below_rounding(changes, case.terms.rounding) else MISSED
        result.append(MutationOutcome(mutation.kind, mutation.place, outcome, "", change))
    return result


def _below_rounding(changes: Mapping[str, Array], rounding: Mapping[str, Any]) -> bool:
    """Return whether no channel of any output changes by more than the model's own rounding."""
    for name, change in changes.items():
        own = np.asarray(rounding.get(name, 0.0), np.float64)
        own = np.maximum(own, np.sqrt(np.mean(own**2)))
        if (change > own).any():
            return False
    return True


def mutate(job: dict[str, Any], emit: Any) -> None:
    """Check wrong conversions of a graph on its reference images; emit the report."""
    artifact = bundle.load(Path(job["graph"]))
    exact = bundle.load(Path(job["exact"])) if job["exact"] else None
    emit({"event": "stage", "stage": "the model's own rounding"})
    case = case_of(artifact, exact)
    emit({"event": "stage", "stage": "check wrong conversions"})
    results = outcomes(case, int(job["each"]), artifact.subject.model)
    images = case.batch * len(case.feeds)
    report = MutationReport(
        artifact.name, case.precision, "ONNX Runtime, against the model's reference", images, tuple(results)
    )
    emit({"event": "result", "report": to_json(report)})


def case_of(artifact: Artifact, exact: Artifact | None) -> Case:
    """Return the case of a graph artifact with its reference; ``exact`` is the fp32 graph of a quantized one."""
    from effbench.deploy.interpreter import Interpreter

    subject = artifact.subject
    model, float_model = _static(artifact), None if exact is None else _static(exact)
    reference = fidelity.load_reference(artifact.folder / bundle.REFERENCE)
    count = fidelity.NATURAL if subject.storage_precision in CALIBRATED else count_of(reference.samples)
    reference = fidelity.first(reference, count, subject.batch)
    feeds = feeding.feeds(reference.samples, subject.batch, artifact.inputs, artifact.preprocessing)
    terms = Terms(reference.kinds, reference.rounding)
    case = Case(model, reference.outputs, feeds, subject.storage_precision, terms, float_model, subject.batch)
    if subject.storage_precision != "fp32" or reference.rounding:
        return case
    with one_thread():
        single = fidelity.run_all(Interpreter(model).run, feeds, subject.batch)
    rounding = own_rounding(single, case.exact_outputs(model))
    return replace(case, terms=Terms(reference.kinds, rounding))


def _static(artifact: Artifact) -> ModelProto:
    model = onnx_file.load(artifact.path)
    shapes = {
        spec.name: tuple(side or artifact.subject.batch for side in spec.shape) for spec in artifact.inputs
    }  # only a batch is open
    return onnx_file.fix_shapes(model, shapes, artifact.name)
