"""How a training is done: everything that decides its weights, besides the student, the teachers and the pictures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from effbench.errors import UsageError

PRECISIONS = ("fp32", "bf16", "fp16")

# What `timm.data.create_transform` is called with. Geometry first: digits must not be mirrored.
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "shift": {"scale": (0.7, 1.0), "ratio": (0.9, 1.1), "hflip": 0.0, "color_jitter": None},
    "crop": {"scale": (0.35, 1.0), "hflip": 0.5, "color_jitter": None},
    "randaugment": {"scale": (0.08, 1.0), "hflip": 0.5, "auto_augment": "rand-m9-mstd0.5-inc1", "color_jitter": None},
    "unic": {
        "scale": (0.08, 1.0),
        "hflip": 0.5,
        "color_jitter": (0.4, 0.4, 0.2, 0.1),
        "color_jitter_prob": 0.8,
        "grayscale_prob": 0.2,
        "gaussian_blur_prob": 0.2,
    },
}
"""``unic`` is that of Sariyildiz et al. (ECCV 2024) without its solarization, which timm has no option for."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training.

    ``batch`` is that of all processes together. ``features``, ``logits`` and ``labels`` weigh the three terms of the
    loss; 0 leaves a term out. ``views`` is the number of fixed random views of each picture, whose teacher features are
    kept on disk; with 0 every epoch draws new ones and the teachers run along. ``labelled_share`` of each batch comes
    from the pictures that have a label, 0 takes pictures as they come. ``checkpoint_steps`` 0 means once an epoch.
    """

    epochs: int = 100
    batch: int = 256
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    warmup_epochs: float = 5.0
    weight_decay: float = 0.03
    clip_norm: float = 0.0
    features: float = 1.0
    logits: float = 0.0
    labels: float = 1.0
    cosine: float = 0.5
    smooth_l1: float = 0.5
    drop_teacher: float = 0.5
    temperature: float = 1.0
    label_smoothing: float = 0.0
    labelled_share: float = 0.0
    augmentation: str = "none"
    views: int = 1
    ema_decay: float = 0.0
    precision: str = "fp32"
    seed: int = 0
    checkpoint_steps: int = 0

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("augmentation", self.augmentation, AUGMENTATIONS)
        for name in ("epochs", "batch"):
            _within(self, name, 1, float("inf"))
        for name in ("drop_teacher", "labelled_share", "label_smoothing", "ema_decay"):
            _within(self, name, 0, 1)
        for name in ("learning_rate", "temperature"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{_option(name)} {getattr(self, name):g} is not above 0.")
        for field in dataclasses.fields(self):
            if field.type in ("int", "float"):
                _within(self, field.name, 0, float("inf"))
        if not (self.features or self.logits or self.labels):
            raise UsageError("Features, logits and labels all weigh 0: there is nothing to learn.")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _within(recipe: Recipe, name: str, low: float, high: float) -> None:
    value = getattr(recipe, name)
    if not low <= value <= high:
        allowed = f"{low:g} or more" if high == float("inf") else f"from {low:g} to {high:g}"
        raise UsageError(f"{_option(name)} {value:g} is not {allowed}.")


def _one_of(name: str, value: str, valid: Any) -> None:
    if value not in valid:
        raise UsageError(f"{_option(name)} '{value}' is not one of {', '.join(valid)}.")
