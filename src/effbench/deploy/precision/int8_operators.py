"""The operators of a quantized graph whose weights can be rounded, each with its exact weight and its inputs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from effbench.deploy import Array
from effbench.deploy.interpreter.linear import pad_spatial, spatial_pads

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

POSITIONS = 256
"""Random positions of an operator's output that are used from each image."""


@dataclass(frozen=True)
class Int8Operator:
    """A convolution or product with a constant matrix, in the quantized graph.

    ``weight`` is the exact weight, outputs first; the graph stores it inputs first if ``transposed``. ``source`` is the
    operator's input in the exact graph, ``input_scale`` the scale of its quantized form with its axis, or None if it is
    not in int8. ``levels`` names the stored int8 weight, ``scale`` is its scale and ``limit`` its largest level.
    ``bias`` is the exact bias, or None if there is none that can be replaced.
    """

    node: NodeProto
    attributes: Mapping[str, Any]
    weight: Tensor
    transposed: bool
    source: str
    input_scale: tuple[Tensor, int] | None
    levels: str
    scale: Tensor
    limit: int
    bias: Tensor | None

    @property
    def groups(self) -> int:
        """Return the number of groups of a convolution, otherwise 1."""
        return int(self.attributes.get("group", 1))

    @property
    def rows(self) -> Tensor:
        """Return the weights of each output in one row, shape (groups, outputs, n)."""
        return self.weight.reshape(self.groups, len(self.weight) // self.groups, -1)

    def quantized(self, exact: Tensor) -> Tensor:
        """Return the input as it is after Q/DQ."""
        if self.input_scale is None:
            return exact
        scale, axis = self.input_scale
        if scale.numel() == 1:
            return torch.fake_quantize_per_tensor_affine(exact, scale.item(), 0, -128, 127)
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(exact, scale, zeros, axis, -128, 127)

    def columns(self, exact: Tensor, positions: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the inputs of some results, exact and quantized, each of shape (groups, n, positions)."""
        sample = self._windows(exact, positions) if self.node.op_type == "Conv" else self._rows(exact, positions)
        return sample(exact), sample(self.quantized(exact))

    def _rows(self, like: Tensor, positions: torch.Generator) -> Callable[[Tensor], Tensor]:
        chosen = torch.randperm(like.numel() // like.shape[-1], generator=positions)[:POSITIONS]
        return lambda x: x.reshape(-1, x.shape[-1])[chosen].T[None]

    def _windows(self, like: Tensor, positions: torch.Generator) -> Callable[[Tensor], Tensor]:
        kernel = self.weight.shape[2:]
        ones = [1] * len(kernel)
        strides, dilations = (self.attributes.get(name) or ones for name in ("strides", "dilations"))
        windows = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        padding = self.attributes.get("pads"), self.attributes.get("auto_pad", b"NOTSET").decode()
        pads = spatial_pads(like.shape[2:], windows, strides, *padding)
        sizes = [size + sum(pad) for size, pad in zip(like.shape[2:], pads, strict=True)]
        counts = [(size - window) // stride + 1 for size, window, stride in zip(sizes, windows, strides, strict=True)]
        chosen = torch.randperm(math.prod(counts), generator=positions)[:POSITIONS]
        index: list[Any] = [slice(None), slice(None)]
        for axis, start in enumerate(torch.unravel_index(chosen, counts)):
            along = torch.arange(kernel[axis]).reshape([-1 if axis == other else 1 for other in range(len(kernel))])
            index.append(start.reshape(-1, *ones) * strides[axis] + along * dilations[axis])

        def sample(x: Tensor) -> Tensor:
            patches = pad_spatial(x, pads)[tuple(index)]  # (B, C, positions, *kernel)
            split = patches.reshape(len(x), self.groups, -1, len(chosen), kernel.numel())
            return split.permute(1, 2, 4, 0, 3).reshape(self.groups, -1, len(x) * len(chosen))

        return sample


class Int8Reader:
    """Reads the operators of a quantized graph together with their exact weights."""

    def __init__(self, model: ModelProto, int8: ModelProto) -> None:
        self.exact = {tensor.name: tensor for tensor in model.graph.initializer}
        self.stored = {tensor.name: tensor for tensor in int8.graph.initializer}
        self._graph, self._exact_nodes = int8.graph, {node.output[0]: node for node in model.graph.node}
        self._producers = {name: node for node in int8.graph.node for name in node.output}
        self._uses = Counter(name for node in int8.graph.node for name in node.input)

    def operators(self) -> Iterator[Int8Operator]:
        """Yield the operators whose weights can be rounded."""
        for node in self._graph.node:
            weight = self._producers.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
            exact = self._exact_nodes.get(node.output[0])
            if exact is None or weight is None or not self._is_stored_as(weight.input[0], TensorProto.INT8):
                continue
            attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            matrix = node.op_type == "Conv" or len(self.stored[weight.input[0]].dims) == 2
            constant = exact.input[1] in self.exact and exact.input[0] not in self.exact
            unshared = self._unshared(weight.input[0], weight.output[0])
            if matrix and constant and unshared and not attributes.get("transA"):
                yield self._operator(node, exact, weight, attributes)

    def _operator(
        self, node: NodeProto, exact: NodeProto, dequantizer: NodeProto, attributes: Mapping[str, Any]
    ) -> Int8Operator:
        weight = _values(self.exact[exact.input[1]])
        levels = numpy_helper.to_array(self.stored[dequantizer.input[0]])
        transposed = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attributes.get("transB"))
        unscaled = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1
        return Int8Operator(
            node=node,
            attributes=attributes,
            weight=weight.T if transposed else weight,
            transposed=transposed,
            source=exact.input[0],
            input_scale=self._input_scale(node.input[0]),
            levels=dequantizer.input[0],
            scale=_values(self.stored[dequantizer.input[1]]).reshape(-1),
            limit=min(127, int(np.abs(levels.astype(int)).max())),
            bias=self._bias(node, exact) if unscaled else None,
        )

    def replace_bias(self, operator: Int8Operator, bias: Array) -> None:
        """Give an operator a new bias; other operators may share the present one."""
        name, dequantizer = f"{operator.levels}/bias", self._producers.get(operator.node.input[2])
        if dequantizer is None:
            operator.node.input[2] = name
        else:
            scale = _values(self.stored[dequantizer.input[1]]).double().numpy()
            bias = np.rint(bias / scale).clip(-(2**31), 2**31 - 1).astype(np.int32)
            dequantizer.input[0] = name
        self._graph.initializer.append(numpy_helper.from_array(bias, name))

    def _bias(self, node: NodeProto, exact: NodeProto) -> Tensor | None:
        """Return the exact bias of an operator whose bias can be replaced."""
        if len(exact.input) < 3 or exact.input[2] not in self.exact:
            return None
        bias = node.input[2]
        if (dequantizer := self._producers.get(bias)) is not None and not (
            self._is_stored_as(dequantizer.input[0], TensorProto.INT32) and self._unshared(bias)
        ):
            return None
        return _values(self.exact[exact.input[2]])

    def _is_stored_as(self, name: str, kind: int) -> bool:
        return name in self.stored and self.stored[name].data_type == kind

    def _unshared(self, *names: str) -> bool:
        return all(self._uses[name] == 1 for name in names)

    def _input_scale(self, name: str) -> tuple[Tensor, int] | None:
        producer = self._producers.get(name)
        if producer is None or producer.op_type != "DequantizeLinear":
            return None
        if len(producer.input) > 2 and not self._is_stored_as(producer.input[2], TensorProto.INT8):
            return None
        scale = _values(self.stored[producer.input[1]]).reshape(-1)
        axis = next((item.i for item in producer.attribute if item.name == "axis"), 1)
        return scale, axis


def _values(tensor: TensorProto) -> Tensor:
    return torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
