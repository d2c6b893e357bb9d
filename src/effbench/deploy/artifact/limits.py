"""How far outputs may be from the expected ones beside `judge.LIMITS`: by kind, and by the model's own rounding."""

from __future__ import annotations

ROUNDING_FACTOR = 30.0
"""How many times the model's own rounding an fp32 runtime may differ by, where that is below 1e-3 of the spread."""
LAST_BITS = 5e-7
"""The least error that is allowed in fp32, relative to the largest value: a few units in the last place."""
SMALLEST_SCALE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2, "a16w8": 5e-2}
"""Errors of probabilities are relative to at least this: runtimes compute a sigmoid with a small absolute error."""
MISMATCHES = {"fp32": 1e-4, "fp16": 2e-2, "int8": 1e-1, "a16w8": 1e-1}
"""The share of integers, labels and booleans that may differ."""
SAME_ROW = {"fp32": 1e-3, "fp16": 1e-1, "int8": 3e-1, "a16w8": 3e-1}
"""The error of an element, relative to the scale, up to which two rows of ranked detections are the same detection."""
CONSTANT = 1e-7
"""The spread, relative to the largest value, below which an output does not depend on the image."""
VISIBLE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 2e-2, "a16w8": 2e-2}
"""The smallest error that a comparison sees, relative to the scale."""
