"""Mixers and blocks that can be measured alone, by name; listing them needs no torch (see `effbench.models.probe`)."""

from __future__ import annotations

from dataclasses import dataclass

from effbench.errors import UsageError
from effbench.models.mixers import mixers


@dataclass(frozen=True)
class Part:
    """A mixer or block: its channels, and the stride in pixels of its positions in the image."""

    name: str
    channels: int
    stride: int
    order: str
    source: str


MIXER_CHANNELS, MIXER_STRIDE = 192, 16
"""Those of the third stage of iFormer-M, which has mixers."""

BLOCK_CHANNELS, BLOCK_STRIDE = 48, 4
"""Those of the first stage of iFormer-M, where a large receptive field costs most."""

BLOCKS = (
    Part("conv7", BLOCK_CHANNELS, BLOCK_STRIDE, "O(N)", "arXiv:2501.15369, unit with one 7x7 depthwise convolution"),
    Part("elrf", BLOCK_CHANNELS, BLOCK_STRIDE, "O(N)", "arXiv:2602.05262, reconstructed: 3x3 and 5x5 depthwise"),
)


def parts() -> dict[str, Part]:
    """Return every mixer and block by name."""
    all_mixers = [Part(m.name, MIXER_CHANNELS, MIXER_STRIDE, m.order, m.source) for m in mixers().values()]
    return {part.name: part for part in (*all_mixers, *BLOCKS)}


def model_argument(name: str, px: int) -> tuple[str, int]:
    """Return the factory of a part for square images of a size, and the height and width of its map in positions.

    Raises:
        UsageError: The size is not a multiple of the part's stride.
    """
    part = parts()[name]
    if px % part.stride:
        raise UsageError(
            f"{name} has stride {part.stride}; {px} px is not a multiple of it.",
            hint=f"Use multiples of {part.stride}.",
        )
    positions = px // part.stride
    return f"effbench.models.probe:{name.replace('-', '_')}_at_{positions}", positions
