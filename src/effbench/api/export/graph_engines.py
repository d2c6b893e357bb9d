"""The engines that run an ONNX graph for its first proof, each with code of its own: those that are installed."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from effbench.deploy import installed
from effbench.deploy.artifact.fidelity import Run
from effbench.errors import ConversionError

if TYPE_CHECKING:
    from onnx import ModelProto

EVALUATOR_S = 60.0
"""The longest run of the reference evaluator, which takes minutes for a large convolutional network."""


@dataclass(frozen=True)
class GraphEngine:
    """Something that runs an ONNX graph: its name, how it is opened, whether it is slow, and whether it is exact."""

    title: str
    open: Callable[[ModelProto], Run]
    slow: bool = False
    exact: bool = False


def engines() -> Iterator[GraphEngine]:
    """Yield the engines that are installed, the preferred one first."""
    if installed("torch"):
        yield GraphEngine("effbench's ONNX interpreter on torch, fp32", interpreter("float32"))
    if installed("onnxruntime"):
        yield GraphEngine(f"ONNX Runtime {version('onnxruntime')}, unoptimized", onnxruntime)
    if installed("openvino"):
        yield GraphEngine(f"OpenVINO {version('openvino')}, fp32", openvino)
    yield GraphEngine(f"the reference evaluator of onnx {version('onnx')}", evaluator, slow=True)


def exact_engines() -> Iterator[GraphEngine]:
    """Yield the interpreter in float64, then the engines that have more operators."""
    yield GraphEngine("effbench's ONNX interpreter on torch, float64", interpreter("float64"), exact=True)
    yield from itertools.islice(engines(), 1, None)


class Remembered:
    """A function of inputs that runs once for equal ones."""

    def __init__(self, run: Run) -> None:
        """Keep the function."""
        self._run = run
        self._outputs: dict[bytes, Mapping[str, Any]] = {}

    def __call__(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the outputs."""
        key = b"".join(value.tobytes() for value in feeds.values())
        if key not in self._outputs:
            self._outputs[key] = self._run(feeds)
        return self._outputs[key]


def running(
    candidates: Iterable[GraphEngine], model: ModelProto, batch: Mapping[str, Any], reasons: list[str]
) -> Iterator[tuple[GraphEngine, Run]]:
    """Yield the engines that run a graph on a batch; ``reasons`` gets a sentence for each that does not."""
    for engine in candidates:
        try:
            run = Remembered(engine.open(model))
            run(batch)
        except ConversionError as error:
            reasons.append(f"{engine.title}: {error.message}.")
        else:
            yield engine, run


def opened(candidates: Iterable[GraphEngine], model: ModelProto, batch: Mapping[str, Any]) -> tuple[GraphEngine, Run]:
    """Return the first engine that runs a graph on a batch.

    Raises:
        ConversionError: None does; the message has the reason of each.
    """
    reasons: list[str] = []
    first = next(running(candidates, model, batch, reasons), None)
    if first is not None:
        return first
    raise ConversionError(
        "proof of the graph",
        f"no engine here runs it, so nothing can be made of it. {' '.join(reasons)}",
        hint="Install another engine: pip install 'effbench[ort]'",
    )


def interpreter(mode: str) -> Callable[[ModelProto], Run]:
    """Return how effbench's interpreter opens a graph in a number system."""

    def opens(model: ModelProto) -> Run:
        from effbench.deploy.interpreter import Interpreter

        try:
            engine = Interpreter(model)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # Beyond the standard a node may lack anything; each operator reads only what it has.
            raise ConversionError("interpret", f"{type(error).__name__}: {error}") from error
        return lambda feeds: engine.run(feeds, mode)

    return opens


def onnxruntime(model: ModelProto) -> Run:
    """Open a graph with ONNX Runtime, which runs its operators as they are."""
    from effbench.deploy.graph.run_ort import runner

    return runner(model, optimized=False)


def openvino(model: ModelProto) -> Run:
    """Open a graph with OpenVINO on the CPU, in fp32."""
    from effbench.deploy.targets.openvino import runner

    return runner(model)


def evaluator(model: ModelProto) -> Run:
    """Open a graph with the reference evaluator of the package onnx, which may take `EVALUATOR_S` for a run."""
    from onnx.reference import ReferenceEvaluator

    names = [output.name for output in model.graph.output]
    try:
        session = ReferenceEvaluator(model)
    except Exception as error:  # each operator raises what its code meets
        raise ConversionError("reference evaluator", _first_line(error)) from error

    def run(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            with _at_most(EVALUATOR_S):
                return dict(zip(names, session.run(None, dict(feeds)), strict=True))
        except TimeoutError as error:
            raise ConversionError("reference evaluator", f"it took more than {EVALUATOR_S:g} s for one run") from error
        except Exception as error:
            raise ConversionError("reference evaluator", _first_line(error)) from error

    return run


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError inside after some time; only the main thread of a process can."""

    def expire(number: int, frame: Any) -> None:
        raise TimeoutError

    try:
        previous = signal.signal(signal.SIGALRM, expire)
    except (AttributeError, ValueError):  # Windows, or another thread
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
