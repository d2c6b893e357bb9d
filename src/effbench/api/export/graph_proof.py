"""The first proof of an export: the graph is the model, shown by a second engine before anything is made of the graph.

The expected outputs of a factory are those of the unfused model in eager torch. effbench's interpreter runs the
exported graph in float64, over a few images. If the graph is the model, the two differ by the rounding of fp32 alone,
which is thereby known: it is the floor of every later check. If they differ by more than the limit, the model runs in
float64 as well, which tells a wrong graph from a model that fp32 cannot compute.

The expected outputs of an ``.onnx`` file are those of one engine, and another one with different code runs the graph
too. Of the engines, the first that has all operators is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench.deploy import installed
from effbench.deploy.artifact import fidelity, limits
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


@dataclass(frozen=True)
class GraphEngine:
    """Something that runs an ONNX graph: its name, whether it is slow, and how it is opened."""

    title: str
    open: Callable[[ModelProto], fidelity.Run]
    slow: bool = False


def engines() -> Iterator[GraphEngine]:
    """Yield the engines that are installed, each with code of its own, the preferred one first."""
    yield GraphEngine("effbench's ONNX interpreter on torch, fp32", _interpreter("float32"))
    if installed("onnxruntime"):
        yield GraphEngine(f"ONNX Runtime {version('onnxruntime')}, unoptimized", _onnxruntime)
    yield GraphEngine(f"the reference evaluator of onnx {version('onnx')}", _evaluator, slow=True)


def reference_engine(model: ModelProto, batch: Mapping[str, Any]) -> tuple[GraphEngine, fidelity.Run]:
    """Return the engine that computes the expected outputs of an ``.onnx`` file: the first that runs it.

    Raises:
        ConversionError: None does; the message has the reason of each.
    """
    return _opened(engines(), model, batch)


def prove_file(model: ModelProto, setup: Setup, first: GraphEngine) -> tuple[Fidelity, Mapping[str, float]]:
    """Compare the expected outputs of an ``.onnx`` file with those of a second engine.

    Args:
        model: The graph, at the size and batch of the check.
        setup: The expected outputs, by the first engine.
        first: That engine.

    Returns:
        The record, and the model's own rounding, by output.

    Raises:
        FidelityError: The engines differ by more than the model's own rounding explains.
        ConversionError: No second engine runs this graph.
    """
    batch = fidelity.feeds(setup.reference.images[: setup.batch], setup.batch, setup.spec, setup.preprocessing)[0]
    second, run = _opened((engine for engine in engines() if engine.title != first.title), model, batch)
    rounding = _rounding_of_graph(model, replace(setup, limit=IMAGES))
    setup = replace(setup, reference=setup.reference._replace(rounding=rounding))
    proof = _checked(run, replace(setup, limit=SLOW_IMAGES if second.slow else None), second)
    if proof.failed:
        raise FidelityError(
            f"Two engines compute different outputs from this graph: {'; '.join(proof.reasons)} ({first.title}, "
            f"against {second.title}).",
            hint="One of them has a fault, or the graph uses an operator beyond its definition.",
        )
    return proof, rounding


def prove_export(
    model: ModelProto, setup: Setup, in_float64: Callable[[], fidelity.Run], fused: fidelity.Run
) -> tuple[Fidelity, Mapping[str, float]]:
    """Compare the expected outputs of a torch model with those of its graph.

    Args:
        model: The exported graph.
        setup: The expected outputs, by eager torch, before the model was fused.
        in_float64: Returns that model in float64; called only if the graph is not within the limit of fp32.
        fused: The fused model, which the graph was exported from.

    Returns:
        The record, and the model's own rounding, by output.

    Raises:
        FidelityError: The graph is not the model; the message says which step changed it.
        ConversionError: No engine here runs the graph.
    """
    first = fidelity.feeds(setup.reference.images[: setup.batch], setup.batch, setup.spec, setup.preprocessing)[0]
    engine, graph = _opened(_exact_engines(), model, first)
    few = replace(setup, limit=SLOW_IMAGES if engine.slow else IMAGES)
    graph = _Remembered(graph)
    rounding = _rounding(graph, few)
    if max(rounding.values()) > limits.resolution(limits.LIMITS[setup.precision]):
        try:
            rounding = _rounding(in_float64(), few)
        except ConversionError:  # a model may create tensors of a fixed type
            rounding = _rounding_of_graph(model, few)
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


class _Remembered:
    """A function of inputs that runs once for equal ones."""

    def __init__(self, run: fidelity.Run) -> None:
        self._run = run
        self._outputs: dict[bytes, Mapping[str, Any]] = {}

    def __call__(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        key = b"".join(value.tobytes() for value in feeds.values())
        if key not in self._outputs:
            self._outputs[key] = self._run(feeds)
        return self._outputs[key]


def _rounding(exact: fidelity.Run, setup: Setup) -> dict[str, float]:
    """Return the error of the expected outputs against an engine that is exact, by output, of the spread."""
    few = fidelity.first(setup.reference, setup.limit, setup.batch)
    batches = fidelity.feeds(few.images, setup.batch, setup.spec, setup.preprocessing)
    return fidelity.rounding_of(few.outputs, fidelity.run_all(exact, batches, np.float64), setup.reference.outputs)


def _rounding_of_graph(model: ModelProto, setup: Setup) -> dict[str, float]:
    """Return how far the interpreter in fp32 is from itself in float64; empty if it lacks an operator of the graph."""
    few = fidelity.first(setup.reference, setup.limit, setup.batch)
    batches = fidelity.feeds(few.images, setup.batch, setup.spec, setup.preprocessing)
    try:
        single, exact = (
            fidelity.run_all(_interpreter(mode)(model), batches, np.float64) for mode in ("float32", "float64")
        )
    except ConversionError:
        return {}
    return fidelity.rounding_of(single, exact, setup.reference.outputs)


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
        distance = np.where(finite, np.abs(np.where(finite, wide - wide_again, 0)), 0)
        if distance.max() > REPEATABLE * np.abs(wide[finite]).max(initial=0):
            place = tuple(int(index) for index in np.unravel_index(int(distance.argmax()), distance.shape))
            raise _not_repeatable(name, f"{wide[place]:.6g}, then {wide_again[place]:.6g} at {list(place)}")


def _not_repeatable(name: str, difference: str) -> UnverifiableError:
    return UnverifiableError(
        f"The model gives other outputs when it runs again on the same inputs ('{name}': {difference}): it is random, "
        "or keeps a state.",
        hint="Take the noise out, or make the state an input and an output.",
    )


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


def _exact_engines() -> Iterator[GraphEngine]:
    """Yield the interpreter in float64, then the engines that have more operators."""
    yield GraphEngine("effbench's ONNX interpreter on torch, float64", _interpreter("float64"))
    yield from itertools.islice(engines(), 1, None)


def _opened(
    candidates: Iterable[GraphEngine], model: ModelProto, batch: Mapping[str, Any]
) -> tuple[GraphEngine, fidelity.Run]:
    reasons = []
    for engine in candidates:
        try:
            opened = engine.open(model)
            run = _Remembered(opened)
            run(batch)
        except ConversionError as error:
            reasons.append(f"{engine.title}: {error.message}.")
        else:
            return engine, run
    raise ConversionError(
        "proof of the graph",
        f"no engine here runs it, so nothing can be made of it. {' '.join(reasons)}",
        hint="Install another engine: pip install 'effbench[ort]'",
    )


def _interpreter(mode: str) -> Callable[[ModelProto], fidelity.Run]:
    from effbench.deploy.interpreter import Interpreter

    def opened(model: ModelProto) -> fidelity.Run:
        interpreter = Interpreter(model)
        return lambda feeds: interpreter.run(feeds, mode)

    return opened


def _onnxruntime(model: ModelProto) -> fidelity.Run:
    from effbench.deploy.graph.run_ort import runner

    return runner(model, optimized=False)


def _evaluator(model: ModelProto) -> fidelity.Run:
    from onnx.reference import ReferenceEvaluator

    names = [output.name for output in model.graph.output]
    try:
        session = ReferenceEvaluator(model)
    except NotImplementedError as error:
        raise ConversionError("reference evaluator", str(error).splitlines()[0]) from error

    def run(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return dict(zip(names, session.run(None, dict(feeds)), strict=True))
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            raise ConversionError("reference evaluator", str(error).split("\n")[0]) from error

    return run
