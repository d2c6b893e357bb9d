"""Parts of networks that can be measured alone, by name; listing them needs no torch (see `effbench.models.probe`)."""

from __future__ import annotations

from dataclasses import dataclass

from effbench.errors import UsageError
from effbench.models.mixers import mixers


@dataclass(frozen=True)
class Part:
    """A mixer or block: its channels, and how many pixels of an image one of its positions stands for on a side."""

    name: str
    channels: int
    stride: int
    order: str
    source: str


MIXER_CHANNELS, MIXER_STRIDE = 192, 16
"""The third stage of iFormer-M, where mixers stand."""

BLOCK_CHANNELS, BLOCK_STRIDE = 48, 4
"""The first stage of iFormer-M, where a large receptive field costs most."""

BLOCKS = (
    Part("conv7", BLOCK_CHANNELS, BLOCK_STRIDE, "O(N)", "arXiv:2501.15369, unit with one 7x7 depthwise convolution"),
    Part("elrf", BLOCK_CHANNELS, BLOCK_STRIDE, "O(N)", "arXiv:2602.05262, reconstructed: 3x3 and 5x5 depthwise"),
)


def parts() -> dict[str, Part]:
    """Return every mixer and block by name."""
    found = [Part(one.name, MIXER_CHANNELS, MIXER_STRIDE, one.order, one.source) for one in mixers().values()]
    return {part.name: part for part in (*found, *BLOCKS)}


def model_argument(name: str, px: int) -> tuple[str, int]:
    """Return the factory of a part for images of a size, and the side of its map in positions.

    Raises:
        UsageError: The size is no multiple of the part's stride.
    """
    part = parts()[name]
    if px % part.stride:
        raise UsageError(
            f"{name} stands at stride {part.stride}; {px} px is no multiple of it.",
            hint=f"Take multiples of {part.stride}.",
        )
    side = px // part.stride
    return f"effbench.models.probe:{name.replace('-', '_')}_at_{side}", side
