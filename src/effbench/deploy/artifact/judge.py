"""How far outputs are from expected ones, and whether that is within the limits of a precision.

Errors are relative to the *spread*: the root mean square of the reference outputs after their mean over the natural
images is subtracted. A constant that all images share carries no information about the model, and an untrained
network's logits are mostly that constant; relative to the spread, it cannot hide a broken mixer, weight or layout.
Black, white and noise images can move outputs several spreads away, and rounding errors with them: their errors are
relative to their own distance from that mean if it is larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.deploy.artifact.synthetic import NATURAL
from effbench.errors import DataError

Array = npt.NDArray[Any]

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


def compare(
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    natural: int = NATURAL,
    population: Mapping[str, Array] | None = None,
) -> dict[str, float]:
    """Return the worst figures over all outputs: max_error and p99_error (of the spread), cosine, snr_db and others.

    ``size_error`` and ``spread`` are relative to the largest value of an output.

    Args:
        expected: Outputs by name, shape (B, ...), batch first.
        actual: The same; matched by name, or by order if the runtime renamed them.
        natural: How many of the first images are natural; the spread is taken over these.
        population: Expected outputs to take the spread from, of more images than were run; default ``expected``. The
            outputs of a few images may be close together, and the spread must not depend on how many were run.

    Raises:
        DataError: The number of outputs or a shape differs.
    """
    population = population or expected
    if len(expected) != len(actual):
        raise DataError(f"{len(actual)} outputs, expected {len(expected)}.")
    outputs = (
        [(expected[name], actual[name], population[name]) for name in expected]
        if set(expected) == set(actual)
        else list(zip(expected.values(), actual.values(), population.values(), strict=True))
    )
    figures = [_compare_output(want, have, natural, signal[:natural]) for want, have, signal in outputs]
    worst = dict.fromkeys(("max_error", "p99_error", "size_error"), max) | dict.fromkeys(
        ("cosine", "top1_agreement", "spread", "snr_db"), min
    )
    return {name: float(pick(figure[name] for figure in figures)) for name, pick in worst.items()}


def _compare_output(want: Array, have: Array, natural: int, signal: Array) -> dict[str, float]:
    if want.shape != have.shape:
        raise DataError(f"An output has shape {list(have.shape)}, expected {list(want.shape)}.")
    want, have, signal = (np.asarray(array, np.float64).reshape(len(array), -1) for array in (want, have, signal))
    center = signal.mean(axis=0)
    spread = float(np.sqrt(np.mean((signal - center) ** 2)))
    left, right = want - center, have - center
    scale = np.full((len(want), 1), spread)
    # If an extreme image moves the outputs many spreads away, its errors are relative to that distance.
    scale[natural:] = np.maximum(spread, np.sqrt(np.mean(left[natural:] ** 2, axis=1, keepdims=True)))
    error = np.abs(have - want) / np.maximum(scale, 1e-30)
    distance = np.linalg.norm(left, axis=1)
    cosine = (left * right).sum(axis=1) / np.maximum(distance * np.linalg.norm(right, axis=1), 1e-30)
    # Cosine is unstable for outputs near the center; there it allows the noise that it allows at the usual distance.
    near = np.minimum(distance / max(spread * np.sqrt(want.shape[1]), 1e-30), 1)
    cosine = 1 - (1 - cosine) * near**2
    return {
        "max_error": float(error.max()),
        "p99_error": float(np.quantile(error, 0.99)),
        "size_error": float(np.abs(have - want).max() / max(float(np.abs(want).max()), 1e-30)),
        "cosine": float(cosine.min()),
        "top1_agreement": float((want.argmax(axis=1) == have.argmax(axis=1)).mean()),
        "spread": spread / max(float(np.abs(want).max()), 1e-30),
        "snr_db": _signal_to_noise_db(spread**2, float(np.mean((have[:natural] - want[:natural]) ** 2))),
    }


def _signal_to_noise_db(signal: float, noise: float) -> float:
    """Return 10 log10 of signal over noise power; a constant that all images share is no signal."""
    return float(10 * np.log10(max(signal, 1e-60) / max(noise, 1e-30 * signal, 1e-90)))


def reasons_of(figures: Mapping[str, float], limits: Mapping[str, float], finite: bool, repeatable: bool) -> list[str]:
    """Return why figures fail, one sentence each; none if they hold the limits."""
    reasons = []
    if not finite:
        reasons.append("an output holds NaN or infinity")
    if not repeatable:
        reasons.append("the same input gave another output the second time")
    if figures["spread"] < CONSTANT:
        reasons.append("the reference outputs do not depend on the image, so nothing can be proved")
    for name, limit in limits.items():
        missed = figures[name] < limit if name == "cosine" else figures[name] > limit
        if missed:
            relation = "below" if name == "cosine" else "above"
            reasons.append(f"{name.replace('_', ' ')} {figures[name]:.3g} is {relation} {limit:g}")
    return reasons


WELL_BELOW = 2.0
"""A model whose own rounding is more than this part of a limit passes or fails it by chance."""
EXPLAINED = 8.0
"""A runtime that adds up in another order may differ by so many times the model's own rounding, which is measured over
fewer images."""


def relaxed(limits: Mapping[str, float], factor: float) -> dict[str, float]:
    """Return limits that let pass errors so many times as large; 1 - cosine grows with the square of an error."""
    return {name: 1 - (1 - limit) * factor**2 if name == "cosine" else limit * factor for name, limit in limits.items()}


def resolution(limits: Mapping[str, float]) -> float:
    """Return the error that limits let pass, of the spread; a cosine of c lets pass a noise of sqrt(2 (1 - c))."""
    return min((2 * (1 - limit)) ** 0.5 if name == "cosine" else limit for name, limit in limits.items())


def cannot_tell(figures: Mapping[str, float], limits: Mapping[str, float], rounding: Mapping[str, float]) -> str:
    """Return why no comparison can tell whether it is the same model; empty if one can.

    Args:
        figures: Of `compare`; finite.
        limits: That the figures are held to.
        rounding: The model's own, by output, of the spread.
    """
    if figures["spread"] < CONSTANT:
        if figures["size_error"] > resolution(limits):
            return ""
        return (
            "the expected outputs do not depend on the image: between images they differ by "
            f"{figures['spread']:.1e} of their size, so that a wrong model may have the same ones"
        )
    if not rounding:
        return ""
    name = max(rounding, key=lambda output: rounding[output])
    own, least, error = rounding[name], resolution(limits), figures["max_error"]
    missed = bool(reasons_of(figures, limits, finite=True, repeatable=True))
    if error > EXPLAINED * own if missed else own <= least / WELL_BELOW:
        return ""
    return (
        f"the model's own rounding in fp32 is {own:.2g} of the spread of '{name}' between images, and the limit is "
        f"{least:.2g}, so that a difference of {error:.2g} proves nothing"
    )
