"""ONNX files from any source: loaded safely, checked, stripped of metadata, and counted."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.deploy.graph.external_data import inside
from effbench.errors import DataError, MissingDependencyError
from effbench.schema import TensorSpec

if TYPE_CHECKING:
    import onnx

IR_VERSION = 10
"""Older device runtimes refuse newer files."""


def load(path: Path) -> onnx.ModelProto:
    """Read an ``.onnx`` file and check it.

    Raises:
        DataError: The file is missing, truncated, not ONNX, invalid, or its external data are outside its folder.
        MissingDependencyError: The package onnx is not installed.
    """
    model = read(path)
    check(model, path)
    return model


def read(path: Path) -> onnx.ModelProto:
    """Read an ``.onnx`` file with its external data, whatever its graph holds; errors as in `load`."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingDependencyError("Reading an .onnx file", "onnx", "ort") from error
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise DataError(f"{path}: not an ONNX file, or cut short ({error}).") from error
    if not model.graph.node or not model.opset_import:
        raise DataError(f"{path}: holds no ONNX graph; the file is empty, cut short, or of another kind.")
    _load_external(model, path)
    return model


def _check_text(model: onnx.ModelProto, path: Path | str) -> None:
    """Refuse names that are no text and element types that ONNX lacks: protobuf finds the first only when it is read.

    Raises:
        DataError: It says which.
    """
    from onnx import TensorProto

    graph = model.graph
    try:
        for node in graph.node:
            _ = (
                node.name,
                node.op_type,
                node.domain,
                *node.input,
                *node.output,
                *(item.name for item in node.attribute),
            )
        named = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
        _ = (graph.name, model.producer_name, *(item.name for item in named))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a valid ONNX model: a name is no text ({error}).") from error
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type.elem_type
        if kind not in TensorProto.DataType.values():
            raise DataError(f"{path}: not a valid ONNX model: '{value.name}' has an unknown element type {kind}.")


def check(model: onnx.ModelProto, path: Path | str) -> None:
    """Check a model by the rules of the ONNX standard.

    Raises:
        DataError: It breaks one; the message names the node or tensor.
    """
    import onnx

    _check_text(model, path)
    # The checker wants a shape for every output; without one its rank is unknown, which runtimes accept.
    kinds = [value.type.tensor_type for value in model.graph.output if value.type.HasField("tensor_type")]
    shapeless = [kind for kind in kinds if not kind.HasField("shape")]
    for kind in shapeless:
        kind.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise DataError(f"{path}: not a valid ONNX model: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a valid ONNX model: a name is no text ({error}).") from error
    finally:
        for kind in shapeless:
            kind.ClearField("shape")


def reason(error: Exception) -> str:
    """Return what a library says, up to its stack; a line that ends in a colon goes on in the next."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    count = next((i + 1 for i, line in enumerate(lines) if not line.endswith(":")), len(lines))
    return " ".join(lines[:count])


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    from onnx import TensorProto, external_data_helper

    root = path.parent.resolve()
    for tensor in external_data_helper._get_all_tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        location = next((item.value for item in tensor.external_data if item.key == "location"), "")
        data = inside(root, location)
        # A hostile file must not make effbench read other files of the user, and later copy them to a device.
        if data is None:
            raise DataError(f"{path}: tensor '{tensor.name}' points to '{location}', outside the model's folder.")
        if not data.is_file():
            raise DataError(f"{path}: the external data '{location}' of tensor '{tensor.name}' are missing.")
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(root))
        except (ValueError, OSError, RuntimeError) as error:
            raise DataError(f"{path}: the external data '{location}' cannot be read: {error}") from error
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def specs(values: object) -> tuple[TensorSpec, ...]:
    """Return name, dtype and shape of graph inputs or outputs; an open dimension is None."""
    import onnx

    result = []
    for value in values:  # type: ignore[attr-defined]
        tensor = value.type.tensor_type
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        # Some writers mark an open dimension by 0 or -1.
        shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
        result.append(TensorSpec(value.name, dtype, shape))
    return tuple(result)


def inputs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return the inputs that a caller has to feed, without the initializers that some files list as inputs."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return specs([value for value in model.graph.input if value.name not in constants])


def fix_shapes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int | None, ...]], label: str) -> onnx.ModelProto:
    """Return the model with inputs of these shapes, and the shapes of its other tensors inferred.

    Args:
        model: A graph.
        shapes: By name of the input; a dimension that is None stays as it is.
        label: Names the model in errors.

    Raises:
        DataError: The graph does not take those shapes.
    """
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, side in zip(dims, shapes.get(value.name, ()), strict=False):
            if side is not None:
                dim.dim_value = side
    if fixed != model:
        # Shapes of the graph with open dimensions would contradict the new ones.
        del fixed.graph.value_info[:]
        for output in fixed.graph.output:
            output.type.tensor_type.ClearField("shape")
    return infer_shapes(fixed, label)


_WITH_BODIES = ("If", "Loop", "Scan")


def infer_shapes(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """Return the model with the shape of every tensor inferred.

    Raises:
        DataError: The shapes contradict each other.
    """
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        outermost = re.search(r"\(op_type:(\w+)", str(error))
        if outermost is None or outermost[1] not in _WITH_BODIES:
            raise DataError(f"{label}: its shapes do not fit together: {reason(error)}") from error
    # Writers state shapes inside a body that it does not have in every pass; runtimes do not read them.
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove exporter metadata, which holds local paths, and unused initializers, in place."""
    read = names_read(model.graph)
    for tensor in [item for item in model.graph.initializer if item.name not in read]:
        model.graph.initializer.remove(tensor)
    scopes: Counter[str] = Counter()
    for node in model.graph.node:
        node.name = _scoped_name(node, scopes)
        node.doc_string = ""
        del node.metadata_props[:]
    for items in (model.graph.input, model.graph.output, model.graph.value_info, model.graph.initializer):
        for item in items:
            del item.metadata_props[:]
            item.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.functions[:]
    model.doc_string = model.graph.doc_string = ""
    model.graph.name = "effbench"
    model.ir_version = min(model.ir_version, IR_VERSION)
    return model


