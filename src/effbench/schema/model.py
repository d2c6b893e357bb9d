"""What a model is: its preprocessing, the backbones known by name, and where weights came from."""

from __future__ import annotations

from dataclasses import dataclass, field

from effbench.errors import DataError

PRECISIONS = ("fp32", "fp16", "int8", "a16w8")
CALIBRATED = ("int8", "a16w8")
"""Precisions that need images to calibrate with."""
WEIGHT_KINDS = ("untrained", "file", "pretrained")


@dataclass(frozen=True)
class Preprocessing:
    """How an encoded image becomes the input tensor; belongs to the model and is the same on every target.

    ``assumed`` tells that nobody declared it: an .onnx file does not say how its images are prepared.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    scale: float = 1 / 255
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    channel_order: str = "RGB"
    assumed: bool = False


@dataclass(frozen=True)
class Backbone:
    """A model that effbench knows by name.

    ``factory`` is an import string (``package.module:callable``), so that a list of models needs no torch. ``counts``
    holds what is counted from the code: ``params``, ``macs_224``, ``macs_512``, ``receptive_field_px``; ``stages`` the
    channels and the stride of each feature map.
    ``published`` is the model's name in the tables of published results, or None.
    """

    name: str
    family: str
    factory: str
    published: str | None = None
    reconstruction: str | None = None
    mixer: str = ""
    mixer_order: str = ""
    in_channels: int = 3
    resolutions: tuple[int, ...] = (224, 512)
    stride: int = 32
    min_resolution: int = 32
    fixed_resolution: int | None = None
    preprocessing: Preprocessing = Preprocessing()
    counts: dict[str, int] = field(default_factory=dict)
    stages: tuple[tuple[int, int], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Weights:
    """Where weights came from: ``untrained`` (a seed), ``file`` (its SHA-256) or ``pretrained`` (a name)."""

    kind: str = "untrained"
    seed: int | None = 0
    source: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in WEIGHT_KINDS:
            raise DataError(f"Weights of kind '{self.kind}'; valid are {', '.join(WEIGHT_KINDS)}.")
