"""Read a saved ``.mlpackage``: its program as plain operations, its weights as arrays, its features as specs.

Of coremltools only the protobuf classes and the reader of the weight file are used, not the converter: the evaluator
sees the file's content, not the builder's interpretation of it.

Source: the comments of MIL.proto, Model.proto and FeatureTypes.proto of coremltools 9.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench import reading
from effbench.deploy.targets.coreml.lazy import LazyModule, ct
from effbench.errors import DataError

Array = npt.NDArray[Any]

DTYPES: dict[str, str] = {
    "BOOL": "bool",
    "STRING": "str",
    "FLOAT16": "float16",
    "FLOAT32": "float32",
    "FLOAT64": "float64",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
"""MIL's name of an element type of full bytes -> numpy's name."""
PACKED: dict[str, tuple[int, bool]] = {
    "INT4": (4, True),
    **{f"UINT{bits}": (bits, False) for bits in (1, 2, 3, 4, 6)},
}
"""Element types smaller than a byte: bits, and whether they are signed."""
READERS = {"float16": "fp16", "float32": "float"}

_message: Any = LazyModule("google.protobuf.message")
_storage: Any = LazyModule("coremltools.libmilstoragepython")


@dataclass(frozen=True)
class Name:
    """A reference to another operation's output or to an input of the program."""

    name: str


@dataclass(frozen=True)
class Variable:
    """An output of an operation or an input of a program: its name, numpy dtype name, and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One MIL operation; an argument is a tuple of names and literal values."""

    kind: str
    name: str
    inputs: Mapping[str, tuple[Any, ...]]
    outputs: tuple[Variable, ...]


