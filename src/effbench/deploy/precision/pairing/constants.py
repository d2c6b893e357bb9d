"""Is a quantized constant the float one, rounded? What all of its values have in common is no rounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from effbench.deploy import Array
from effbench.schema import OperatorFault

if TYPE_CHECKING:
    from effbench.deploy.precision.pairing.graphs import PairedConstant

MOST_STEPS = 3.0
"""The root mean square of a constant's errors in steps: 0.29 of rounding to the nearest, up to 0.8 of GPTQ."""
GAIN = 0.008
"""How far the factor between a constant and its rounded form may be from 1; GPTQ shrinks some by 0.0035."""
BIAS_GAIN, DEVIATIONS = 0.01, 4.5
"""How far the same factor may be from 1 for a bias that makes up for the mean error of its weights: that mean differs
between images, so the factor is also compared with its standard deviation."""
EQUAL = 1e-6
"""The error of a constant that is not quantized, relative to its largest value."""


def constant_faults(constant: PairedConstant, stored: Array, step: Array | None) -> Iterator[OperatorFault]:
    """Yield what rounding does not explain.

    Args:
        constant: In the float graph.
        stored: As the quantized graph's operator reads it, float.
        step: Of its quantization, in a shape that broadcasts to the constant; None if it is not quantized.
    """
    exact, stored = np.asarray(constant.exact, np.float64), np.asarray(stored, np.float64)
    if exact.shape != stored.shape:
        text = f"its constant has shape {list(stored.shape)}, expected {list(exact.shape)}"
        yield OperatorFault(constant.operator, constant.op, f"input {constant.slot}: {text}")
        return
    error = stored - exact
    peak = float(np.abs(exact).max(initial=0))
    if constant.compensated:
        return  # `bias_fault`
    if step is None:
        if np.abs(error).max(initial=0) > EQUAL * peak:
            yield _fault(constant, stored, error, "a constant that is not quantized differs")
        return
    gain, deviation = gain_of(exact, error)
    if abs(gain) > max(GAIN, DEVIATIONS * deviation):
        yield _fault(constant, stored, error, f"its values are {1 + gain:.4f} times those of the float graph")
        return
    rms = float(np.sqrt(np.mean((error / np.maximum(step, 1e-30)) ** 2)))
    if rms > MOST_STEPS:
        yield replace(_fault(constant, stored, error, f"its values differ by {rms:.1f} steps on average"), poor=True)


def bias_fault(constant: PairedConstant, stored: Array, mean_error: Array) -> OperatorFault | None:
    """Return the fault of a bias that makes up for the mean error of quantized weights and inputs.

    Args:
        constant: The bias.
        stored: As the quantized graph's operator reads it.
        mean_error: Of the operator's results against the float operator on inputs before Q/DQ, by channel; what the
            weights lack on average is in it, and the bias took it back.
    """
    exact, stored = np.asarray(constant.exact, np.float64).reshape(-1), np.asarray(stored, np.float64).reshape(-1)
    if exact.shape != mean_error.shape or exact.shape != stored.shape:
        return None
    gain, deviation = gain_of(exact, mean_error)
    if abs(gain) <= max(BIAS_GAIN, DEVIATIONS * deviation):
        return None
    return _fault(constant, stored, stored - exact, f"its values are {1 + gain:.4f} times those of the float graph")


def gain_of(exact: Array, error: Array) -> tuple[float, float]:
    """Return the factor that errors have in common, less 1, and its standard deviation if they are random."""
    power = float((exact**2).sum())
    if power == 0:
        return 0.0, 0.0
    gain = float((exact * error).sum()) / power
    if exact.size == 1:
        return gain, float("inf")
    rest = error - gain * exact
    return gain, float(np.sqrt((rest**2).sum() / (exact.size - 1) / power))


def _fault(constant: PairedConstant, stored: Array, error: Array, text: str) -> OperatorFault:
    place = int(np.abs(error).argmax())
    index = [int(i) for i in np.unravel_index(place, error.shape)]
    return OperatorFault(
        constant.operator,
        constant.op,
        f"input {constant.slot}: {text}",
        element=f"{index}",
        expected=float(constant.exact.reshape(-1)[place]),
        observed=float(stored.reshape(-1)[place]),
    )
