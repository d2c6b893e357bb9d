"""ReGLA, reconstructed: efficient large-receptive-field units (ELRF) and ReLU gated modulated attention (RGMA).

Only the abstract of ReGLA (arXiv:2602.05262) was available: no table of sizes, no configuration, no code. This is a
*reconstruction*: the stages of iFormer, with every 7x7 unit replaced by an ELRF pair and every SHMA by RGMA, both
built from secondary descriptions. Accuracies published for ReGLA belong to the authors' network, not to this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effbench.errors import UsageError
from effbench.models.iformer import SIZES, hybrid
from effbench.models.initialise import SCENES_ALONE, Watchers, spread
from effbench.models.layers import ConvNorm, ConvUnit, Network, Residual
from effbench.schema import Backbone

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "identity": lambda x: x,
}
EPSILON = 1e-3
"""Added to the normaliser, per sqrt(N). Below 1e-4 half precision flushes it, and an all-zero query gives NaN."""

ACTIVE = 10
"""Channels of queries (and keys) that are above zero at a position of an untrained network, for any width."""


@dataclass(frozen=True)
class ReGLAOptions:
    """Variants of the reconstruction.

    ``order`` is ``cascade`` or ``parallel`` (3x3 and 5x5 summed in one unit); ``dw_in_ffn`` moves the 5x5 to the
    expanded width; ``reparam`` trains the 5x5 with parallel 3x3, 1x1 and identity branches, which fold exactly;
    ``local_k`` is the depthwise kernel on the values, 0 for none.
    """

    order: str = "cascade"
    dw_in_ffn: bool = False
    reparam: bool = False
    heads: int = 1
    gate_act: str = "sigmoid"
    v_act: str = "sigmoid"
    local_k: int = 5

    def __post_init__(self) -> None:
        allowed = {
            "order": ("cascade", "parallel"),
            "gate_act": tuple(ACTIVATIONS),
            "v_act": tuple(ACTIVATIONS),
            "local_k": (0, 3, 5),
        }
        for name, valid in allowed.items():
            if getattr(self, name) not in valid:
                values = ", ".join(str(value) for value in valid)
                raise UsageError(f"{name}={getattr(self, name)!r} is not one of {values}.")
        if self.heads < 1:
            raise UsageError(f"heads={self.heads} is not a positive number.")


DEFAULT = ReGLAOptions()


class BranchedDepthwise(nn.Module):
    """Parallel depthwise branches and optionally the identity, summed; `fused` is one convolution."""

    def __init__(self, channels: int, kernels: tuple[int, ...], identity: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(ConvNorm(channels, channels, kernel, depthwise=True) for kernel in kernels)
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        """Sum the branches."""
        total = self.branches[0](x)
        for branch in list(self.branches)[1:]:
            total = total + branch(x)
        return total + x if self.identity else total  # type: ignore[no-any-return]

    @torch.no_grad()
    def fused(self) -> nn.Conv2d:
        """Return an equal depthwise convolution; the branches must be folded already."""
        convs = [branch for branch in self.branches if isinstance(branch, nn.Conv2d)]
        widest = max(convs, key=lambda conv: conv.kernel_size[0])
        side = widest.kernel_size[0]
        weight, bias = torch.zeros_like(widest.weight), torch.zeros(len(widest.weight), dtype=widest.weight.dtype)
        for conv in convs:
            weight += F.pad(conv.weight, [(side - conv.kernel_size[0]) // 2] * 4)
            bias += conv.bias if conv.bias is not None else 0
        if self.identity:
            weight[:, 0, side // 2, side // 2] += 1
        widest.weight, widest.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
        return widest


def elrf(channels: int, hidden: int, options: ReGLAOptions = DEFAULT) -> list[nn.Module]:
    """Return the units that replace one 7x7 unit: a 3x3 and a 5x5 depthwise convolution, each with half of its FFN.

    Receptive field 3 + 5 - 1 = 7. With r = hidden / channels, a pair costs 2rC^2 + 34C MACs per position, against
    2rC^2 + 49C for the 7x7 unit.

    Source: reconstruction from secondary descriptions of ReGLA.
    """
    if options.order == "parallel":
        return [ConvUnit(channels, BranchedDepthwise(channels, (5, 3), identity=False), hidden)]
    half = hidden // 2
    if options.dw_in_ffn:
        body = ConvNorm(channels, half), _five(half, options), nn.GELU(), ConvNorm(half, channels)
        return [ConvUnit(channels, 3, half), Residual(nn.Sequential(*body))]
    return [ConvUnit(channels, 3, half), ConvUnit(channels, _five(channels, options), half)]


def _five(channels: int, options: ReGLAOptions) -> nn.Module:
    if options.reparam:
        return BranchedDepthwise(channels, (5, 3, 1), identity=True)
    return ConvNorm(channels, channels, 5, depthwise=True)


class LinearAttention(nn.Module):
    """ReLU linear attention in linear order, with the normaliser in sum form; no parameters."""

    def __init__(self, heads: int = 1, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.heads = heads
        self.epsilon = epsilon

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return ``(v k^T) q / (q . sum_j k_j + eps)`` without forming an N x N matrix.

        Args:
            query: Non-negative, shape (B, d, H, W).
            key: Non-negative, shape (B, d, H, W), already divided by sqrt(H W).
            value: Shape (B, C, H, W).

        Returns:
            Shape (B, C, H, W); each position a convex combination of the values, 0 where its query is all zero.

        Source: Katharopoulos et al. 2020, eq. 5; the keys are summed before the product, because the padded-ones form
        loses the denominator on half-precision NPUs.
        """
        positions = query.shape[-2] * query.shape[-1]
        q, k, v = self._rows(query, key, value, positions)
        k = k.transpose(-1, -2)
        normaliser = k.sum(dim=-2, keepdim=True) @ q
        # The sums grow with sqrt(N), and so does epsilon: it has the same weight at every resolution.
        attended: Tensor = (v @ k) @ q / (normaliser + self.epsilon * positions**0.5)
        return attended.reshape(value.shape)

    def _rows(self, query: Tensor, key: Tensor, value: Tensor, positions: int) -> tuple[Tensor, ...]:
        """Reshape the three maps to matrices of positions, shape (B, heads, channels per head, N)."""
        maps = (query, key, value)
        if self.heads > 1:
            return tuple(x.reshape(-1, self.heads, x.shape[1] // self.heads, positions) for x in maps)
        # One reshape instead of three: layout operators cost an NPU more than the copy.
        widths = [x.shape[1] for x in maps]
        packed = torch.cat(maps, dim=1).reshape(-1, 1, sum(widths), positions)
        return torch.split(packed, widths, dim=2)


class RGMA(nn.Module):
    """ReLU gated modulated attention: ``Wo((attention(q, k, v) + DW5(v)) * g)``, reconstructed.

    Source: reconstruction; ReLU linear attention and modulation from the abstract, gate and local path from digests.
    """

    def __init__(self, channels: int, width: int, options: ReGLAOptions) -> None:
        super().__init__()
        if width % options.heads or channels % options.heads:
            raise UsageError(f"heads={options.heads} does not divide {width} query and {channels} value channels.")
        self.query = ConvNorm(channels, width)
        self.key = ConvNorm(channels, width)
        self.value = ConvNorm(channels, channels)
        self.gate = ConvNorm(channels, channels)
        self.v_act, self.gate_act = ACTIVATIONS[options.v_act], ACTIVATIONS[options.gate_act]
        self.attention = LinearAttention(options.heads)
        self.local = ConvNorm(channels, channels, options.local_k, depthwise=True) if options.local_k else None
        self.project = ConvNorm(channels, channels)

    def untrained(self) -> Watchers:
        """Make queries and keys selective, and balance the local path with the attention term."""
        for norm in (self.query.norm, self.key.norm):
            setattr(norm, SCENES_ALONE, True)
        width = len(self.query.norm.bias)
        threshold = NormalDist().inv_cdf(ACTIVE / width)
        # With small queries, epsilon dominates smoothly at positions where almost no channel is active.
        nn.init.constant_(self.query.norm.weight, 0.25)
        nn.init.constant_(self.query.norm.bias, round(threshold, 2) / 4)
        nn.init.constant_(self.key.norm.bias, round(threshold, 2))
        nn.init.constant_(self.value.norm.weight, 2.0)
        return {self.attention: self._balance}

    @torch.no_grad()
    def _balance(self, attended: Tensor) -> None:
        """Give the local path the attention term's standard deviation, and subtract the term's mean from their sum."""
        if self.local is not None:
            mean, _ = spread(attended)
            _, deviation = spread(attended - attended.mean(dim=(2, 3), keepdim=True))
            self.local.norm.weight.copy_(deviation)
            self.local.norm.bias.copy_(-mean)

    def forward(self, x: Tensor) -> Tensor:
        """Mix positions; shape (B, channels, H, W) in and out."""
        query = F.relu(self.query(x))
        # Scaled before the ReLU, so that a runtime can take the factor into the convolution.
        key = F.relu(self.key(x) * (x.shape[-2] * x.shape[-1]) ** -0.5)
        value = self.v_act(self.value(x))
        mixed = self.attention(query, key, value)
        if self.local is not None:
            mixed = mixed + self.local(value)
        return self.project(mixed * self.gate_act(self.gate(x)))  # type: ignore[no-any-return]


def _regla(size: str, in_channels: int, classes: int, options: ReGLAOptions) -> Network:
    return hybrid(
        SIZES[size],
        lambda channels, hidden: elrf(channels, hidden, options),
        lambda channels, width: RGMA(channels, width, options),
        in_channels,
        classes,
    )


def regla_t(in_channels: int = 3, classes: int = 1000, options: ReGLAOptions = DEFAULT) -> Network:
    """Build the reconstruction at iFormer-T's widths and depths."""
    return _regla("t", in_channels, classes, options)


def regla_s(in_channels: int = 3, classes: int = 1000, options: ReGLAOptions = DEFAULT) -> Network:
    """Build the reconstruction at iFormer-S's widths and depths."""
    return _regla("s", in_channels, classes, options)


def regla_m(in_channels: int = 3, classes: int = 1000, options: ReGLAOptions = DEFAULT) -> Network:
    """Build the reconstruction at iFormer-M's widths and depths."""
    return _regla("m", in_channels, classes, options)


def regla_l(in_channels: int = 3, classes: int = 1000, options: ReGLAOptions = DEFAULT) -> Network:
    """Build the reconstruction at iFormer-L's widths and depths."""
    return _regla("l", in_channels, classes, options)


BACKBONES = tuple(
    Backbone(
        name=f"regla_{size}",
        family="regla",
        factory=f"effbench.models.regla:regla_{size}",
        published="ReGLA-M" if size == "m" else None,
        reconstruction="reconstructed from the abstract and secondary descriptions; not the authors' network",
        mixer="RGMA",
        mixer_order="O(N)",
        source="arXiv:2602.05262 (abstract only); stages of arXiv:2501.15369",
    )
    for size in "tsml"
)