@dataclass(frozen=True)
class Feature:
    """An input or output of the package: ``multiarray``, ``image``, ``string`` or ``dictionary``."""

    name: str
    kind: str
    dtype: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Package:
    """The ``main`` function of a saved ML program, with its weights."""

    path: Path
    specification: int
    opset: str
    inputs: tuple[Variable, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]
    features_in: tuple[Feature, ...]
    features_out: tuple[Feature, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def count(self) -> dict[str, int]:
        """Return the number of operations of each kind, without constants, sorted by name."""
        kinds = [op.kind for op in self.operations if op.kind != "const"]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def read(path: Path) -> Package:
    """Read a package from disk.

    Raises:
        DataError: It is not a package, not an ML program, or its parts do not match.
    """
    spec = _specification(path)
    if spec.WhichOneof("Type") != "mlProgram":
        raise DataError(f"{path}: holds a {spec.WhichOneof('Type')}, not an ML program.")
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    weights = _Weights(path / "Data" / "com.apple.CoreML" / "weights")
    description = spec.description
    return Package(
        path=path,
        specification=spec.specificationVersion,
        opset=function.opset,
        inputs=tuple(_variable(item) for item in function.inputs),
        operations=tuple(_operation(op, weights) for op in block.operations),
        outputs=tuple(block.outputs),
        features_in=tuple(_feature(item) for item in description.input),
        features_out=tuple(_feature(item) for item in description.output),
        metadata=dict(description.metadata.userDefined),
    )


def _specification(path: Path) -> Any:
    try:
        manifest = reading.json_file(path / "Manifest.json")
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        data = (path / "Data" / entry).read_bytes()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a readable .mlpackage ({error}).") from error
    spec = ct.proto.Model_pb2.Model()
    try:
        spec.ParseFromString(data)
    except _message.DecodeError as error:
        raise DataError(f"{path}: the specification cannot be parsed ({error}).") from error
    return spec


def _variable(spec: Any) -> Variable:
    dtype, shape = _type(spec.type)
    return Variable(spec.name, dtype, shape)


def _type(value_type: Any) -> tuple[str, tuple[int, ...]]:
    kind = value_type.WhichOneof("type")
    if kind != "tensorType":
        return kind, ()
    tensor = value_type.tensorType
    name = ct.proto.MIL_pb2.DataType.Name(tensor.dataType)
    shape = tuple(
        int(dim.constant.size) if dim.WhichOneof("dimension") == "constant" else -1 for dim in tensor.dimensions
    )
    return DTYPES.get(name, name), shape


def _operation(spec: Any, weights: _Weights) -> Operation:
    if spec.blocks:
        raise DataError(f"Operation '{spec.type}' holds a nested block; control flow is not supported.")
    arguments: dict[str, tuple[Any, ...]] = {
        key: (_value(value, weights),) for key, value in spec.attributes.items() if key != "name"
    }
    for key, argument in spec.inputs.items():
        arguments[key] = tuple(_bindings(argument, weights))
    name = spec.attributes["name"].immediateValue.tensor.strings.values
    return Operation(spec.type, name[0] if name else "", arguments, tuple(_variable(out) for out in spec.outputs))


def _bindings(argument: Any, weights: _Weights) -> Iterator[Any]:
    for binding in argument.arguments:
        if binding.WhichOneof("binding") == "name":
            yield Name(binding.name)
        else:
            yield _value(binding.value, weights)


def _value(spec: Any, weights: _Weights) -> Any:
    """Return a literal: an array (rank 0 included), a string, or a list of strings or numbers."""
    if spec.type.WhichOneof("type") == "listType":
        return [_value(item, weights) for item in spec.immediateValue.list.values]
    tensor = spec.type.tensorType
    name = ct.proto.MIL_pb2.DataType.Name(tensor.dataType)
    _, shape = _type(spec.type)
    if spec.WhichOneof("value") == "blobFileValue":
        return weights.read(spec.blobFileValue, name).reshape(shape)
    literal = spec.immediateValue.tensor
    kind = literal.WhichOneof("value")
    if kind == "strings":
        return list(literal.strings.values) if shape else literal.strings.values[0]
    if kind == "bytes":
        return _unpack(literal.bytes.values, name, shape)
    return np.asarray(getattr(literal, kind).values, dtype=DTYPES[name]).reshape(shape)


def _unpack(data: bytes, name: str, shape: tuple[int, ...]) -> Array:
    if name not in PACKED:
        return np.frombuffer(data, DTYPES[name]).reshape(shape)
    bits, signed = PACKED[name]
    stream = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    count = int(np.prod(shape))
    fields = stream[: count * bits].reshape(count, bits).astype(np.int16)
    values = fields @ (1 << np.arange(bits)).astype(np.int16)
    return np.where(signed & (values >= 1 << (bits - 1)), values - (1 << bits), values).astype(np.int8).reshape(shape)


class _Weights:
    """The weight files of a package, opened when first read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Any] = {}

    def read(self, blob: Any, name: str) -> Array:
        """Return one flat array; the folder of the file name is ignored, because a hostile package could set it."""
        file = Path(blob.fileName).name
        if file not in self._open:
            path = self._folder / file
            if not path.is_file():
                raise DataError(f"{path}: the weight file is missing.")
            self._open[file] = _storage._BlobStorageReader(str(path))
        dtype = DTYPES.get(name, name.lower())
        try:
            data = np.asarray(getattr(self._open[file], f"read_{READERS.get(dtype, dtype)}_data")(blob.offset))
        except RuntimeError as error:
            raise DataError(f"{self._folder / file}: damaged at offset {blob.offset} ({error}).") from error
        return data.view(np.float16) if dtype == "float16" else data


def _feature(spec: Any) -> Feature:
    kind = spec.type.WhichOneof("Type")
    if kind == "multiArrayType":
        array = spec.type.multiArrayType
        dtype = ct.proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(array.dataType).lower()
        return Feature(spec.name, "multiarray", dtype, tuple(int(size) for size in array.shape))
    if kind == "imageType":
        image = spec.type.imageType
        channels = 1 if "GRAY" in ct.proto.FeatureTypes_pb2.ImageFeatureType.ColorSpace.Name(image.colorSpace) else 3
        return Feature(spec.name, "image", "uint8", (1, channels, int(image.height), int(image.width)))
    return Feature(spec.name, kind.removesuffix("Type"))
