"""Seeded wrong conversions of a graph: what a converter or a runtime may get wrong, one fault at a time.

Each mutation keeps the graph valid and the shapes of its outputs, so that only values tell. It works on graphs in fp32
and with Q/DQ.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effbench.deploy.graph.attribute_changes import changed_attribute
from effbench.deploy.graph.draft import BORDER, Draft, NotPossibleError

if TYPE_CHECKING:
    from onnx import ModelProto


SCALE = 1.02
"""The factor of a weight tensor: as if a converter rounded its scale, or folded a constant twice."""
SWAPS = 20
"""How many places are tried for one mutation before its kind counts as impossible in this graph."""
_UNCOMPUTED = ("Shape", "Resize", "Reshape", "Expand", "Slice", "Gather", "Pad", "Tile", "ConstantOfShape", "Range")


@dataclass(frozen=True)
class Mutation:
    """A wrong conversion: its kind, what was changed, and the graph."""

    kind: str
    place: str
    model: ModelProto


def swapped_outputs(draft: Draft, number: int) -> str:
    """Exchange two outputs of the same shape; in a graph without, two channels of one."""
    types = {value.name: value.type.tensor_type.elem_type for value in draft.graph.output}
    alike = [
        (a, b)
        for i, a in enumerate(draft.outputs)
        for b in draft.outputs[i + 1 :]
        if draft.known(a) == draft.known(b) and types[a] == types[b]
    ]
    if alike and number % 2 == 0:
        first, second = draft.pick(alike)
        names = {first: second, second: first}
        for node in draft.graph.node:
            node.output[:] = [names.get(name, name) for name in node.output]
            node.input[:] = [names.get(name, name) for name in node.input]
        return f"outputs {first} and {second}"
    wide = [(name, axis) for name in draft.outputs for axis, size in enumerate(draft.known(name) or ()) if size > 1]
    name, axis = draft.pick([(name, axis) for name, axis in wide if axis > 0])
    size = (draft.known(name) or ())[axis]
    order = np.arange(size)
    i, j = draft.random.sample(range(size), 2)
    order[[i, j]] = order[[j, i]]
    draft.reorder(name, axis, order)
    return f"channels {i} and {j} of output {name} (axis {axis})"


def flipped_channels(draft: Draft, number: int) -> str:
    """Reverse the channels of the image, or of an inner tensor."""
    images = [name for name in draft.inputs if (draft.known(name) or (0, 0))[1] > 1]
    name = (
        images[0]
        if images and number == 0
        else draft.pick(draft.activations(4, 1) or draft.activations(3, 2) or images)
    )
    shape = draft.known(name) or ()
    axis = 2 if len(shape) == 3 else 1
    draft.reorder(name, axis, np.arange(shape[axis])[::-1])
    return f"{name} ({shape[axis]} channels reversed)"


def mirrored_axis(draft: Draft, number: int) -> str:
    """Reverse the height or width of the image, or an axis of an inner tensor."""
    rank4 = [(name, axis) for name in draft.inputs for axis in (2, 3) if len(draft.known(name) or ()) == 4]
    if number >= len(rank4):
        rank4 = [(name, axis) for axis in (2, 3) for name in draft.activations(4, axis)]
        rank4 += [(name, 1) for name in draft.activations(3, 1)]
        name, axis = draft.pick(rank4)
    else:
        name, axis = rank4[number]
    draft.reorder(name, axis, np.arange((draft.known(name) or ())[axis])[::-1])
    return f"{name} (axis {axis} mirrored)"


def scaled_weight(draft: Draft, number: int) -> str:
    """Multiply one weight tensor by `SCALE`; a quantized one through its scales."""
    from onnx import numpy_helper

    tensors = {}
    for node in draft.graph.node:
        if node.op_type in ("QuantizeLinear", *_UNCOMPUTED):
            continue
        quantized = node.op_type == "DequantizeLinear" and node.input[0] in draft.constants
        if node.op_type == "DequantizeLinear" and not quantized:
            continue
        for name in node.input[1:2] if quantized else node.input:
            tensor = draft.constants.get(name)
            if tensor is not None and tensor.data_type in (1, 10, 11) and numpy_helper.to_array(tensor).any():
                tensors[name] = (tensor, node.op_type)
    name = draft.pick(sorted(tensors))
    tensor, reader = tensors[name]
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((value * SCALE).astype(value.dtype), name))
    size = "a single value" if value.size == 1 else f"{value.size} values"
    return f"{name} of {reader} ({size}) times {SCALE}"


def lost_layer(draft: Draft, number: int) -> str:
    """Replace an operator by its input of the same shape and type."""
    candidates = []
    for node in draft.graph.node:
        if node.op_type in (*BORDER, "Identity", "Cast", "Constant", *_UNCOMPUTED) or not node.input:
            continue
        shape = draft.known(node.output[0])
        sources = [name for name in node.input if name and name not in draft.constants]
        sources = [name for name in sources if draft.constant_behind(name) is None and draft.known(name) == shape]
        if shape is not None and sources and len(node.output) == 1:
            candidates.append((node, sources[0]))
    node, source = draft.pick(candidates)
    text = f"{node.op_type} {node.name or node.output[0]}"
    node.op_type, node.domain, node.input[:] = "Identity", "", [source]
    del node.attribute[:]
    return text


KINDS: dict[str, Callable[[Draft, int], str]] = {
    "output swapped": swapped_outputs,
    "channel order flipped": flipped_channels,
    "weight scaled 2 %": scaled_weight,
    "axis mirrored": mirrored_axis,
    "attribute changed": changed_attribute,
    "layer lost": lost_layer,
}
"""The kinds of wrong conversion, and the functions that make one: ``number`` counts those of a kind in a graph."""


def mutations(
    model: ModelProto, each: int, seed: str = "", kinds: tuple[str, ...] = tuple(KINDS)
) -> Iterator[Mutation]:
    """Yield wrong conversions of a graph, the same ones for the same seed.

    Args:
        model: Static shapes; those of inner tensors inferred.
        each: How many of each kind; fewer where the graph has fewer different places.
        seed: Of the choice of places.
        kinds: Of `KINDS`.
    """
    for kind in kinds:
        places: set[str] = set()
        for attempt in range(each * SWAPS):
            if len(places) == each:
                break
            draft = Draft(model, random.Random(f"{seed} {kind} {attempt}"))
            try:
                place = KINDS[kind](draft, len(places))
            except NotPossibleError:
                break
            if place not in places:
                places.add(place)
                yield Mutation(kind, place, draft.model)
