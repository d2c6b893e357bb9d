"""Is an output the expected one? Each is judged by its kind, within limits that follow the model's own rounding.

Errors are relative to the *spread*: the root mean square of the reference outputs after their mean over the natural
images is subtracted. A constant that all images share carries no information about the model, and an untrained
network's logits are mostly that constant; relative to the spread, it cannot hide a broken mixer, weight or layout.
Black, white and noise images can move outputs several spreads away, and rounding errors with them: their errors are
relative to their own distance from that mean if it is larger.

In fp32 the limit is a multiple of the model's own rounding (fp32 against float64), channel by channel, so that a small
fault in one channel is not hidden by what another may differ by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.deploy.artifact import ranked_rows, row_sets
from effbench.deploy.artifact.limits import LIMITS, SAME_ROW, relaxed
from effbench.deploy.artifact.output_errors import OutputErrors
from effbench.deploy.artifact.synthetic import NATURAL
from effbench.errors import DataError
from effbench.schema import OutputFidelity

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Terms:
    """How the outputs of one model are judged.

    Attributes:
        kinds: By output name (`kinds.KINDS`); features if unnamed.
        rounding: The model's own rounding by output name, of the spread; for all of an output or for each channel
            (`own_rounding`). Without it the limit of fp32 is that of `limits.LIMITS`.
        slack: How many times the limits of `limits.LIMITS` an error may be.
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    rounding: Mapping[str, Array | float] = field(default_factory=dict)
    slack: float = 1.0


@dataclass(frozen=True)
class OutputVerdict:
    """The figures of every output, why the comparison fails, and why it proves nothing."""

    outputs: tuple[OutputFidelity, ...]
    reasons: tuple[str, ...] = ()
    unverifiable: str = ""
    blind_to: tuple[str, ...] = ()
    """Faults that cannot be seen since an output is near zero, or the same for all images."""

    def figures(self) -> dict[str, float]:
        """Return the worst figures over all outputs."""
        outputs = [item for item in self.outputs if item.mismatches is None] or self.outputs
        worst = dict.fromkeys(("max_error", "p99_error"), max) | dict.fromkeys(
            ("cosine", "top1_agreement", "spread", "snr_db"), min
        )
        return {name: float(pick(getattr(item, name) for item in outputs)) for name, pick in worst.items()}

    def limits(self, precision: str, slack: float = 1.0) -> dict[str, float]:
        """Return the bounds that decided; the error of fp32 has that of the output nearest to its own."""
        result = relaxed(LIMITS[precision], slack)
        bounds = [(item.max_error / item.limit, item.limit) for item in self.outputs if item.limit]
        if "max_error" in result and bounds:
            result["max_error"] = max(bounds)[1]
        return result


def verdict(
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    precision: str,
    terms: Terms | None = None,
    natural: int = NATURAL,
    population: Mapping[str, Array] | None = None,
) -> OutputVerdict:
    """Compare every output as its kind requires, and decide.

    Args:
        expected: Outputs by name, images first.
        actual: The same; matched by name, or by order if the runtime renamed them.
        precision: Storage precision; selects the limits.
        terms: Kinds and the model's own rounding.
        natural: How many of the first images are natural; the spread is taken over these.
        population: Expected outputs to take the spread from, of more images than were run; default ``expected``. The
            outputs of a few images may be close together, and the spread must not depend on how many were run.

    Raises:
        DataError: The number of outputs or a shape differs.
    """
    terms, population = terms or Terms(), population or expected
    chosen = _kinds(expected, terms)
    actual = _matched(expected, actual, chosen)
    items = {
        name: OutputErrors(name, chosen[name], value, (population[name], natural), precision)
        for name, value in expected.items()
        if chosen[name] != row_sets.KIND
    }
    sets = {name: value for name, value in expected.items() if name not in items}
    allowed = {name: SAME_ROW[precision] * item.scale for name, item in items.items()}
    fixed = {name: expected[name] for name in items}
    actual = ranked_rows.aligned(fixed, actual, {name: chosen[name] for name in items}, allowed)
    compared = {
        name: item.compared(actual[name], terms.rounding.get(name), terms.slack) for name, item in items.items()
    }
    by_rows = row_sets.compared(sets, actual, precision, natural)
    reasons = [reason for _, texts, _ in compared.values() for reason in texts]
    reasons += [reason for _, texts, _ in by_rows.values() for reason in texts]
    blind = [name for name in expected if (by_rows[name][2] if name in sets else items[name].blind)]
    unverifiable = next((text for _, _, text in compared.values() if text), "")
    if not reasons and len(blind) == len(expected):
        unverifiable = (
            f"the reference outputs ({', '.join(blind)}) do not depend on the image, so nothing can be proved"
        )
    figures = {name: result[0] for name, result in (*compared.items(), *by_rows.items())}
    unseen = [f"a fault of '{name}' alone, which is the same for all images" for name in blind]
    unseen += [f"a fault that leaves '{name}' near zero, as it is here" for name, i in items.items() if i.near_zero]
    return OutputVerdict(tuple(figures[name] for name in expected), tuple(reasons), unverifiable, tuple(unseen))


def compare(
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    natural: int = NATURAL,
    population: Mapping[str, Array] | None = None,
) -> dict[str, float]:
    """Return the worst figures over all outputs, judged as features: max_error, p99_error, cosine, snr_db and others.

    Arguments and errors are those of `verdict`.
    """
    return verdict(expected, actual, "fp32", None, natural, population).figures()


def own_rounding(single: Mapping[str, Array], double: Mapping[str, Array], natural: int = NATURAL) -> dict[str, Array]:
    """Return the model's own rounding: how far its outputs in fp32 are from those in float64.

    Returns:
        By output name the largest error of each channel (axis 1), of the spread; of integers, labels and booleans the
        share that differs, as one number.
    """
    result = {}
    for name, value in single.items():
        if row_sets.is_filled(value):
            result[name] = np.array([row_sets.compared({name: value}, double, "fp32")[name][0].max_error])
            continue
        item = OutputErrors(name, "features", value, (value, natural), "fp32")
        if item.exact:
            result[name] = np.array([np.mean(value != double[name])])
        else:
            result[name] = item.errors(double[name]).max(axis=(0, 2))
    return result


def _kinds(expected: Mapping[str, Array], terms: Terms) -> dict[str, str]:
    """Return the kind of each output; of variable length if it is filled, else features, unless it is named."""
    otherwise = {name: row_sets.KIND if row_sets.is_filled(value) else "features" for name, value in expected.items()}
    return {name: terms.kinds.get(name, kind) for name, kind in otherwise.items()}


def _matched(expected: Mapping[str, Array], actual: Mapping[str, Array], chosen: Mapping[str, str]) -> dict[str, Array]:
    if len(expected) != len(actual):
        raise DataError(f"{len(actual)} outputs, expected {len(expected)}.")
    if set(expected) != set(actual):
        actual = dict(zip(expected, actual.values(), strict=True))
    for name, want in expected.items():
        have = actual[name]
        if chosen[name] == row_sets.KIND and have.ndim == want.ndim and len(have) == len(want):
            continue
        if want.shape != have.shape:
            raise DataError(f"The output '{name}' has shape {list(actual[name].shape)}, expected {list(want.shape)}.")
    return dict(actual)
