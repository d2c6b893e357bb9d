"""Round the int8 weights of a graph to minimize the output error of each operator (GPTQ style).

For an operator's weights W, exact inputs x and quantized inputs x', the rounded weights W' keep W' x' near W x over
calibration images: |W x - W' x'|^2 + damping |W - W'|^2 is least for float weights that solve a ridge regression
(inputs with their errors: Li et al., ICML 2025, arXiv:2504.02692). The weights are rounded column by column, and the
columns still to come compensate for the error (Frantar et al., ICLR 2023, arXiv:2210.17323). The bias compensates for
the mean of what is left. Each operator reads the exact tensors: with those of the quantized graph, the noise of the
operators before would be fitted too, and that fit does not carry over to other images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor

from effbench.deploy import Array
from effbench.deploy.graph.run_ort import runner
from effbench.deploy.precision.int8_operators import Int8Operator, Int8Reader
from effbench.threads import one_thread

if TYPE_CHECKING:
    from onnx import ModelProto

IMAGES = 24
"""The last ones of the calibration: the first ones judge the graph (`precision.int8_noise`)."""
DAMPING = 0.1
"""Weight of |W - W'|^2, relative to the mean square of the inputs."""
COLUMNS = 64
"""Columns in a block: rounding a column updates the rest of the block at once, the other columns after the block."""


class _Sums:
    """Sums over positions: of quantized inputs, of their products, and of the errors that the inputs cause.

    ``inputs`` has the shape (groups, n, 1), ``products`` (groups, n, n). The errors are W (x - x'), summed in
    ``errors``, shape (groups, outputs, 1), and times the inputs in ``errors_by_input``, (groups, outputs, n).
    """

    def __init__(self, weight: Tensor) -> None:
        groups, outputs, n = weight.shape
        self._weight = weight
        self.count = 0
        self.inputs, self.products = weight.new_zeros(groups, n, 1), weight.new_zeros(groups, n, n)
        self.errors, self.errors_by_input = weight.new_zeros(groups, outputs, 1), torch.zeros_like(weight)

    def add(self, exact: Tensor, quantized: Tensor) -> None:
        """Add columns of inputs, shape (groups, n, positions)."""
        errors, transposed = self._weight @ (exact - quantized), quantized.transpose(1, 2)
        self.count += quantized.shape[-1]
        self.inputs += quantized.sum(-1, keepdim=True)
        self.products.baddbmm_(quantized, transposed)
        self.errors += errors.sum(-1, keepdim=True)
        self.errors_by_input.baddbmm_(errors, transposed)

    def center(self) -> None:
        """Subtract the products of the means, which a bias compensates for."""
        means = self.inputs.transpose(1, 2) / self.count
        self.products.baddbmm_(self.inputs, means, alpha=-1)
        self.errors_by_input.baddbmm_(self.errors, means, alpha=-1)


def round_weights(model: ModelProto, int8: ModelProto, batches: Sequence[Mapping[str, Array]]) -> None:
    """Round the weights of a quantized graph again, in place; scales and the form of the graph stay.

    An operator keeps its weights if another operator shares them, if they are not a matrix, or if its inputs are not
    finite. Activations of 16 bits count as exact.

    Args:
        model: The fp32 graph, static shape.
        int8: The same graph, quantized, weights stored as int8; biases in float, or as int32.
        batches: Preprocessed calibration inputs.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    reader = Int8Reader(model, int8)
    operators = tuple(reader.operators())
    size = len(next(iter(batches[0].values())))
    sums = {operator.levels: _Sums(operator.rows) for operator in operators}
    run = runner(model, [operator.source for operator in operators])
    positions = torch.Generator().manual_seed(0)
    with one_thread():
        for feed in batches[-max(1, IMAGES // size) :]:
            tensors = {**feed, **run(feed)}
            for operator in operators:
                sums[operator.levels].add(*operator.columns(torch.from_numpy(tensors[operator.source]), positions))
        for operator in operators:
            rounded = _rounded(operator, sums.pop(operator.levels))
            if rounded is None:
                continue
            levels, bias = rounded
            reader.stored[operator.levels].CopyFrom(numpy_helper.from_array(levels, operator.levels))
            if bias is not None:
                reader.replace_bias(operator, bias)


def _rounded(operator: Int8Operator, sums: _Sums) -> tuple[Array, Array | None] | None:
    """Return new levels in the graph's layout and a new bias if there is one; None if the sums do not allow it."""
    if operator.bias is not None:
        sums.center()
    if not (sums.products.isfinite().all() and sums.errors_by_input.isfinite().all()):
        return None
    weight = operator.rows
    scale = operator.scale.expand(len(operator.weight)).reshape(operator.groups, -1, 1)
    damping = DAMPING * sums.products.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True)
    sums.products.diagonal(dim1=1, dim2=2).add_(torch.where(damping > 0, damping, 1.0))
    levels = _levels(weight, sums.errors_by_input, sums.products, scale, operator.limit)
    if levels is None:
        return None
    shaped = levels.reshape(operator.weight.shape).to(torch.int8)
    stored = np.ascontiguousarray((shaped.T if operator.transposed else shaped).numpy())
    if operator.bias is None:
        return stored, None
    shift = (weight - levels * scale) @ sums.inputs + sums.errors
    return stored, (operator.bias + shift.reshape(-1) / sums.count).numpy()


def _levels(weight: Tensor, errors: Tensor, products: Tensor, scale: Tensor, limit: int) -> Tensor | None:
    """Return the levels of weights (groups, outputs, n), the columns of the strongest inputs rounded first.

    With the Cholesky factor L of the products of inputs S = L L', row i of the inverse of L spreads an error in column
    i over the columns before it. None if S is singular in single precision.
    """
    groups, outputs, n = weight.shape
    order = products.diagonal(dim1=1, dim2=2).argsort(dim=1)
    products = products.gather(1, order[:, :, None].expand(-1, -1, n)).gather(2, order[:, None, :].expand(-1, n, -1))
    along = order[:, None, :].expand(-1, outputs, -1)
    lower, failed = torch.linalg.cholesky_ex(products)
    if failed.any():
        return None
    left = weight.gather(2, along)
    left += torch.cholesky_solve(errors.gather(2, along).transpose(1, 2), lower).transpose(1, 2)
    identity = torch.eye(n, dtype=products.dtype).expand(groups, n, n)
    spread = torch.linalg.solve_triangular(lower, identity, upper=False)
    levels = torch.empty_like(left)
    for stop in range(n, 0, -COLUMNS):
        start = max(stop - COLUMNS, 0)
        residuals = left.new_empty(groups, outputs, stop - start)
        for i in reversed(range(start, stop)):
            column = slice(i, i + 1)
            # A channel of zeros may have a scale of zero.
            levels[:, :, column] = (left[:, :, column] / scale).nan_to_num(0).round().clamp(-limit, limit)
            residual = (left[:, :, column] - levels[:, :, column] * scale) / spread[:, column, column]
            left[:, :, start : i + 1] -= residual * spread[:, column, start : i + 1]
            residuals[:, :, i - start] = residual[:, :, 0]
        left[:, :, :start] -= residuals @ spread[:, start:stop, :start]
    return levels.gather(2, order.argsort(dim=1)[:, None, :].expand(-1, outputs, -1))
