"""Models for the benchmark of the gate: graph edits of regla_m that make it slower, and rebuilt copies that are not.

Slower ones leave the outputs the same. Each edit happens in practice: an added layer, a lost fusion, a larger kernel, a
branch that only some images take. The amounts bring the slowdown near the one in the name; `gate.py replay` prints the
median over recorded rounds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PREFIX = "extra"


def _constant(model: Any, name: str, value: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _insert(model: Any, tensor: str, nodes: list[Any], output: str) -> None:
    """Insert nodes behind the producer of a tensor; every reader of the tensor reads ``output`` instead."""
    position = next(i for i, node in enumerate(model.graph.node) if tensor in node.output) + 1
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == tensor:
                node.input[index] = output
    for offset, node in enumerate(nodes):
        model.graph.node.insert(position + offset, node)


def _wide_tensor(model: Any) -> tuple[str, int]:
    """Return an activation of stage 2 (14 x 14 at 224 px) and its channels."""
    node = next(n for n in model.graph.node if n.name == "stages.2.0/Conv")
    weight = next(t for t in model.graph.initializer if t.name == node.input[1])
    return node.output[0], weight.dims[0]


def _identity_convs(model: Any, source: str, channels: int, count: int, target: str, tag: str) -> list[Any]:
    eye = np.eye(channels, dtype=np.float32).reshape(channels, channels, 1, 1)
    weight = _constant(model, f"{PREFIX}.{tag}.weight", eye)
    names = [source, *(f"{PREFIX}.{tag}.{i}" for i in range(count - 1)), target]
    return [
        helper.make_node(
            "Conv", [names[i], weight], [names[i + 1]], name=f"{PREFIX}.{tag}.{i}/Conv", kernel_shape=[1, 1]
        )
        for i in range(count)
    ]


def added_layers(count: int) -> Callable[[Any], None]:
    """Add pointwise convolutions whose weight is the identity, in stage 2."""

    def edit(model: Any) -> None:
        tensor, channels = _wide_tensor(model)
        _insert(
            model, tensor, _identity_convs(model, tensor, channels, count, f"{PREFIX}.out", "layer"), f"{PREFIX}.out"
        )

    return edit


def lost_fusion(count: int) -> Callable[[Any], None]:
    """Write the first GELUs as five elementwise operators, in an order that no runtime fuses again."""

    def edit(model: Any) -> None:
        root, half = (
            _constant(model, f"{PREFIX}.{n}", np.float32(v)) for n, v in (("root", math.sqrt(0.5)), ("half", 0.5))
        )
        gelus = [node for node in model.graph.node if node.op_type == "Gelu"][:count]
        for node in gelus:
            x, y, base = node.input[0], node.output[0], node.name.replace("/Gelu", "")
            position = list(model.graph.node).index(node)
            model.graph.node.remove(node)
            t = [f"{PREFIX}.{base}.{i}" for i in range(4)]
            steps = [
                ("Mul", [x, root], t[0]),
                ("Erf", [t[0]], t[1]),
                ("Mul", [x, half], t[2]),
                ("Mul", [t[2], t[1]], t[3]),
                ("Add", [t[3], t[2]], y),
            ]
            for offset, (op, inputs, output) in enumerate(steps):
                new = helper.make_node(op, inputs, [output], name=f"{base}/{op}_{offset}")
                model.graph.node.insert(position + offset, new)

    return edit


def heavier_kernel(count: int, ring: int) -> Callable[[Any], None]:
    """Pad the kernels of the first 3 x 3 depthwise convolutions with rings of zeros."""

    def edit(model: Any) -> None:
        weights = {t.name: t for t in model.graph.initializer}
        edited = 0
        for node in model.graph.node:
            tensor = weights.get(node.input[1]) if node.op_type == "Conv" else None
            if tensor is None or list(tensor.dims[1:]) != [1, 3, 3] or edited == count:
                continue
            value = np.pad(numpy_helper.to_array(tensor), ((0, 0), (0, 0), (ring, ring), (ring, ring)))
            name = _constant(model, f"{PREFIX}.{tensor.name}", value)
            node.input[1] = name
            for attribute in node.attribute:
                if attribute.name == "pads":
                    attribute.ints[:] = [pad + ring for pad in attribute.ints]
                if attribute.name == "kernel_shape":
                    attribute.ints[:] = [3 + 2 * ring] * 2
            edited += 1
        assert edited == count, f"only {edited} depthwise convolutions"

    return edit


def stall(threshold: float, count: int) -> Callable[[Any], None]:
    """Add layers in a branch for dark images, with a mean below the threshold."""

    def edit(model: Any) -> None:
        tensor, channels = _wide_tensor(model)
        image = model.graph.input[0].name
        nodes = _identity_convs(model, tensor, channels, count, f"{PREFIX}.slow", "stall")
        branch = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in (f"{PREFIX}.slow", f"{PREFIX}.fast")
        ]
        slow = helper.make_graph(nodes, "slow", [], [branch[0]])
        fast = helper.make_graph([helper.make_node("Identity", [tensor], [f"{PREFIX}.fast"])], "fast", [], [branch[1]])
        limit = _constant(model, f"{PREFIX}.limit", np.float32(threshold))
        steps = [
            helper.make_node("ReduceMean", [image], [f"{PREFIX}.mean"], keepdims=0, name=f"{PREFIX}/ReduceMean"),
            helper.make_node("Less", [f"{PREFIX}.mean", limit], [f"{PREFIX}.dark"], name=f"{PREFIX}/Less"),
            helper.make_node(
                "If", [f"{PREFIX}.dark"], [f"{PREFIX}.out"], then_branch=slow, else_branch=fast, name=f"{PREFIX}/If"
            ),
        ]
        _insert(model, tensor, steps, f"{PREFIX}.out")

    return edit


def darkest_of(count: int, resolution: tuple[int, int]) -> float:
    """Return a threshold with exactly one of the agent's first images below it, on the normalized scale."""
    from effbench.deploy.artifact import feeding
    from effbench.deploy.graph.from_torch import image_inputs
    from effbench.schema import Preprocessing

    inputs = image_inputs(3, resolution, 1)
    feeds = feeding.feeds(feeding.synthetic(inputs, count), 1, inputs, Preprocessing())
    means = sorted(float(item["image"].mean()) for item in feeds)
    return (means[0] + means[1]) / 2


