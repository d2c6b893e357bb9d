"""Lambda layers: the context becomes a small linear function per position, which is applied to several queries.

Source: Bello, "LambdaNetworks: Modeling Long-Range Interactions Without Attention", arXiv:2102.08602, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effbench.errors import UsageError
from effbench.models.initialise import Watchers
from effbench.models.layers import ConvNorm

SELECTIVE = 2.0
"""Gain of untrained keys: a few positions have most of the weight, so that keys have an effect on the output."""

QUERY = 0.02
"""Standard deviation of untrained queries around 1 or -1."""

SCOPE_SIGMA = 2.0
"""Standard deviation in positions of the Gaussian that weights an untrained scope."""


class _Lambda(nn.Module):
    """The common part of both forms: projections, content lambdas, and queries applied to lambdas.

    Args:
        channels: Channels in.
        outputs: Channels out; None for as many as in.
        heads: Queries per lambda; each computes outputs / heads channels.
        depth: Width k of queries and keys.
        intra: Intra-depth u: lambdas that are summed.
    """

    def __init__(self, channels: int, outputs: int | None, heads: int, depth: int, intra: int) -> None:
        super().__init__()
        outputs = outputs or channels
        if outputs % heads:
            raise UsageError(f"heads={heads} does not divide {outputs} channels.")
        self.heads, self.depth, self.intra, self.width = heads, depth, intra, outputs // heads
        self.query = ConvNorm(channels, heads * depth)
        self.key = nn.Conv2d(channels, depth * intra, 1, bias=False)
        self.value = ConvNorm(channels, self.width * intra)
        self.position: nn.Conv2d

    def position_lambdas(self, value: Tensor) -> Tensor:
        """Return shape (B, v, k, N) for values of shape (B, v u, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Mix positions; shape (B, channels, H, W) in, (B, outputs, H, W) out."""
        positions = x.shape[2] * x.shape[3]
        query = self.query(x).reshape(-1, self.heads, self.depth, positions)
        # Channels of key and value are ordered (k, u) and (v, u), so that u joins the positions without a transpose.
        key = torch.softmax(self.key(x).reshape(-1, self.depth, self.intra, positions), dim=-1)
        value = self.value(x)
        rows = value.reshape(-1, 1, self.width, self.intra * positions)
        content: Tensor = rows @ key.reshape(-1, 1, self.depth, self.intra * positions).transpose(-1, -2) @ query
        position = apply_lambdas(query, self.position_lambdas(value))
        maps = (-1, self.heads * self.width, x.shape[2], x.shape[3])
        return content.reshape(maps) + position.reshape(maps)

    @torch.no_grad()
    def untrained(self) -> Watchers:
        """Make the keys selective, let queries vary around a constant, and weight scopes by a Gaussian.

        Products of queries and values grow with the square of an image's contrast, and sums over a full scope with the
        size of the map; over many untrained blocks the values would overflow.
        """
        self.key.weight.mul_(SELECTIVE)
        nn.init.constant_(self.query.norm.weight, QUERY)
        bias = self.query.norm.bias
        bias.copy_(1 - 2.0 * (torch.arange(len(bias)) % 2))
        rows, columns = (torch.arange(side) - side // 2 for side in self.position.kernel_size)
        gaussian = torch.exp(-(rows[:, None] ** 2 + columns**2) / (2 * SCOPE_SIGMA**2))
        self.position.weight.mul_(gaussian / gaussian.square().mean().sqrt())
        return {}


def apply_lambdas(query: Tensor, lambdas: Tensor) -> Tensor:
    """Return, per head and position, ``lambda^T q``: shape (B, heads v, N).

    Args:
        query: Shape (B, heads, k, N).
        lambdas: Shape (B, v, k, N).
    """
    # Products and a sum: matrix products, one per position, would need transposed lambdas.
    return torch.cat([(lambdas * head).sum(dim=2) for head in torch.split(query, 1, dim=1)], dim=1)


class LambdaConv(_Lambda):
    """The lambda convolution: position lambdas from a neighbourhood of r x r positions, for any map.

    Position lambdas are one 2-D convolution over the value channels, folded into the batch, which every runtime has.
    The 3-D convolution of other implementations is slow or missing in some.

    Args:
        channels: Channels in.
        outputs: Channels out; None for as many as in.
        heads: Queries per lambda.
        depth: Width k of queries and keys.
        kernel: Height and width r of the scope; odd.
        intra: Intra-depth u.
    """

    def __init__(
        self,
        channels: int,
        outputs: int | None = None,
        heads: int = 4,
        depth: int = 16,
        kernel: int = 23,
        intra: int = 1,
    ) -> None:
        super().__init__(channels, outputs, heads, depth, intra)
        if kernel % 2 == 0:
            raise UsageError(f"kernel={kernel} must be odd.")
        self.position = nn.Conv2d(intra, depth, kernel, padding=kernel // 2, bias=False)

    def position_lambdas(self, value: Tensor) -> Tensor:
        """Return shape (B, v, k, N) for values of shape (B, v u, H, W)."""
        height, width = value.shape[2:]
        lambdas: Tensor = self.position(value.reshape(-1, self.intra, height, width))
        return lambdas.reshape(-1, self.width, self.depth, height * width)


class LambdaLayer(_Lambda):
    """The lambda layer with relative positions over the whole map, for one map size.

    Args:
        channels: Channels in.
        outputs: Channels out; None for as many as in.
        heads: Queries per lambda.
        depth: Width k of queries and keys.
        intra: Intra-depth u.
        resolution: Height and width of the map.
    """

    offsets: Tensor

    def __init__(
        self,
        channels: int,
        outputs: int | None = None,
        heads: int = 4,
        depth: int = 16,
        intra: int = 1,
        resolution: tuple[int, int] = (14, 14),
    ) -> None:
        super().__init__(channels, outputs, heads, depth, intra)
        self.resolution = resolution
        height, width = resolution
        # The weights of a convolution that covers the map from every position are the relative embeddings.
        self.position = nn.Conv2d(intra, depth, (2 * height - 1, 2 * width - 1), bias=False)

    def embeddings(self) -> Tensor:
        """Return the embedding of every pair of positions, shape (u M, k N)."""
        height, width = self.resolution
        rows, columns = torch.arange(height), torch.arange(width)
        y = (rows[:, None] - rows + height - 1)[:, None, :, None].expand(-1, width, -1, width)
        x = (columns[:, None] - columns + width - 1)[None, :, None, :].expand(height, -1, height, -1)
        pairs = self.position.weight[:, :, y, x]
        # (k, u, M rows, M columns, N rows, N columns): the embedding of position M for position N.
        return pairs.flatten(4).flatten(2, 3).permute(1, 2, 0, 3).reshape(self.intra * height * width, -1)

    def position_lambdas(self, value: Tensor) -> Tensor:
        """Return shape (B, v, k, N) for values of shape (B, v u, H, W).

        Raises:
            UsageError: The map has another size than the layer was built for.
        """
        if tuple(value.shape[2:]) != self.resolution:
            actual, expected = ("x".join(map(str, size)) for size in (value.shape[2:], self.resolution))
            raise UsageError(
                f"This lambda layer was built for maps of {expected} positions, not {actual}.",
                hint="The lambda convolution takes any size.",
            )
        positions = value.shape[2] * value.shape[3]
        lambdas: Tensor = value.reshape(-1, self.width, self.intra * positions) @ self.embeddings()
        return lambdas.reshape(-1, self.width, self.depth, positions)
