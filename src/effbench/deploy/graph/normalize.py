"""Bring an ``.onnx`` file of any writer into one form, without changing what it computes; each step is recorded.

Writers disagree on where weights stand (initializers, Constant nodes, initializers that are listed as inputs too), on
the order of nodes, on functions, and on whether outputs state their shape. Everything behind this door sees one form:
nodes in topological order, weights in initializers, no functions, outputs with a shape where it can be inferred. The
passes are those of onnx-ir.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.deploy.graph import onnx_file
from effbench.errors import DataError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

LEAST_IR = 4
"""From IR 4 on an initializer need not be listed as an input."""


def load(path: Path) -> tuple[ModelProto, tuple[str, ...]]:
    """Read an ``.onnx`` file in the one form; returns it with a line for each step that changed it.

    Raises:
        DataError: The file is missing, truncated, not ONNX, invalid, or its external data are outside its folder.
        MissingDependencyError: The package onnx is not installed.
    """
    model = onnx_file.read(path)
    try:
        model, steps = normalized(model)
    except Exception as error:  # the passes assume a valid graph, and this one was not checked yet
        onnx_file.check(model, path)  # names the fault in the words of the standard, if it finds it
        raise DataError(
            f"{path}: its graph cannot be read: {str(error).splitlines()[0] or type(error).__name__}."
        ) from error
    onnx_file.check(model, path)
    return model, steps


def normalized(model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """Return a model in the one form, and what was changed; the argument stays as it is."""
    steps = []
    for applies, words, run in _STEPS:
        count = applies(model)
        if count:
            model = run(model)
            steps.append(words.format(count))
    return model, tuple(steps)


def _passed(name: str, **options: int) -> Callable[[ModelProto], ModelProto]:
    """Return a function that runs a pass of onnx-ir over a model."""

    def run(model: ModelProto) -> ModelProto:
        import onnx_ir as ir
        import onnx_ir.passes.common as common

        proto: ModelProto = ir.to_proto(getattr(common, name)(**options)(ir.from_proto(model)).model)
        return proto

    return run


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and the subgraphs in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _functions(model: ModelProto) -> int:
    return len(model.functions)


def _listed_initializers(model: ModelProto) -> int:
    constants = {tensor.name for tensor in model.graph.initializer}
    return sum(value.name in constants for value in model.graph.input)


def _weights_in_nodes(model: ModelProto) -> int:
    return sum(
        node.op_type == "Constant" and any(a.name == "value" and len(a.t.dims) for a in node.attribute)
        for graph in _graphs(model.graph)
        for node in graph.node
    )


def _misplaced(model: ModelProto) -> int:
    """Count the nodes that read what a later node of their graph writes."""
    count = 0
    for graph in _graphs(model.graph):
        later = {name for node in graph.node for name in node.output if name}
        for node in graph.node:
            count += any(name in later for name in node.input)
            later.difference_update(node.output)
    return count


def _shapeless(model: ModelProto) -> int:
    return sum(
        value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
        for graph in _graphs(model.graph)
        for value in graph.output
    )


def _infer(model: ModelProto) -> ModelProto:
    """Return the model with the shapes of its outputs inferred; one of unknown rank keeps none."""
    import onnx

    inferred: ModelProto = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return inferred


def _raise_ir(model: ModelProto) -> ModelProto:
    raised = type(model)()
    raised.CopyFrom(model)
    raised.ir_version = LEAST_IR
    return raised


Step = tuple[Callable[["ModelProto"], Any], str, Callable[["ModelProto"], "ModelProto"]]
_STEPS: tuple[Step, ...] = (
    (lambda model: model.ir_version < LEAST_IR, f"IR version raised to {LEAST_IR}", _raise_ir),
    (_functions, "{} functions inlined", _passed("InlinePass")),
    (_misplaced, "nodes put in topological order, {} were not", _passed("TopologicalSortPass")),
    (
        _listed_initializers,
        "{} initializers taken from the list of inputs",
        _passed("RemoveInitializersFromInputsPass"),
    ),
    (
        _weights_in_nodes,
        "weights in {} Constant nodes made initializers",
        _passed("LiftConstantsToInitializersPass", size_limit=0),
    ),
    (_shapeless, "shapes of {} outputs inferred", _infer),
)
