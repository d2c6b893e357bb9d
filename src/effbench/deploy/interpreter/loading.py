"""Read an ONNX file; external data only from inside its own folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from effbench.errors import DataError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


def read_model(path: str | os.PathLike[str]) -> ModelProto:
    """Read a model with its external data, which must lie in the model's folder or below.

    Raises:
        DataError: The file is missing or is not an ONNX model, or external data is missing, too short, or leaves the
            folder (an absolute path, ``..`` or a symbolic link).
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx.external_data_helper import load_external_data_for_tensor

    path = Path(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.") from None
    except (DecodeError, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as an ONNX model: {error}") from error
    if not model.graph.node and not model.graph.output:
        raise DataError(f"{path} cannot be read as an ONNX model: it holds no graph.")
    folder = path.resolve().parent
    for tensor in tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_location(tensor, folder, path)
            load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return model


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every constant of a model: initializers and tensors in attributes, also in subgraphs and functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graph_tensors(graph)


def _check_location(tensor: TensorProto, folder: Path, model: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    file = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
        raise DataError(
            f"{model}: the external data of '{tensor.name}' lies at '{location}', outside the model's folder.",
            hint="Move the data next to the model and save it with a relative location.",
        )
    if not file.is_file():
        raise DataError(f"{model}: the external data of '{tensor.name}' is missing: {file}.")
    try:
        end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
    except ValueError:
        raise DataError(f"{model}: the external data of '{tensor.name}' has an offset that is no number.") from None
    if end > file.stat().st_size or int(entries.get("offset", 0)) < 0:
        raise DataError(f"{model}: the external data of '{tensor.name}' ends at byte {end}, beyond {file.name}'s end.")
