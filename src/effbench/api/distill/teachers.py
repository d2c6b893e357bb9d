"""Teachers from any model argument: a registered name with weights, ``package.module:factory``, or an .onnx file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effbench.api.distill.dependencies import recorded
from effbench.api.export.source import Source, resolve
from effbench.codec import fingerprint
from effbench.deploy.graph import onnx_file
from effbench.deploy.graph.signature import image_input
from effbench.errors import ConversionError, UsageError
from effbench.schema import Backbone

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from effbench.training.teachers import Teacher, TeacherOutput

SHAPE_ONLY = ("Flatten", "Reshape", "Squeeze", "Identity", "Dropout", "Cast")
"""Operators between a pooled vector and a classifier that change its shape only."""

POOLING = ("GlobalAveragePool", "ReduceMean")


def sources(arguments: Sequence[str], seed: int = 0) -> list[Source]:
    """Return the teachers that arguments name: ``MODEL``, or ``MODEL@FILE.safetensors``; imports no torch.

    Raises:
        UsageError: A teacher is unknown, has no weights, or is named twice.
        DataError: A file does not exist or cannot be read.
    """
    teachers = []
    for text in arguments:
        model, at, weights = text.rpartition("@")
        source = resolve(model, weights, seed) if at and weights.endswith(".safetensors") else resolve(text, None, seed)
        if source.weights.kind == "untrained" and source.backbone.family != "user":
            raise UsageError(
                f"Teacher {text} has untrained weights: a student learns nothing from it.",
                hint=f"Give its weights: --teacher {text}@FILE.safetensors",
            )
        teachers.append(source)
    repeated = {text for text in arguments if list(arguments).count(text) > 1}
    if repeated:
        raise UsageError(f"Teacher {repeated.pop()} is named twice.")
    return teachers


def build(source: Source, size: tuple[int, int], number: int, home: Path) -> Teacher:
    """Build a frozen teacher for views of about the student's size.

    Args:
        source: The teacher.
        size: Of the student's images; a teacher of fixed size keeps its own.
        number: Its position among the teachers, which makes its name unique.
        home: Where effbench writes.

    Raises:
        UsageError: Its factory cannot be called, or it has no features.
        DataError: Its weights do not fit.
    """
    name = f"{number}-{source.name}"
    teacher, parts = recorded(source, home, lambda: _teacher(source, size, name))
    # Its outputs are kept from run to run, so its identity covers what it is made from.
    return replace(teacher, identity=fingerprint({"outputs": teacher.identity, **parts}))


def _teacher(source: Source, size: tuple[int, int], name: str) -> Teacher:
    if source.path is not None:
        return _from_onnx(source, size, name)
    from effbench.models.build import build_unfused, fit_resolution, load_factory
    from effbench.models.declared import declaration
    from effbench.training.teachers import from_module

    module = build_unfused(source.backbone, source.weights, source.state)
    teacher_size = _size(source.backbone, module, size)
    fit_resolution(module, teacher_size)
    declared = declaration(load_factory(source.backbone.factory), module)
    preprocessing = declared.preprocessing or source.backbone.preprocessing
    return from_module(name, module, teacher_size, preprocessing, source.backbone.in_channels)


def _size(backbone: Backbone, module: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Return a teacher's input size: the student's, or the next larger one that it takes."""
    if backbone.fixed_resolution is not None:
        return (backbone.fixed_resolution, backbone.fixed_resolution)
    config = getattr(module, "pretrained_cfg", None)  # timm's
    if isinstance(config, dict) and config.get("fixed_input_size") and config.get("input_size"):
        _, height, width = config["input_size"]
        return (height, width)
    stride, least = backbone.stride, backbone.min_resolution
    height, width = (max(least, -(-side // stride) * stride) for side in size)
    return (height, width)


def _from_onnx(source: Source, size: tuple[int, int], name: str) -> Teacher:
    from effbench.deploy.interpreter import Interpreter
    from effbench.training.teachers import Teacher, TeacherOutput

    assert source.path is not None
    model = onnx_file.load(source.path)
    spec = image_input(model, source.path.name)
    teacher_size = (spec.shape[2] or size[0], spec.shape[3] or size[1])
    batch, (pooled, spatial) = spec.shape[0], taps(model)
    outputs = [item.name for item in model.graph.output]
    outputs_set = set(outputs)
    model.graph.output.extend(_value(tap) for tap in (pooled, spatial) if tap is not None and tap not in outputs_set)
    interpreter = Interpreter(model)

    def answer(images: Tensor) -> TeacherOutput:
        import torch

        values = _run(interpreter, spec.name, np.asarray(images.cpu().numpy(), spec.dtype), batch)
        return _answer(TeacherOutput, {key: torch.from_numpy(v) for key, v in values.items()}, outputs, pooled, spatial)

    identity = fingerprint(
        {"sha256": source.weights.sha256, "size": teacher_size, "how": source.backbone.preprocessing}
    )
    return Teacher(name, identity, teacher_size, source.backbone.preprocessing, answer, spec.channels)


def _answer(
    kind: Any, values: dict[str, Any], outputs: list[str], pooled: str | None, spatial: str | None
) -> TeacherOutput:
    """Return outputs as pooled features, spatial features and logits; without taps, outputs are the features."""
    from effbench.training.features import as_maps

    tensors = {name: value.float() for name, value in values.items() if value.dim() >= 2}
    logits = next((tensors[name] for name in outputs if name in tensors and tensors[name].dim() == 2), None)
    pooled_value = tensors[pooled].flatten(1) if pooled in tensors else None
    maps = tensors.get(spatial) if spatial is not None else None
    if maps is None:
        maps = next((tensors[name] for name in outputs if name in tensors and tensors[name].dim() > 2), None)
    if maps is not None:
        (*_, last), mean = as_maps(maps)
        return kind(pooled_value if pooled_value is not None else mean, last, logits)  # type: ignore[no-any-return]
    return kind(pooled_value if pooled_value is not None else logits, None, logits)  # type: ignore[no-any-return]


def _run(interpreter: Any, name: str, images: Any, batch: int | None) -> dict[str, Any]:
    if batch is None:
        return dict(interpreter.run({name: images}))
    parts = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        # The file's batch size is fixed: the last batch is filled up with its last image.
        filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        parts.append({key: value[: len(part)] for key, value in interpreter.run({name: filled}).items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def taps(model: onnx.ModelProto) -> tuple[str | None, str | None]:
    """Return the tensors before the classifier of a graph and before its pooling; None if there is none.

    The search starts at the first output and goes back: through a bias, to the product with constant weights, whose
    other input is the pooled vector; then through operators that only change the shape, to the pooling of positions.
    """
    producers = {output: node for node in model.graph.node for output in node.output}
    constants = {item.name for item in model.graph.initializer}
    node = producers.get(model.graph.output[0].name)
    while node is not None and (node.op_type == "Add" or node.op_type in SHAPE_ONLY):
        node = _before(node, producers, constants)
    if node is None or node.op_type not in ("Gemm", "MatMul") or node.input[1] not in constants:
        return None, None
    pooled = node.input[0]
    node = producers.get(pooled)
    while node is not None and node.op_type in (*SHAPE_ONLY, "BatchNormalization"):
        node = _before(node, producers, constants)
    return pooled, node.input[0] if node is not None and node.op_type in POOLING else None


def _before(node: Any, producers: dict[str, Any], constants: set[str]) -> Any:
    return next((producers[name] for name in node.input if name in producers and name not in constants), None)


def _value(name: str) -> Any:
    try:
        from onnx import ValueInfoProto
    except ImportError as error:
        raise ConversionError("read the teacher", "the package onnx is missing") from error
    return ValueInfoProto(name=name)
