"""The signature of an ``.onnx`` graph: what each input is fed with, guessed from its type, shape, name and readers.

A user's word wins over a guess (`effbench.schema.InputTerms`). Dimensions that the graph leaves open get the size of
the image, the batch, or the shape that the user gave; one that nothing fixes is asked for by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from effbench.deploy.graph import onnx_file
from effbench.errors import DataError, UsageError, unknown_name
from effbench.schema import DEFAULT_RESOLUTION, LAYOUTS, ROLES, InputShapes, InputSpec, InputTerms, TensorSpec, image_of

if TYPE_CHECKING:
    from onnx import ModelProto

CHANNELS = (1, 3, 4)
"""What an image has; 2 is more often a pair of values."""
LEAST_PX = 8
"""Smaller sides are rarely those of an image."""
_BATCH_NAMES = ("batch", "n", "b", "bs", "batch_size", "batchsize")
_SIZE_NAMES = ("im_shape", "image_shape", "image_size", "orig_target_sizes", "orig_size", "img_size", "input_shape")


def guessed(model: ModelProto) -> tuple[InputSpec, ...]:
    """Return the inputs of a graph with what each seems to take."""
    names = _open_names(model)
    return tuple(_guess(spec, names.get(spec.name, ()), model) for spec in onnx_file.inputs(model))


def stated(inputs: Sequence[InputSpec], terms: InputTerms, sampled: Sequence[str] = ()) -> tuple[InputSpec, ...]:
    """Return inputs with a user's roles and vocabulary in place of the guesses.

    Args:
        inputs: As guessed.
        terms: The user's words.
        sampled: The inputs that the user's file of arrays holds.

    Raises:
        UsageError: A name is no input, a role is unknown, or a role lacks its number.
    """
    names = [spec.name for spec in inputs]
    for name in (*terms.roles, *terms.shapes):
        if name not in names:
            raise unknown_name(name, names, "input")
    result = tuple(_with_terms(spec, terms, spec.name in sampled) for spec in inputs)
    for spec in result:
        if spec.role == "tokens" and spec.vocabulary is None and not spec.sampled:
            raise UsageError(
                f"Input '{spec.name}' takes integers ({spec.dtype}), and nothing says which.",
                hint=f"--vocabulary N, --input {spec.name}=constant:1, or arrays with --inputs FILE.npz",
            )
    return result


def image_input(model: ModelProto, label: str) -> InputSpec:
    """Return the input of a graph that takes one image, shape (B, C, H, W), and nothing else.

    Raises:
        DataError: It takes something else.
    """
    inputs = guessed(model)
    if len(inputs) == 1 and inputs[0].role == "image" and inputs[0].layout == "NCHW":
        return inputs[0]
    text = "; ".join(map(str, inputs)) or "none"
    raise DataError(f"{label}: a model with one image input (B, C, H, W) is needed; this one has {text}.")


def _with_terms(spec: InputSpec, terms: InputTerms, sampled: bool) -> InputSpec:
    if spec.name in terms.roles:
        role, _, detail = terms.roles[spec.name].partition(":")
        spec = _in_role(spec, role, detail)
    if spec.role == "tokens" and terms.vocabulary is not None and spec.vocabulary is None:
        spec = replace(spec, vocabulary=terms.vocabulary)
    return replace(spec, sampled=sampled)


def _in_role(spec: InputSpec, role: str, detail: str) -> InputSpec:
    if role not in ROLES:
        raise unknown_name(role, ROLES, "role of an input")
    if role == "image":
        layout = detail or next((item for item in LAYOUTS if len(item) == len(spec.shape)), "")
        axis = layout.index("N") if "N" in layout else None
        return replace(spec, role=role, layout=layout, batch_axis=axis)
    if role == "tokens" and (not detail.isdecimal() or int(detail) < 1):
        raise UsageError(
            f"'{spec.name}={role}:{detail}' has no number of tokens.", hint=f"--input {spec.name}=tokens:N"
        )
    if role == "constant":
        try:
            return replace(spec, role=role, value=float(detail))
        except ValueError:
            raise UsageError(f"'{spec.name}={role}:{detail}' has no number.", hint=f"{spec.name}=constant:1") from None
    if detail and role != "tokens":
        raise UsageError(f"The role {role} takes no '{detail}'.", hint=f"{role}: {ROLES[role]}")
    return replace(spec, role=role, vocabulary=int(detail) if role == "tokens" else None)


def default_batch(inputs: Sequence[InputSpec]) -> int:
    """Return the batch that a graph fixes, else 1."""
    fixed = [spec.shape[spec.batch_axis] for spec in inputs if spec.batch_axis is not None]
    return next((side for side in fixed if side is not None), 1)


def has_open_batch(inputs: Sequence[InputSpec]) -> bool:
    """Return whether an input leaves the number of images open."""
    return any(spec.batch_axis is not None and spec.shape[spec.batch_axis] is None for spec in inputs)


def default_shapes(inputs: Sequence[InputSpec], terms: InputTerms, batch: int) -> InputShapes:
    """Return the shapes at which a graph is exported where no resolution is named: its own, else 224 px.

    Raises:
        UsageError: A dimension is open, is not that of an image, and nothing fixes it.
    """
    image = image_of(inputs)
    if image is None:
        return with_others(InputShapes(None), inputs, terms, batch)
    shape = terms.shapes.get(image.name, image.shape)
    if len(shape) != len(image.shape):
        raise UsageError(f"'{image.name}' has {len(image.shape)} dimensions, not {len(shape)}.")
    height, width = (side or DEFAULT_RESOLUTION for side in replace(image, shape=tuple(shape)).size)
    return with_others(InputShapes((height, width)), inputs, terms, batch)


def with_others(shapes: InputShapes, inputs: Sequence[InputSpec], terms: InputTerms, batch: int) -> InputShapes:
    """Return the size of the image with the shape of each input that it does not settle.

    Raises:
        UsageError: A dimension is open and nothing fixes it.
    """
    first = image_of(inputs)
    named = []
    for spec in inputs:
        settled = spec.role == "image" or all(
            side is not None or axis == spec.batch_axis for axis, side in enumerate(spec.shape)
        )
        if spec is not first and (first is None or spec.name in terms.shapes or not settled):
            named.append((spec.name, _whole(spec, terms, batch)))
    return replace(shapes, named=tuple(named))


def _whole(spec: InputSpec, terms: InputTerms, batch: int) -> tuple[int, ...]:
    """Return the whole shape of an input that is no image."""
    stated_shape = terms.shapes.get(spec.name)
    if stated_shape is not None:
        return stated_shape
    sides = tuple(batch if axis == spec.batch_axis and side is None else side for axis, side in enumerate(spec.shape))
    if None in sides:
        text = "x".join("?" if side is None else str(side) for side in sides)
        example = "x".join(str(side or 16) for side in sides)
        raise UsageError(
            f"Input '{spec.name}' has shape {text}, and nothing says how large its open dimensions are.",
            hint=f"--shape {spec.name}={example}",
        )
    return tuple(side or 1 for side in sides)


def settled(inputs: Sequence[InputSpec], shapes: InputShapes, batch: int, label: str) -> tuple[InputSpec, ...]:
    """Return inputs without open dimensions.

    Args:
        inputs: With roles.
        shapes: The size of the image, and shapes by name.
        batch: Images per inference.
        label: Names the model in errors.

    Raises:
        DataError: A dimension is fixed to another value, or nothing fixes it.
    """
    by_name = dict(shapes.named)
    return tuple(_settled(spec, by_name.get(spec.name), shapes.image, batch, label) for spec in inputs)


def _settled(
    spec: InputSpec, stated_shape: tuple[int, ...] | None, image: tuple[int, int] | None, batch: int, label: str
) -> InputSpec:
    words = [str(axis) for axis in range(len(spec.shape))]
    sides = list(spec.shape)
    if stated_shape is not None and len(stated_shape) != len(sides):
        raise DataError(f"{label}: input '{spec.name}' has {len(sides)} dimensions, not {len(stated_shape)}.")
    if stated_shape is None:
        stated_shape = tuple(_expected(spec, axis, image, batch) or side or 0 for axis, side in enumerate(sides))
    if spec.role == "image":
        words = [_AXIS_WORDS[letter] for letter in spec.layout]
    elif spec.batch_axis is not None:
        words[spec.batch_axis] = "batch"
    for word, side, expected in zip(words, sides, stated_shape, strict=True):
        if side is not None and side != expected:
            what = word if not word.isdecimal() else f"dimension {word}"
            raise DataError(
                f"{label}: the {what} of its input '{spec.name}' is fixed to {side}, not {expected}.",
                hint=_use(spec, what),
            )
        if not expected:
            raise DataError(
                f"{label}: dimension {word} of its input '{spec.name}' is open.",
                hint=f"--shape {spec.name}={'x'.join(str(one or 16) for one in sides)}",
            )
    return replace(spec, shape=tuple(stated_shape))


_AXIS_WORDS = {"N": "batch", "C": "channels", "H": "height", "W": "width"}


def _expected(spec: InputSpec, axis: int, image: tuple[int, int] | None, batch: int) -> int | None:
    """Return the length that an axis gets from the request, None where it says nothing about it."""
    if axis == spec.batch_axis:
        return batch
    if spec.role != "image":
        return None
    letter = spec.layout[axis]
    if letter == "C":
        return spec.channels
    height, width = image or (None, None)
    own = spec.shape[axis]
    # A second image may have a size of its own.
    return {"H": height, "W": width}[letter] if own is None or letter in "HW" else own


def _use(spec: InputSpec, what: str) -> str:
    """Return the option that fits the whole input, so that the hint for one side does not lead to the other's."""
    if what == "batch":
        return f"Use --batch {spec.shape[spec.batch_axis or 0]}."
    if spec.role == "image" and what in ("height", "width"):
        height, width = spec.size
        if height is None or width is None:
            return f"Its {what} has to be {height or width}: --res {height or 224}x{width or 224}."
        return f"Leave out --res, or use --res {InputShapes((height, width))}."
    return f"Give its shape with --shape {spec.name}=..."


