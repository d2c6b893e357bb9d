"""int8 weights of a graph rounded so that results stay, where rounding each to its nearest level keeps weights.

Of an operator's weights W, inputs x and inputs as int8 gives them x', it keeps W' x' near W x over images:
|W x - W' x'|^2 + damping |W - W'|^2 is least for float weights that solve a ridge regression (inputs with their errors:
Li et al., ICML 2025, arXiv:2504.02692). They are rounded one column after another, and what that does to the result is
taken up by the columns still to come (Frantar et al., ICLR 2023, arXiv:2210.17323). A bias takes up what is left of
the mean. Each operator is given the exact tensors: with those of the quantized graph the noise of the operators before
would be fitted too, which fits these images alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from effbench.deploy import Array
from effbench.deploy.graph.run_ort import runner
from effbench.deploy.interpreter.linear import pad_spatial, spatial_pads
from effbench.threads import one_thread

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

IMAGES = 24
"""The last ones of a calibration: those that a graph is judged by come first (`precision.float_nodes`)."""
POSITIONS = 256
"""Of each image, drawn at random: as many results of an operator are looked at."""
DAMPING = 0.1
"""Of the mean square of an input: how much a weight's own change counts beside that of the result."""
COLUMNS = 64
"""Rounded, each at the cost of the ones of these that are left, before all others are brought up to date."""


class _Sums:
    """Sums over positions: of an operator's inputs as int8 gives them, of their products, and of what results lose.

    Shapes (groups, n, 1), (groups, n, n); what is lost is W (x - x'), shape (groups, outputs, 1), and its products with
    the inputs, (groups, outputs, n).
    """

    def __init__(self, weight: Tensor) -> None:
        groups, outputs, n = weight.shape
        self._weight = weight
        self.count = 0
        self.given, self.square = weight.new_zeros(groups, n, 1), weight.new_zeros(groups, n, n)
        self.lost, self.lost_by_input = weight.new_zeros(groups, outputs, 1), torch.zeros_like(weight)

    def add(self, exact: Tensor, given: Tensor) -> None:
        """Take in columns of inputs, shape (groups, n, positions)."""
        lost, turned = self._weight @ (exact - given), given.transpose(1, 2)
        self.count += given.shape[-1]
        self.given += given.sum(-1, keepdim=True)
        self.square.baddbmm_(given, turned)
        self.lost += lost.sum(-1, keepdim=True)
        self.lost_by_input.baddbmm_(lost, turned)

    def about_mean(self) -> None:
        """Take off the products of the means, which a bias takes care of."""
        means = self.given.transpose(1, 2) / self.count
        self.square.baddbmm_(self.given, means, alpha=-1)
        self.lost_by_input.baddbmm_(self.lost, means, alpha=-1)


