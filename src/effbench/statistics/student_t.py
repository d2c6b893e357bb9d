"""Quantiles of Student's t, with the standard library alone."""

from __future__ import annotations

import math
from functools import cache


@cache
def student_t(p: float, degrees: int) -> float:
    """Return the p-quantile of Student's t for a whole number of degrees of freedom, to 1e-9.

    Source: Abramowitz and Stegun 26.7.3 and 26.7.4 (the distribution function as a finite sum), solved by bisection.
    """
    if p < 0.5:
        return -student_t(1 - p, degrees)
    low, high = 0.0, 1.0
    while _student_cdf(high, degrees) < p:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, degrees) < p else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, degrees: int) -> float:
    angle = math.atan(t / math.sqrt(degrees))
    cosine, odd = math.cos(angle), degrees % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if odd:
        central = 2 / math.pi * (angle + (math.sin(angle) * total if degrees > 1 else 0.0))
    else:
        central = math.sin(angle) * total
    return 0.5 + central / 2