def _open_names(model: ModelProto) -> Mapping[str, tuple[str, ...]]:
    """Return the names of the dimensions of each input; a fixed one has none."""
    return {value.name: tuple(dim.dim_param for dim in value.type.tensor_type.shape.dim) for value in model.graph.input}


def _guess(spec: TensorSpec, names: Sequence[str], model: ModelProto) -> InputSpec:
    layout = _layout(spec)
    if layout:
        return _image(spec, layout)
    axis = _batch_axis(spec.shape, names)
    role, vocabulary, value = _values(spec, model)
    return InputSpec(
        spec.name, spec.dtype, spec.shape, role=role, layout="", batch_axis=axis, vocabulary=vocabulary, value=value
    )


def _image(spec: TensorSpec, layout: str) -> InputSpec:
    axis = layout.index("N") if "N" in layout else None
    return InputSpec(spec.name, spec.dtype, spec.shape, layout=layout, batch_axis=axis)


def _layout(spec: TensorSpec) -> str:
    """Return the layout of an image input, empty if it seems to be none."""
    shape, rank = spec.shape, len(spec.shape)
    if spec.dtype not in ("float32", "float16", "float64", "uint8", "int8"):
        return ""
    for layout in {4: ("NCHW", "NHWC"), 3: ("CHW", "HWC")}.get(rank, ()):
        channels = shape[layout.index("C")]
        sides = [shape[layout.index(letter)] for letter in "HW"]
        # A signal of rank 3 may be anything; three channels and large sides are an image.
        least = LEAST_PX if rank == 4 or spec.dtype == "uint8" else 4 * LEAST_PX
        if channels in (CHANNELS if rank == 4 else (3,)) and all(side is None or side >= least for side in sides):
            return layout
    if rank == 4 and shape[1] is None and shape[3] is None:
        return "NCHW"
    return ""