@dataclass(frozen=True)
class _Operator:
    """A convolution or product with a constant matrix, in the quantized graph.

    ``weight`` is the exact one, outputs first, which the graph has inputs first where ``turned``; ``source`` is the
    tensor that the exact graph gives it, ``step`` the scale of that tensor's levels and the axis that it goes along;
    ``limit`` is the largest level of a weight; ``bias`` the exact one, where there is one.
    """

    node: NodeProto
    attributes: Mapping[str, Any]
    weight: Tensor
    turned: bool
    source: str
    step: tuple[Tensor, int] | None
    levels: str
    scale: Tensor
    limit: int
    bias: Tensor | None

    @property
    def groups(self) -> int:
        """Return into how many parts inputs and outputs are divided that have nothing to do with each other."""
        return int(self.attributes.get("group", 1))

    @property
    def rows(self) -> Tensor:
        """Return the weights of each output in one row, shape (groups, outputs, n)."""
        return self.weight.reshape(self.groups, len(self.weight) // self.groups, -1)

    def given(self, exact: Tensor) -> Tensor:
        """Return the input as int8 gives it."""
        if self.step is None:
            return exact
        scale, axis = self.step
        if scale.numel() == 1:
            return torch.fake_quantize_per_tensor_affine(exact, scale.item(), 0, -128, 127)
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(exact, scale, zeros, axis, -128, 127)

    def columns(self, exact: Tensor, positions: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return what some results are made of, exact and as given; shape (groups, n, positions)."""
        taken = self._windows(exact, positions) if self.node.op_type == "Conv" else self._rows(exact, positions)
        return taken(exact), taken(self.given(exact))

    def _rows(self, like: Tensor, positions: torch.Generator) -> Callable[[Tensor], Tensor]:
        chosen = torch.randperm(like.numel() // like.shape[-1], generator=positions)[:POSITIONS]
        return lambda x: x.reshape(-1, x.shape[-1])[chosen].T[None]

    def _windows(self, like: Tensor, positions: torch.Generator) -> Callable[[Tensor], Tensor]:
        kernel = self.weight.shape[2:]
        ones = [1] * len(kernel)
        strides, dilations = (self.attributes.get(name) or ones for name in ("strides", "dilations"))
        windows = [(size - 1) * far + 1 for size, far in zip(kernel, dilations, strict=True)]
        how = self.attributes.get("pads"), self.attributes.get("auto_pad", b"NOTSET").decode()
        pads = spatial_pads(like.shape[2:], windows, strides, *how)
        sizes = [size + sum(pad) for size, pad in zip(like.shape[2:], pads, strict=True)]
        counts = [(size - window) // far + 1 for size, window, far in zip(sizes, windows, strides, strict=True)]
        chosen = torch.randperm(math.prod(counts), generator=positions)[:POSITIONS]
        where: list[Any] = [slice(None), slice(None)]
        for axis, start in enumerate(torch.unravel_index(chosen, counts)):
            along = torch.arange(kernel[axis]).reshape([-1 if axis == other else 1 for other in range(len(kernel))])
            where.append(start.reshape(-1, *ones) * strides[axis] + along * dilations[axis])

        def taken(x: Tensor) -> Tensor:
            found = pad_spatial(x, pads)[tuple(where)]  # (B, C, positions, *kernel)
            split = found.reshape(len(x), self.groups, -1, len(chosen), kernel.numel())
            return split.permute(1, 2, 4, 0, 3).reshape(self.groups, -1, len(x) * len(chosen))

        return taken


def round_weights(model: ModelProto, made: ModelProto, batches: Sequence[Mapping[str, Array]]) -> None:
    """Round the weights of a quantized graph again, in place; ranges and form stay as they are.

    An operator keeps the weights that it has where another shares them, where they are no matrix, or where its inputs
    are not finite. Activations of 16 bits are taken for exact.

    Args:
        model: The fp32 graph, static shape.
        made: The same graph, quantized, weights stored as int8; biases in float, or as int32.
        batches: Preprocessed calibration inputs.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    reader = _Reader(model, made)
    operators = tuple(reader.operators())
    size = len(next(iter(batches[0].values())))
    sums = {one.levels: _Sums(one.rows) for one in operators}
    run = runner(model, [one.source for one in operators])
    positions = torch.Generator().manual_seed(0)
    with one_thread():
        for feed in batches[-max(1, IMAGES // size) :]:
            tensors = {**feed, **run(feed)}
            for one in operators:
                sums[one.levels].add(*one.columns(torch.from_numpy(tensors[one.source]), positions))
        for one in operators:
            found = _rounded(one, sums.pop(one.levels))
            if found is None:
                continue
            levels, bias = found
            reader.stored[one.levels].CopyFrom(numpy_helper.from_array(levels, one.levels))
            if bias is not None:
                reader.give_bias(one, bias)


class _Reader:
    """Reads the operators of a quantized graph, each beside what it is in the exact graph."""

    def __init__(self, model: ModelProto, made: ModelProto) -> None:
        self.exact = {tensor.name: tensor for tensor in model.graph.initializer}
        self.stored = {tensor.name: tensor for tensor in made.graph.initializer}
        self._made, self._before = made.graph, {node.output[0]: node for node in model.graph.node}
        self._makers = {name: node for node in made.graph.node for name in node.output}
        self._uses = Counter(name for node in made.graph.node for name in node.input)

    def operators(self) -> Iterator[_Operator]:
        """Yield those whose weights can be rounded."""
        for node in self._made.node:
            weight = self._makers.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
            before = self._before.get(node.output[0])
            if before is None or weight is None or not self._stored_as(weight.input[0], TensorProto.INT8):
                continue
            attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            matrix = node.op_type == "Conv" or len(self.stored[weight.input[0]].dims) == 2
            known = before.input[1] in self.exact and before.input[0] not in self.exact
            if matrix and known and self._alone(weight.input[0], weight.output[0]) and not attributes.get("transA"):
                yield self._operator(node, before, weight, attributes)

    def _operator(
        self, node: NodeProto, before: NodeProto, weight: NodeProto, attributes: Mapping[str, Any]
    ) -> _Operator:
        exact, levels = _values(self.exact[before.input[1]]), numpy_helper.to_array(self.stored[weight.input[0]])
        turned = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attributes.get("transB"))
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1
        return _Operator(
            node=node,
            attributes=attributes,
            weight=exact.T if turned else exact,
            turned=turned,
            source=before.input[0],
            step=self._step(node.input[0]),
            levels=weight.input[0],
            scale=_values(self.stored[weight.input[1]]).reshape(-1),
            limit=min(127, int(np.abs(levels.astype(int)).max())),
            bias=self._bias(node, before) if plain else None,
        )

    def give_bias(self, one: _Operator, bias: Array) -> None:
        """Give an operator a bias of its own; others may share the one that it has."""
        name, dequantizer = f"{one.levels}/bias", self._makers.get(one.node.input[2])
        if dequantizer is None:
            one.node.input[2] = name
        else:
            scale = _values(self.stored[dequantizer.input[1]]).double().numpy()
            bias = np.rint(bias / scale).clip(-(2**31), 2**31 - 1).astype(np.int32)
            dequantizer.input[0] = name
        self._made.initializer.append(numpy_helper.from_array(bias, name))

    def _bias(self, node: NodeProto, before: NodeProto) -> Tensor | None:
        """Return the exact bias of an operator that can be given another one."""
        if len(before.input) < 3 or before.input[2] not in self.exact:
            return None
        given = node.input[2]
        if (dequantizer := self._makers.get(given)) is not None and not (
            self._stored_as(dequantizer.input[0], TensorProto.INT32) and self._alone(given)
        ):
            return None
        return _values(self.exact[before.input[2]])

    def _stored_as(self, name: str, kind: int) -> bool:
        return name in self.stored and self.stored[name].data_type == kind

    def _alone(self, *names: str) -> bool:
        return all(self._uses[name] == 1 for name in names)

    def _step(self, name: str) -> tuple[Tensor, int] | None:
        maker = self._makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        if len(maker.input) > 2 and not self._stored_as(maker.input[2], TensorProto.INT8):
            return None
        scale = _values(self.stored[maker.input[1]]).reshape(-1)
        axis = next((one.i for one in maker.attribute if one.name == "axis"), 1)
        return scale, axis


def _values(tensor: TensorProto) -> Tensor:
    return torch.from_numpy(np.array(numpy_helper.to_array(tensor)))


def _rounded(one: _Operator, sums: _Sums) -> tuple[Array, Array | None] | None:
    """Return new levels as the graph has them, and a new bias where there is one; nothing if there is no telling."""
    if one.bias is not None:
        sums.about_mean()
    if not (sums.square.isfinite().all() and sums.lost_by_input.isfinite().all()):
        return None
    weight, scale = one.rows, one.scale.expand(len(one.weight)).reshape(one.groups, -1, 1)
    damping = DAMPING * sums.square.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True)
    sums.square.diagonal(dim1=1, dim2=2).add_(torch.where(damping > 0, damping, 1.0))
    levels = _levels(weight, sums.lost_by_input, sums.square, scale, one.limit)
    if levels is None:
        return None
    shaped = levels.reshape(one.weight.shape).to(torch.int8)
    stored = np.ascontiguousarray((shaped.T if one.turned else shaped).numpy())
    if one.bias is None:
        return stored, None
    off = (weight - levels * scale) @ sums.given + sums.lost
    return stored, (one.bias + off.reshape(-1) / sums.count).numpy()


def _levels(weight: Tensor, lost: Tensor, square: Tensor, scale: Tensor, limit: int) -> Tensor | None:
    """Return the levels of weights (groups, outputs, n), the columns of the strongest inputs rounded first.

    With the products of inputs S = L L', row i of the inverse of L is what an error in column i means for those before.
    There are none where S is singular in single precision.
    """
    groups, outputs, n = weight.shape
    order = square.diagonal(dim1=1, dim2=2).argsort(dim=1)
    square = square.gather(1, order[:, :, None].expand(-1, -1, n)).gather(2, order[:, None, :].expand(-1, n, -1))
    along = order[:, None, :].expand(-1, outputs, -1)
    lower, failed = torch.linalg.cholesky_ex(square)
    if failed.any():
        return None
    left = weight.gather(2, along)
    left += torch.cholesky_solve(lost.gather(2, along).transpose(1, 2), lower).transpose(1, 2)
    ones = torch.eye(n, dtype=square.dtype).expand(groups, n, n)
    spread = torch.linalg.solve_triangular(lower, ones, upper=False)
    levels = torch.empty_like(left)
    for stop in range(n, 0, -COLUMNS):
        start = max(stop - COLUMNS, 0)
        errors = left.new_empty(groups, outputs, stop - start)
        for i in reversed(range(start, stop)):
            column = slice(i, i + 1)
            # A channel of zeros may have a scale of zero.
            levels[:, :, column] = (left[:, :, column] / scale).nan_to_num(0).round().clamp(-limit, limit)
            error = (left[:, :, column] - levels[:, :, column] * scale) / spread[:, column, column]
            left[:, :, start : i + 1] -= error * spread[:, column, start : i + 1]
            errors[:, :, i - start] = error[:, :, 0]
        left[:, :, :start] -= errors @ spread[:, start:stop, :start]
    return levels.gather(2, order.argsort(dim=1)[:, None, :].expand(-1, outputs, -1))