def renamed(model: Any) -> None:
    """Give all nodes, weights and inner tensors other names, as another version of an exporter does."""
    boundary = {item.name for item in (*model.graph.input, *model.graph.output)} | {""}

    def name(old: str) -> str:
        return old if old in boundary else f"v2.{old}"

    for node in model.graph.node:
        node.name = name(node.name)
        node.input[:] = [name(item) for item in node.input]
        node.output[:] = [name(item) for item in node.output]
    for tensor in model.graph.initializer:
        tensor.name = name(tensor.name)


def reordered(model: Any) -> None:
    """Write nodes in another order in which each comes after its inputs, and weights in another order."""
    rng = random.Random(0)
    weights = list(model.graph.initializer)
    rng.shuffle(weights)
    known = {item.name for item in (*model.graph.input, *weights)} | {""}
    waiting, ordered = list(model.graph.node), []
    while waiting:
        node = rng.choice([item for item in waiting if known.issuperset(item.input)])
        waiting.remove(node)
        ordered.append(node)
        known |= set(node.output)
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)


def reseeded(model: Any) -> None:
    """Shuffle the values of each weight of two or more dimensions, as another seed does."""
    rng = np.random.default_rng(1)
    for tensor in model.graph.initializer:
        if len(tensor.dims) >= 2 and tensor.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(rng.permutation(value.ravel()).reshape(value.shape), tensor.name))


REBUILT = ("renamed", "reordered", "reseeded")
"""Copies that take as long as the model, and are other files: a gate never times a file against itself."""

EDITS: dict[str, Callable[[], Callable[[Any], None]]] = {
    "same": lambda: lambda model: None,
    "renamed": lambda: renamed,
    "reordered": lambda: reordered,
    "reseeded": lambda: reseeded,
    "layer_3": lambda: added_layers(9),
    "fusion_5": lambda: lost_fusion(23),
    "kernel_10": lambda: heavier_kernel(8, 4),
    "layer_20": lambda: added_layers(63),
    "stall_10": lambda: stall(darkest_of(5, (224, 224)), 44),
}
"""Name -> edit. The number in a name is the intended slowdown in percent (for the stall: of p90)."""


def write(name: str, source: Path, out: Path) -> Path:
    """Write an edited copy of an ONNX file and return its path; the copy is checked."""
    model = onnx.load(source)
    del model.graph.value_info[:]
    EDITS[name]()(model)
    onnx.checker.check_model(model)
    path = out / f"{name}.onnx"
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
