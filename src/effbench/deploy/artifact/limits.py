"""How far outputs may be from the expected ones: by precision, by kind, and by the model's own rounding."""

from __future__ import annotations

from collections.abc import Mapping

LIMITS: dict[str, dict[str, float]] = {
    "fp32": {"max_error": 1e-3},
    "fp16": {"p99_error": 2e-2, "cosine": 0.999},
    "int8": {"cosine": 0.98},
    "a16w8": {"cosine": 0.98},
}
"""The limits by storage precision. int8: a cosine of 0.98 is a signal-to-noise ratio of about 14 dB.

int8 and a16w8 are compared on the natural images only: black, white and noise are outside the ranges that calibration
with typical images finds, and are clipped.
"""
CONSTANT = 1e-7
"""Outputs whose spread is a smaller part of their size do not depend on the image."""
WELL_BELOW = 2.0
"""A model whose own rounding is more than this part of a limit passes or fails it by chance."""
EXPLAINED = 8.0
"""A runtime that adds up in another order may differ by so many times the model's own rounding, which is measured over
fewer images."""
ROUNDING_FACTOR = 30.0
"""How many times the model's own rounding an fp32 runtime may differ by, where that is below 1e-3 of the spread."""
LEAST = 5e-5
"""The least limit of fp32, of the spread: a runtime may add up a thousand values one by one, where the reference adds
pairs (a mean over 31 x 31 values differs by 1.5e-5 in OpenVINO, 15 times as much as by the reference's rounding)."""
LAST_BITS = 5e-7
"""The least error that is allowed in fp32, relative to the largest value: a few units in the last place."""
SMALLEST_SCALE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2, "a16w8": 5e-2}
"""Errors of probabilities are relative to at least this: runtimes compute a sigmoid with a small absolute error."""
MISMATCHES = {"fp32": 1e-4, "fp16": 2e-2, "int8": 1e-1, "a16w8": 1e-1}
"""The share of integers, labels and booleans that may differ."""
SAME_ROW = {"fp32": 1e-3, "fp16": 1e-1, "int8": 3e-1, "a16w8": 3e-1}
"""The error of an element, relative to the scale, up to which two rows of ranked detections are the same detection."""
ROWS = {"fp32": 1e-3, "fp16": 5e-2, "int8": 3e-1, "a16w8": 3e-1}
"""The share of rows of an output of variable length that may lack a partner: a suppression decides by a threshold."""
MANY_ROWS = 20
"""If there are so many rows, one may lack a partner in every precision."""
CONSTANT_ERROR = {"fp32": 5e-5, "fp16": 2e-2, "int8": 1e-1, "a16w8": 1e-1}
"""The largest error of an output that is the same for all images, relative to its largest value."""
VISIBLE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 2e-2, "a16w8": 2e-2}
"""The smallest error that a comparison sees, relative to the scale."""


def relaxed(limits: Mapping[str, float], factor: float) -> dict[str, float]:
    """Return limits that let pass errors so many times as large; 1 - cosine grows with the square of an error."""
    return {name: 1 - (1 - limit) * factor**2 if name == "cosine" else limit * factor for name, limit in limits.items()}


def resolution(limits: Mapping[str, float]) -> float:
    """Return the error that limits let pass, of the spread; a cosine of c lets pass a noise of sqrt(2 (1 - c))."""
    return min((2 * (1 - limit)) ** 0.5 if name == "cosine" else limit for name, limit in limits.items())
