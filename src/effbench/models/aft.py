"""Attention Free Transformers: AFT-full and AFT-conv in DeiT's layout, at the sizes of the paper's Table 7.

There is no class token and no position embedding: the mixers depend on positions, and the map is averaged.

Source: Zhai et al., arXiv:2105.14103, section 5.3 and Table 7.
"""

from __future__ import annotations

from effbench.models.deit import PATCH, WIDTHS, IsotropicTransformer
from effbench.models.mixers.aft import AFTConv, AFTFull
from effbench.schema import Backbone


def _full(size: str, in_channels: int, classes: int) -> IsotropicTransformer:
    return IsotropicTransformer(in_channels, WIDTHS[size], AFTFull, classes)


def _conv(size: str, heads: int, kernel: int, in_channels: int, classes: int) -> IsotropicTransformer:
    return IsotropicTransformer(in_channels, WIDTHS[size], lambda channels: AFTConv(channels, heads, kernel), classes)


def aft_full_t(in_channels: int = 3, classes: int = 1000) -> IsotropicTransformer:
    """Build AFT-full tiny (6.3 M parameters as published)."""
    return _full("t", in_channels, classes)


def aft_full_s(in_channels: int = 3, classes: int = 1000) -> IsotropicTransformer:
    """Build AFT-full small (22.6 M parameters as published)."""
    return _full("s", in_channels, classes)


def aft_conv_t_h32(in_channels: int = 3, classes: int = 1000) -> IsotropicTransformer:
    """Build AFT-conv tiny with 32 heads (5.4 M parameters as published)."""
    return _conv("t", 32, 11, in_channels, classes)


def aft_conv_t_h192(in_channels: int = 3, classes: int = 1000) -> IsotropicTransformer:
    """Build AFT-conv tiny with 192 heads (5.9 M parameters as published)."""
    return _conv("t", 192, 11, in_channels, classes)


def aft_conv_s_h16(in_channels: int = 3, classes: int = 1000) -> IsotropicTransformer:
    """Build AFT-conv small with 16 heads (20.3 M parameters as published)."""
    return _conv("s", 16, 11, in_channels, classes)


def aft_conv_s_h384(in_channels: int = 3, classes: int = 1000) -> IsotropicTransformer:
    """Build AFT-conv small with 384 heads (22.5 M parameters as published)."""
    return _conv("s", 384, 11, in_channels, classes)


def aft_conv_s_h384_k15(in_channels: int = 3, classes: int = 1000) -> IsotropicTransformer:
    """Build AFT-conv small with 384 heads and 15 x 15 filters (23.0 M parameters as published)."""
    return _conv("s", 384, 15, in_channels, classes)


_TABLE_7 = {
    "aft_full_t": "AFT-full-tiny",
    "aft_full_s": "AFT-full-small",
    "aft_conv_t_h32": "AFT-conv-tiny h32 k11",
    "aft_conv_t_h192": "AFT-conv-tiny h192 k11",
    "aft_conv_s_h16": "AFT-conv-small h16 k11",
    "aft_conv_s_h384": "AFT-conv-small h384 k11",
    "aft_conv_s_h384_k15": "AFT-conv-small h384 k15",
}

BACKBONES = tuple(
    Backbone(
        name=name,
        family="aft",
        factory=f"effbench.models.aft:{name}",
        published=published,
        mixer="AFT-full" if "full" in name else "AFT-conv",
        mixer_order="O(N^2)" if "full" in name else "O(N)",
        stride=PATCH,
        source="arXiv:2105.14103, Table 7",
    )
    for name, published in _TABLE_7.items()
)