def _batch_axis(shape: tuple[int | None, ...], names: Sequence[str]) -> int | None:
    """Return the axis that counts samples: one of that name, else the first if it is open or 1."""
    for axis, name in enumerate(names):
        if shape[axis] is None and name.lower() in _BATCH_NAMES:
            return axis
    return 0 if shape and shape[0] in (1, None) else None


def _values(spec: TensorSpec, model: ModelProto) -> tuple[str, int | None, float]:
    """Return role, vocabulary and value of an input that is no image."""
    name = spec.name.lower()
    if any(part in name for part in _SIZE_NAMES):
        return "size", None, 0.0
    if spec.dtype == "bool" or "mask" in name:
        return "constant", None, 1.0
    if spec.dtype.startswith(("int", "uint")):
        rows = _table_rows(spec.name, model)
        if rows is not None:
            return "tokens", rows, 0.0
        if "len" in name:
            return "constant", None, float(_longest(spec.name, model))
        return "tokens", None, 0.0
    return ("constant", None, 1.0) if "scale" in name else ("normal", None, 0.0)


def _longest(name: str, model: ModelProto) -> int:
    """Return the longest fixed side of the other inputs: what an input of lengths says."""
    sides = [side or 1 for spec in onnx_file.inputs(model) if spec.name != name for side in spec.shape]
    return max(sides, default=1)


def _table_rows(name: str, model: ModelProto) -> int | None:
    """Return how many rows the tables have that an input selects from; the fewest, None if it selects from none."""
    tables = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) == 2}
    values = {name}
    rows = []
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze") and node.input[0] in values:
            values.add(node.output[0])
        if node.op_type == "Gather" and node.input[1] in values and node.input[0] in tables:
            rows.append(tables[node.input[0]])
    return min(rows, default=None)
