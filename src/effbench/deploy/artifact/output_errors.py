"""The errors of one output, relative to what its kind allows, and the element that is furthest off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.deploy.artifact import limits
from effbench.deploy.artifact.kinds import FLOORED
from effbench.schema import OutputFidelity

Array = npt.NDArray[Any]
_TINY = 1e-30


class OutputErrors:
    """One output of the reference, to compare actual outputs with.

    Args:
        name: The output's.
        kind: One of `kinds.KINDS`.
        expected: Reference outputs, shape (images, ...); axis 1 counts as channels.
        population: The same of all reference images, and how many of the first ones are natural: the spread is that
            of these.
        precision: Storage precision; selects the limits.
    """

    def __init__(self, name: str, kind: str, expected: Array, population: tuple[Array, int], precision: str) -> None:
        self.name, self.kind, self.expected, self.precision = name, kind, expected, precision
        images, natural = population
        self.natural = natural
        self.exact = not np.issubdtype(expected.dtype, np.floating) or kind in ("integers", "booleans")
        self._want, signal = _by_channel(expected), _by_channel(images[:natural])
        self._center = signal.mean(axis=0)
        self.spread = float(np.sqrt(np.mean((signal - self._center) ** 2))) if signal.size else 0.0
        self.peak = float(np.abs(self._want).max(initial=0))
        self.constant = self.spread <= limits.CONSTANT * max(self.peak, _TINY)
        smallest = limits.SMALLEST_SCALE[precision] if kind in FLOORED else 0.0
        self.near_zero = not self.exact and smallest > 0 and self.peak <= smallest
        self.scale = max(self.peak if self.constant else self.spread, smallest, _TINY)
        distance = np.sqrt(np.mean((self._want - self._center) ** 2, axis=(1, 2), keepdims=True))
        self._distance = distance
        self._scales = np.full_like(distance, self.scale)
        # If an extreme image moves the outputs many spreads away, its errors are relative to that distance.
        self._scales[natural:] = np.maximum(self.scale, distance[natural:])

    @property
    def _alike(self) -> bool:
        """Whether the output is compared value by value, as it is the same for all images."""
        return self.constant and not self.near_zero

    @property
    def blind(self) -> bool:
        """Whether a comparison proves nothing, as the output hardly depends on the image."""
        if self.exact:
            return self.constant
        if self.near_zero:  # a map without a hit has an absolute scale
            return False
        return self.constant or self.spread < 10 * limits.VISIBLE[self.precision] * self.scale

    def errors(self, actual: Array) -> Array:
        """Return the errors relative to the scale of each image, shape (images, channels, values)."""
        result: Array = np.abs(_by_channel(actual) - self._want) / self._scales
        return result

    def compared(
        self, actual: Array, rounding: Array | float | None, slack: float = 1.0
    ) -> tuple[OutputFidelity, list[str], str]:
        """Return the figures, the reasons of a failure, and why the comparison cannot tell; empty if it can.

        Args:
            actual: Outputs of the same shape.
            rounding: The model's own, of the spread (`judge.own_rounding`), or None.
            slack: How many times the limits of `limits.LIMITS` an error may be.
        """
        if self.exact:
            return self._compared_exactly(actual, rounding)
        if rounding is not None and self._in_last_bits(rounding):
            self._set_constant()
        finite = bool(np.isfinite(actual).all())
        have = np.nan_to_num(np.asarray(actual, np.float64))
        errors = self.errors(have)
        limit, own = self._limits(rounding, slack)
        above = (errors / limit[None, :, None]).reshape(-1)
        place = int(above.argmax()) if above.size else 0
        channel = np.unravel_index(place, errors.shape)[1] if above.size else 0
        cosines = self._cosines(_by_channel(have))
        figures = {
            "max_error": float(errors.reshape(-1)[place]) if above.size else 0.0,
            "p99_error": float(np.quantile(errors, 0.99)) if above.size else 0.0,
            "cosine": float(cosines.min(initial=1.0)),
        }
        output = OutputFidelity(
            name=self.name,
            kind=self.kind,
            **figures,
            top1_agreement=self._agreement(have),
            spread=self.spread / max(self.peak, _TINY),
            snr_db=_signal_to_noise_db(self.spread**2, self._noise(have)),
            limit=float(limit[channel]) if self.precision == "fp32" or self._alike else None,
            rounding=None if own is None else float(own[channel]),
        )
        reasons = [] if finite else [f"the output '{self.name}' holds NaN or infinity"]
        failures = list(self._failures(output, place, int(cosines.argmin()) if len(cosines) else 0, have, slack))
        doubt = self._doubt(output, own, bool(failures), slack) if finite and own is not None else ""
        return output, [] if doubt else reasons + failures, doubt

    def _in_last_bits(self, rounding: Array | float) -> bool:
        """Return whether images differ by no more than the last bits of fp32, which are rounding."""
        own = float(np.max(rounding, initial=0))
        unclear = own > limits.LIMITS["fp32"]["max_error"] / limits.WELL_BELOW
        return not self.near_zero and unclear and self.spread * min(own, 1.0) <= limits.LAST_BITS * self.peak

    def _set_constant(self) -> None:
        self.constant, self.scale = True, max(self.peak, _TINY)
        self._scales = np.full_like(self._scales, self.scale)

    def _doubt(self, output: OutputFidelity, own: Array, failed: bool, slack: float) -> str:
        """Return why the comparison cannot tell: the model's own rounding is as large as the error or the limit."""
        worst, least = float(own.max()), limits.resolution(limits.relaxed(limits.LIMITS[self.precision], slack))
        if output.max_error > limits.EXPLAINED * worst if failed else worst <= least / limits.WELL_BELOW:
            return ""
        return (
            f"the model's own rounding in fp32 is {worst:.2g} of the spread of '{self.name}' between images, and the "
            f"limit is {least:.2g}, so that a difference of {output.max_error:.2g} proves nothing"
        )

    def _limits(self, rounding: Array | float | None, slack: float) -> tuple[Array, Array | None]:
        """Return by channel the largest error allowed in fp32 and the model's own rounding, relative to the scale."""
        channels, most = self._want.shape[1], slack * limits.LIMITS["fp32"]["max_error"]
        if self._alike:
            return np.full(channels, limits.CONSTANT_ERROR[self.precision]), None
        if rounding is None or self.near_zero:
            return np.full(channels, most), None
        own = np.broadcast_to(np.asarray(rounding, np.float64), channels) * (self.spread / self.scale)
        # A channel whose few values happen to round exactly may differ as much as the others do.
        own = np.maximum(own, np.sqrt(np.mean(own**2)))
        # A sigmoid or softmax is computed to the last bits of 1, however small its result is.
        whole = 1.0 if self.kind in FLOORED else self.peak
        least = min(most, max(limits.LEAST, limits.LAST_BITS * whole / self.scale))
        return np.clip(limits.ROUNDING_FACTOR * own, least, most), own

    def _failures(self, output: OutputFidelity, place: int, image: int, have: Array, slack: float) -> Iterator[str]:
        bounds = limits.relaxed(limits.LIMITS[self.precision], slack)
        if self._alike:
            bounds = {}
        if output.limit is not None:
            bounds["max_error"] = output.limit
        for figure, bound in bounds.items():
            value = getattr(output, figure)
            if figure == "cosine" and value < bound:
                yield f"cosine {value:.4g} is below {bound:g}: output '{self.name}', image {image}"
            elif figure != "cosine" and value > bound:
                text = f"{figure.replace('_', ' ')} {value:.3g} is above {bound:.3g} of the spread"
                yield f"{text}: output '{self.name}', {self._element(place, have)}"

    def _element(self, place: int, have: Array) -> str:
        image, *index = (int(i) for i in np.unravel_index(place, self.expected.shape))
        want, value = self.expected.reshape(-1)[place], have.reshape(-1)[place]
        return f"element {index} of image {image}: expected {want:.6g}, observed {value:.6g}"

    def _compared_exactly(self, actual: Array, rounding: Array | float | None) -> tuple[OutputFidelity, list[str], str]:
        differ = self.expected != actual
        share = float(differ.mean()) if differ.size else 0.0
        own = None if rounding is None else float(np.max(rounding, initial=0))
        bound = max(limits.MISMATCHES[self.precision], 10 * (own or 0.0))
        output = OutputFidelity(
            name=self.name,
            kind=self.kind,
            max_error=share,
            p99_error=share,
            cosine=1 - share,
            top1_agreement=1 - share,
            spread=self.spread / max(self.peak, _TINY),
            snr_db=_signal_to_noise_db(1.0, share),
            limit=bound,
            rounding=own,
            mismatches=share,
        )
        if share <= bound:
            return output, [], ""
        text = f"{differ.sum()} of {differ.size} values differ, above {bound:.3g}"
        element = self._element(int(differ.reshape(-1).argmax()), np.asarray(actual))
        return output, [f"{text}: output '{self.name}', {element}"], ""

    def _cosines(self, have: Array) -> Array:
        left, right = ((array - self._center).reshape(len(array), -1) for array in (self._want, have))
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosine = (left * right).sum(axis=1) / np.maximum(lengths, _TINY)
        # Cosine is unstable for outputs near the center; there it allows the noise that it allows elsewhere.
        near = np.minimum(self._distance.reshape(-1) / max(self.scale, _TINY), 1)
        result: Array = 1 - (1 - cosine) * near**2
        return result

    def _agreement(self, have: Array) -> float:
        """Return the share of equal labels: the largest channel at each place of a mask, else the largest value."""
        if self.kind == "mask" and self.expected.ndim > 2:
            return float((self.expected.argmax(axis=1) == have.argmax(axis=1)).mean())
        flat = (array.reshape(len(array), -1).argmax(axis=1) for array in (self._want, have))
        left, right = flat
        return float((left == right).mean())

    def _noise(self, have: Array) -> float:
        natural = _by_channel(have)[: self.natural]
        return float(np.mean((natural - self._want[: self.natural]) ** 2)) if natural.size else 0.0


def _by_channel(value: Array) -> Array:
    """Return an array in the shape (images, channels, values), float64."""
    array = np.asarray(value, np.float64)
    return array.reshape(len(array), array.shape[1] if array.ndim > 1 else 1, -1)


def _signal_to_noise_db(signal: float, noise: float) -> float:
    """Return 10 log10 of signal over noise power; a constant that all images share is no signal."""
    return float(10 * np.log10(max(signal, 1e-60) / max(noise, 1e-30 * signal, 1e-90)))
