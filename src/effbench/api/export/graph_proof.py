"""The first proof of an export: the graph is the model, shown by a second engine before anything is made of the graph.

The expected outputs of a factory are those of the unfused model in eager torch. effbench's interpreter runs the
exported graph in float64, over a few images, and in fp32: between the two lies the graph's own rounding, which is the
floor of every later check. If the model differs from the graph by more than that explains, the model runs in float64 as
well, which tells a wrong graph from a model that fp32 cannot compute.

The expected outputs of an ``.onnx`` file are those of one engine, and another one with different code runs the graph
too. Of the engines (`graph_engines`), the first that has all operators is taken. If no second one has them, the proof
says that it is not independent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench.api.export import graph_engines
from effbench.api.export.graph_engines import GraphEngine
from effbench.deploy import installed
from effbench.deploy.artifact import fidelity
from effbench.deploy.artifact.feeding import feeds
from effbench.deploy.artifact.fidelity import Setup
from effbench.errors import ConversionError, FidelityError, UnverifiableError
from effbench.schema import Fidelity, Proof

if TYPE_CHECKING:
    from onnx import ModelProto

IMAGES = 3
"""Images that the graph is run over in float64, which takes some five times as long as fp32; all are scenes."""
REPEATABLE = 1e-4
"""Of the largest output: the difference between two runs that the order of sums can explain."""
SLOW_IMAGES = 1
"""Images for an evaluator that takes seconds for each."""


def reference_engine(model: ModelProto, batch: Mapping[str, Any]) -> tuple[GraphEngine, fidelity.Run]:
    """Return the engine that computes the expected outputs of an ``.onnx`` file: the first that runs it.

    Raises:
        ConversionError: None does; the message has the reason of each.
    """
    return graph_engines.opened(graph_engines.engines(), model, batch)


def prove_file(model: ModelProto, setup: Setup, first: GraphEngine) -> tuple[Fidelity, Mapping[str, float]]:
    """Compare the expected outputs of an ``.onnx`` file with those of a second engine.

    Args:
        model: The graph, at the size and batch of the check.
        setup: The expected outputs, by the first engine.
        first: That engine.

    Returns:
        The record, which is not independent where no second engine runs the graph, and the model's own rounding, by
        output.

    Raises:
        FidelityError: Every other engine differs by more than the model's own rounding explains.
    """
    batch = _batches(fidelity.first(setup.reference, 1, setup.batch), setup)[0]
    rounding = _rounding_of_graph(model, replace(setup, limit=IMAGES))
    setup = replace(setup, reference=setup.reference._replace(rounding=rounding))
    others = (engine for engine in graph_engines.engines() if engine.title != first.title)
    reasons: list[str] = []
    refuted: list[tuple[str, Fidelity]] = []
    for second, run in graph_engines.running(others, model, batch, reasons):
        proof = _checked(run, replace(setup, limit=SLOW_IMAGES if second.slow else None), second)
        if not proof.failed:
            return proof, rounding
        refuted.append((second.title, proof))
    if not refuted:
        return _alone(model, setup, first), rounding
    title, proof = refuted[0]
    raise FidelityError(
        f"Two engines compute different outputs from this graph: {'; '.join(proof.reasons)} ({first.title}, against "
        f"{title}).",
        hint="One of them has a fault, or the graph uses an operator beyond its definition.",
    )


def _alone(model: ModelProto, setup: Setup, engine: GraphEngine) -> Fidelity:
    """Return the proof of a graph that only one engine here runs: it shows that the outputs tell inputs apart."""
    few = replace(setup, limit=SLOW_IMAGES if engine.slow else IMAGES)
    return replace(_checked(engine.open(model), few, engine), independent=False)


def prove_export(
    model: ModelProto, setup: Setup, in_float64: Callable[[], fidelity.Run], fused: fidelity.Run
) -> tuple[Fidelity, Mapping[str, float]]:
    """Compare the expected outputs of a torch model with those of its graph.

    Args:
        model: The exported graph.
        setup: The expected outputs, by eager torch, before the model was fused.
        in_float64: Returns that model in float64; called only if the graph differs by more than its own rounding
            explains.
        fused: The fused model, which the graph was exported from.

    Returns:
        The record, and the model's own rounding, by output.

    Raises:
        FidelityError: The graph is not the model; the message says which step changed it.
        ConversionError: No engine here runs the graph.
    """
    first = _batches(fidelity.first(setup.reference, 1, setup.batch), setup)[0]
    engine, graph = graph_engines.opened(graph_engines.exact_engines(), model, first)
    few = replace(setup, limit=SLOW_IMAGES if engine.slow else IMAGES)
    graph = graph_engines.Remembered(graph)
    # What the graph differs from the model by is no rounding of the model, and must not widen the limit.
    rounding = _rounding_of_graph(model, few, graph if engine.exact else None)
    few = replace(few, reference=few.reference._replace(rounding=rounding))
    proof = _checked(graph, few, engine)
    if not proof.passed:
        with contextlib.suppress(ConversionError):  # a model may create tensors of a fixed type
            rounding = _rounding(in_float64(), few)
        few = replace(few, reference=few.reference._replace(rounding=rounding))
        proof = _checked(graph, few, engine)
    if proof.failed:
        step = "folding its BatchNorms" if fidelity.check(fused, few).failed else "the export to ONNX"
        own = ", ".join(f"{value:.1e} ({name})" for name, value in rounding.items()) or "unknown"
        raise FidelityError(
            f"The exported graph is not the model; {step} changed it: {'; '.join(proof.reasons)}, by {engine.title}.",
            hint=f"The model's own rounding in fp32: {own}.",
        )
    return proof, rounding


def _batches(reference: fidelity.Reference, setup: Setup) -> list[dict[str, Any]]:
    return feeds(reference.samples, setup.batch, setup.inputs, setup.preprocessing)


def _rounding(exact: fidelity.Run, setup: Setup) -> dict[str, float]:
    """Return the error of the expected outputs against an engine that is exact, by output, of the spread."""
    few = fidelity.first(setup.reference, setup.limit, setup.batch)
    outputs = fidelity.run_all(exact, _batches(few, setup), setup.batch, np.float64)
    return fidelity.rounding_of(few.outputs, outputs, setup.reference.outputs)


def _rounding_of_graph(model: ModelProto, setup: Setup, exact: fidelity.Run | None = None) -> dict[str, float]:
    """Return how far the interpreter in fp32 is from itself in float64; empty if it lacks an operator of the graph.

    ``exact`` is the latter, if it ran already.
    """
    if not installed("torch"):
        return {}
    few = fidelity.first(setup.reference, setup.limit, setup.batch)
    batches = _batches(few, setup)
    try:
        single, double = (
            fidelity.run_all(run, batches, setup.batch, np.float64)
            for run in (
                graph_engines.interpreter("float32")(model),
                exact or graph_engines.interpreter("float64")(model),
            )
        )
    except ConversionError:
        return {}
    return fidelity.rounding_of(single, double, setup.reference.outputs)


def _checked(run: fidelity.Run, setup: Setup, engine: GraphEngine) -> Fidelity:
    return replace(fidelity.check(run, setup), engine=engine.title, proved_by=Proof.SECOND_ENGINE)


def check_repeatable(run: fidelity.Run, batch: Mapping[str, Any]) -> None:
    """Run the model twice over the same inputs.

    Raises:
        UnverifiableError: The outputs differ by more than the order of sums can explain.
    """
    first, second = ({name: np.array(value) for name, value in run(batch).items()} for _ in range(2))
    for name, value in first.items():
        again = second[name]
        if value.shape != again.shape:
            raise _not_repeatable(name, f"shape {list(value.shape)}, then {list(again.shape)}")
        if not np.issubdtype(value.dtype, np.number) or not value.size:
            continue
        wide, wide_again = value.astype(np.float64), again.astype(np.float64)
        finite = np.isfinite(wide) & np.isfinite(wide_again)
        distance = np.abs(np.where(finite, wide, 0) - np.where(finite, wide_again, 0))
        if distance.max() > REPEATABLE * np.abs(wide[finite]).max(initial=0):
            place = tuple(int(index) for index in np.unravel_index(int(distance.argmax()), distance.shape))
            raise _not_repeatable(name, f"{wide[place]:.6g}, then {wide_again[place]:.6g} at {list(place)}")


def _not_repeatable(name: str, difference: str) -> UnverifiableError:
    return UnverifiableError(
        f"The model gives other outputs when it runs again on the same inputs ('{name}': {difference}): it is random, "
        "or keeps a state.",
        hint="Take the noise out, or make the state an input and an output.",
    )


def defined(run: fidelity.Run) -> fidelity.Run:
    """Return a function of inputs that refuses outputs that are no numbers, before rows of several runs are padded."""

    def checked(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        outputs = run(feeds)
        check_defined({name: np.asarray(value) for name, value in outputs.items()})
        return outputs

    return checked


def check_defined(outputs: Mapping[str, Any]) -> None:
    """Refuse expected outputs that are no numbers: no comparison with them can hold.

    Raises:
        FidelityError: It names the output and the first such element.
    """
    for name, value in outputs.items():
        undefined = np.isnan(value) if np.issubdtype(value.dtype, np.floating) else np.zeros(0, bool)
        if undefined.any():
            place = [int(index) for index in np.argwhere(undefined)[0]]
            raise FidelityError(
                f"The model's own output '{name}' is NaN at {place} ({int(undefined.sum())} of {value.size} values).",
                hint="The model divides by zero or overflows on ordinary inputs; check its weights and its inputs.",
            )
