"""The settings of a training: all that decides its weights apart from student, teachers and images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from effbench.errors import UsageError

PRECISIONS = ("fp32", "bf16", "fp16")

# Arguments of `timm.data.create_transform`. "shift" does not mirror, so that it suits digits.
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "shift": {
        "train_crop_mode": "rkrr",  # scaled, then cut or padded at random
        "scale": (0.75, 1.3),
        "ratio": (0.9, 1.1),
        "hflip": 0.0,
        "color_jitter": None,
    },
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
"""``unic`` is that of Sariyildiz et al. (ECCV 2024) without solarization, which timm does not offer."""


def _setting(default: Any, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """The settings of a training; the metadata of each field is its help text on the command line."""

    epochs: int = _setting(100, "Passes over the images.")
    batch: int = _setting(256, "Images per step, over all processes.")
    learning_rate: float = _setting(1e-3, "Peak learning rate of AdamW, after warm-up; not scaled with the batch.")
    final_learning_rate: float = _setting(1e-6, "Last learning rate of the cosine schedule.")
    warmup_epochs: float = _setting(5.0, "Epochs of linear warm-up.")
    weight_decay: float = _setting(0.03, "Weight decay of weights; biases and normalization layers have none.")
    clip_norm: float = _setting(0.0, "Clip the norm of the gradient to this; 0: no clipping.")
    features: float = _setting(1.0, "Weight of the teachers' features.")
    logits: float = _setting(0.0, "Weight of the class probabilities of teachers that have the student's classes.")
    labels: float = _setting(1.0, "Weight of the labels, for images that have one.")
    cosine: float = _setting(0.5, "Weight of the cosine distance in the feature loss.")
    smooth_l1: float = _setting(0.5, "Weight of the smooth L1 distance in the feature loss.")
    drop_teacher: float = _setting(0.5, "Probability to drop, per image, a teacher whose loss is not the largest.")
    temperature: float = _setting(1.0, "Temperature of the teachers' class probabilities.")
    label_smoothing: float = _setting(0.0, "Share of a label that is spread over all classes.")
    labelled_share: float = _setting(0.0, "Share of each batch with labels; 0: no such balancing.")
    augmentation: str = _setting("none", f"One of {', '.join(AUGMENTATIONS)}.")
    views: int = _setting(1, "Fixed random views of an image, with cached features; 0: new views each epoch.")
    ema_decay: float = _setting(0.0, "Decay of a moving average of the weights, which is then saved; 0: none.")
    precision: str = _setting("fp32", f"Precision of training: {', '.join(PRECISIONS)}.")
    seed: int = _setting(0, "Seed of all random numbers.")
    checkpoint_steps: int = _setting(0, "Steps between checkpoints; 0: one every minute.")

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
            raise UsageError("The weights of features, logits and labels are all 0: there is nothing to learn.")


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