def names_read(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that the nodes of a graph read, those of its subgraphs included, and its outputs."""
    names = {name for node in graph.node for name in node.input} | {out.name for out in graph.output}
    return names.union(*(names_read(body) for node in graph.node for body in bodies(node)))


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the subgraphs of a node of control flow; none of another node."""
    return [body for a in node.attribute for body in (*a.graphs, *([a.g] if a.HasField("g") else []))]


def _scoped_name(node: onnx.NodeProto, count: Counter[str]) -> str:
    """Name a node after its torch module, so that a layer in a profile can be found in the source."""
    scopes = next((item.value for item in node.metadata_props if item.key == "pkg.torch.onnx.name_scopes"), "[]")
    parts = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
    module = parts[-2] if len(parts) > 1 and parts[-2] else ""
    name = f"{module}/{node.op_type}" if module else node.op_type
    count[name] += 1
    return name if count[name] == 1 else f"{name}_{count[name]}"


MOVES = ("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Slice", "Cast", "Gather")
"""Operators that carry values on as they are."""


def writers(model: onnx.ModelProto) -> dict[str, str]:
    """Return the type of the operator that computes the values of each output, behind those that only move them."""
    producers = {name: node for node in model.graph.node for name in node.output}
    result = {}
    for output in model.graph.output:
        name = output.name
        while name in producers and producers[name].op_type in MOVES:
            name = producers[name].input[0]
        result[output.name] = producers[name].op_type if name in producers else ""
    return result


def operators(model: onnx.ModelProto) -> dict[str, int]:
    """Return the number of nodes of each type, by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Return the known shape of every tensor of a graph whose shapes were inferred."""
    values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    # A value without a shape is of unknown rank.
    known = {spec.name: spec.shape for spec in specs([v for v in values if v.type.tensor_type.HasField("shape")])}
    return known | {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def count_params(model: onnx.ModelProto) -> int:
    """Return the number of floating-point values in the graph's initializers, without scalars."""
    import onnx

    floating = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return sum(math.prod(t.dims) for t in model.graph.initializer if t.data_type in floating and t.dims)


HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose multiply-accumulates are counted."""


def count_macs(model: onnx.ModelProto) -> int | None:
    """Return the multiply-accumulates of one inference, only of convolutions and matrix products as usual in papers.

    None if a shape that decides the count is unknown.
    """
    macs = macs_by_node(model)
    heavy = sum(node.op_type in HEAVY for node in model.graph.node)
    return sum(macs.values()) if len(macs) == heavy else None


def macs_by_node(model: onnx.ModelProto) -> dict[str, int]:
    """Return the multiply-accumulates of each convolution and matrix product, by the node's first output.

    A node is left out if a shape that decides the count is unknown.
    """
    known = shapes(model)
    macs = {}
    for node in model.graph.node:
        if node.op_type not in HEAVY:
            continue
        left, right, out = (known.get(name) for name in (node.input[0], node.input[1], node.output[0]))
        if left is None or right is None or out is None or None in (*left, *right, *out):
            continue
        elements = math.prod(size for size in (left if node.op_type == "ConvTranspose" else out) if size)
        macs[node.output[0]] = elements * _products_per_element(node, left, right)
    return macs


def _products_per_element(node: onnx.NodeProto, left: tuple[int | None, ...], right: tuple[int | None, ...]) -> int:
    """Return the number of products for each output element, or for each input element of a ConvTranspose."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return math.prod(size or 1 for size in right[1:])
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return (left[0] if transposed else left[1]) or 1
    return left[-1] or 1
