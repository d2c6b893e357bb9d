"""Is it still the same model? Run an artifact over the reference samples and compare its outputs with those expected.

`judge` compares and decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from effbench.data.pixels import read
from effbench.deploy.artifact import encoded, judge, kinds, row_sets
from effbench.deploy.artifact.bundle import REFERENCE as REFERENCE
from effbench.deploy.artifact.feeding import SYNTHETIC_IMAGES, count_of, feeds, images_in
from effbench.deploy.artifact.judge import Terms, verdict
from effbench.deploy.artifact.limits import resolution
from effbench.deploy.artifact.observed import Observed
from effbench.deploy.artifact.reference import Reference as Reference
from effbench.deploy.artifact.reference import first as first
from effbench.deploy.artifact.reference import load_reference as load_reference
from effbench.deploy.artifact.reference import save_reference as save_reference
from effbench.deploy.artifact.synthetic import NATURAL as NATURAL
from effbench.errors import DataError
from effbench.schema import CALIBRATED, Fidelity, InputSpec, Preprocessing, image_of

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def count_for(batch: int) -> int:
    """Return how many samples a check takes: full batches that hold at least the natural and the extreme images."""
    runs = max(3, -(-(NATURAL + 3) // batch))
    return runs * batch


def run_all(
    run: Run, batches: Sequence[Mapping[str, Array]], batch: int = 1, dtype: type[Any] = np.float32
) -> dict[str, Array]:
    """Run every batch and return the outputs, samples first; copies, because a runtime may reuse buffers.

    The batch axis is found by its length (`kinds.images_first`); integers keep their type, other numbers get ``dtype``.
    An output of variable length is filled at the end (`row_sets`).
    """
    collected: dict[str, list[Array]] = {}
    for feed in batches:
        for name, value in run(feed).items():
            array = np.asarray(value)
            floating = np.issubdtype(array.dtype, np.floating)
            copy = np.array(array, dtype=dtype if floating else array.dtype)
            collected.setdefault(name, []).append(copy)
    counts = [batch] * len(batches)
    return {name: row_sets.stacked(kinds.images_first(values, counts)) for name, values in collected.items()}


@dataclass(frozen=True)
class Setup:
    """What a check compares with, and how it feeds the session.

    Attributes:
        reference: Samples and expected outputs.
        batch: Batch size of the session.
        inputs: The session's.
        preprocessing: The model's.
        precision: Storage precision; selects the limits.
        example: An encoded image, to be decoded and preprocessed here.
        limit: How many samples to run, in full batches; None runs all. The spread is of all samples either way.
        slack: How many times the limits an error may be.
    """

    reference: Reference
    batch: int
    inputs: Sequence[InputSpec]
    preprocessing: Preprocessing
    precision: str
    example: encoded.Example | None = None
    limit: int | None = None
    slack: float = 1.0


def check(run: Run, setup: Setup) -> Fidelity:
    """Run an artifact over the reference samples and decide whether it is still the same model.

    Raises:
        DataError: The number or shape of outputs differs from the reference's.
    """
    return decide(observe(run, setup), setup)


def observe(run: Run, setup: Setup) -> Observed:
    """Run an artifact over the reference samples and the encoded image; `decide` judges the outputs, here or elsewhere.

    Outputs are kept in float64, in which those of an exact engine keep their digits.
    """
    batches = feeds(_selected(setup).samples, setup.batch, setup.inputs, setup.preprocessing)
    outputs = run_all(run, batches, setup.batch, np.float64)
    again = row_sets.like(run_all(run, batches[:1], setup.batch, np.float64), outputs)
    if setup.example is None:
        return Observed(outputs, again)
    (spec,), preprocessing = setup.inputs, setup.preprocessing
    height, width = spec.size
    image = read(setup.example.content, "the encoded image", (height or 0, width or 0), preprocessing, spec.channels)
    tensor = images_in(image[None], spec, preprocessing)
    decoded = run_all(run, [{spec.name: np.repeat(tensor, setup.batch, axis=0)}], setup.batch)
    return Observed(outputs, again, tensor[0], decoded)


def decide(observed: Observed, setup: Setup) -> Fidelity:
    """Decide from its outputs whether an artifact is still the same model.

    Raises:
        DataError: The number or shape of outputs differs from the reference's.
    """
    reference, precision = setup.reference, setup.precision
    samples, expected = (chosen := _selected(setup)).samples, chosen.outputs
    population = first(reference, NATURAL, setup.batch).outputs if precision in CALIBRATED else reference.outputs
    outputs, again = observed.outputs, observed.again
    by_rows = {name for name, kind in reference.kinds.items() if kind == row_sets.KIND}  # they end in NaN
    finite = all(bool(np.isfinite(value).all()) for name, value in outputs.items() if name not in by_rows)
    terms = Terms(reference.kinds, reference.rounding, setup.slack)
    judged = verdict(expected, outputs, precision, terms, population=population)
    figures = judged.figures()
    start = {name: value[: setup.batch] for name, value in outputs.items()}
    if any(again[name].shape != value.shape for name, value in start.items()):
        raise DataError("The second run of the first batch gave outputs of another shape.")
    repeatable = all(
        np.array_equal(again[name], start[name], equal_nan=True) or _close(again[name], start[name]) for name in start
    )
    limits = judged.limits(precision, setup.slack)
    reasons = [*([] if repeatable else ["the same input gave another output the second time"]), *judged.reasons]
    unverifiable = judged.unverifiable if repeatable else ""
    level_error = None
    if setup.example is not None and observed.decoded is not None:
        level_error, wrong_input, wrong_output = _check_encoded(observed, setup.example, reference)
        reasons += [reason for reason in (wrong_input, "" if unverifiable else wrong_output) if reason]
        unverifiable = "" if wrong_input else unverifiable
    return Fidelity(
        passed=not reasons and not unverifiable,
        reference=reference.engine,
        inputs=count_of(samples),
        max_error=figures["max_error"],
        p99_error=figures["p99_error"],
        cosine=figures["cosine"],
        top1_agreement=figures["top1_agreement"],
        finite=finite,
        repeatable=repeatable,
        limits=limits,
        reasons=tuple(reasons),
        snr_db=round(figures["snr_db"], 2),
        prepared_levels=None if level_error is None else round(level_error, 3),
        unverifiable=unverifiable,
        images=_described(reference.source, count_of(samples)),
        outputs=tuple(expected),
        rounding=dict(reference.rounding),
        blind_to=(*_blind_to(setup, limits, level_error is None), *judged.blind_to),
        by_output=judged.outputs,
    )


def rounding_of(
    expected: Mapping[str, Array], exact: Mapping[str, Array], population: Mapping[str, Array]
) -> dict[str, float]:
    """Return the largest error of fp32 outputs against float64 ones, by output, of the spread; the last is as there."""
    names = dict(zip(expected, exact.values(), strict=True))
    return {
        name: judge.compare({name: names[name]}, {name: expected[name]}, population={name: population[name]})[
            "max_error"
        ]
        for name in expected
    }


def _described(source: str, count: int) -> str:
    """Say what the first samples of a source are."""
    if source != SYNTHETIC_IMAGES:
        return f"{count} samples: {source}"
    parts = [f"{min(count, NATURAL)} synthetic scenes", *("black", "white", "noise")[: max(count - NATURAL, 0)]]
    return ", ".join([*parts, *([f"{count - NATURAL - 3} more scenes"] if count > NATURAL + 3 else [])])


BELOW_NOISE = "a fault of one operator that is smaller than the noise of quantization"
"""What a check of int8 outputs cannot see."""


def _blind_to(setup: Setup, limits: Mapping[str, float], undecoded: bool) -> tuple[str, ...]:
    """Name the faults that a check cannot see."""
    texts = [f"a change of the outputs below {resolution(limits):.2g} of their spread"]
    if setup.precision in CALIBRATED:
        texts.append(BELOW_NOISE)
    texts.append("a fault that only other inputs show")
    if undecoded and image_of(setup.inputs) is not None:
        texts.append("wrong decoding or preprocessing of image files")
    return tuple(texts)


def worst(checks: Sequence[Fidelity]) -> Fidelity:
    """Return one record of several checks of the same artifact: the worst figures, every reason; all have to pass."""
    levels = [check.prepared_levels for check in checks if check.prepared_levels is not None]
    return replace(
        checks[0],
        passed=all(check.passed for check in checks),
        unverifiable=""
        if any(check.failed for check in checks)
        else next(filter(None, (c.unverifiable for c in checks)), ""),
        max_error=max(check.max_error for check in checks),
        p99_error=max(check.p99_error for check in checks),
        cosine=min(check.cosine for check in checks),
        top1_agreement=min(check.top1_agreement for check in checks),
        finite=all(check.finite for check in checks),
        repeatable=all(check.repeatable for check in checks),
        reasons=tuple(
            f"{reason} ({check.engine})" if len(checks) > 1 else reason for check in checks for reason in check.reasons
        ),
        engine="; ".join(check.engine for check in checks),
        snr_db=min((check.snr_db for check in checks if check.snr_db is not None), default=None),
        prepared_levels=max(levels, default=None),
    )


def _selected(setup: Setup) -> Reference:
    """Return the images of a check with their expected outputs, in full batches."""
    reference = setup.reference
    if setup.precision in CALIBRATED:
        reference = first(reference, NATURAL, setup.batch)
    return first(reference, setup.limit, setup.batch)


def _check_encoded(observed: Observed, example: encoded.Example, reference: Reference) -> tuple[float, str, str]:
    """Return the error of the input decoded from an encoded image, in levels of 255, and the reasons of a failure.

    They are empty if the input, and the outputs for it, are as expected.
    """
    expected, decoded = reference.outputs, observed.decoded
    if decoded is None or decoded.shape != example.tensor.shape or len(observed.of_decoded) != len(expected):
        raise DataError("The encoded image, or its outputs, have another shape than the reference.")
    level_error, wrong_input, wrong_output = encoded.level_error(decoded, example.tensor), "", ""
    if level_error > encoded.MAX_LEVEL_ERROR:
        wrong_input = (
            f"an encoded image, decoded and preprocessed here, is {level_error:.1f} levels of 255 from the reference "
            "path's input: the preprocessing differs"
        )
    both = (example.outputs, observed.of_decoded)
    pairs = (row_sets.like(dict(zip(expected, rows.values(), strict=True)), expected) for rows in both)
    want, have = (
        {name: row_sets.stacked([expected[name][:NATURAL], row[:1]]) for name, row in rows.items()} for rows in pairs
    )
    judged = verdict(want, have, "int8", Terms(reference.kinds))
    if judged.reasons:
        wrong_output = f"from an encoded image: {judged.reasons[0]}"
    return level_error, wrong_input, wrong_output


def _close(left: Array, right: Array) -> bool:
    """Return whether two runs agree but for the last bits, which a multi-threaded sum may change."""
    if not np.issubdtype(right.dtype, np.floating) or not np.isfinite(right).all():
        return False
    return bool(np.allclose(left, right, rtol=1e-5, atol=1e-6 * float(np.abs(right).max())))
