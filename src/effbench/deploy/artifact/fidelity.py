"""Is it still the same model? Run an artifact over the reference images and compare its outputs with the expected ones.

`judge` compares and decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from effbench import reading
from effbench.data.pixels import normalize, read
from effbench.deploy.artifact import encoded, judge, kinds
from effbench.deploy.artifact.bundle import REFERENCE as REFERENCE
from effbench.deploy.artifact.judge import Terms, verdict
from effbench.deploy.artifact.limits import resolution
from effbench.deploy.artifact.synthetic import NATURAL as NATURAL
from effbench.deploy.artifact.synthetic import reference_images as reference_images
from effbench.errors import DataError
from effbench.schema import CALIBRATED, Fidelity, Preprocessing, TensorSpec

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def count_for(batch: int) -> int:
    """Return how many images a check takes: full batches that hold at least the natural and the extreme images."""
    runs = max(3, -(-(NATURAL + 3) // batch))
    return runs * batch


def feeds(
    images: npt.NDArray[np.uint8], batch: int, spec: TensorSpec, preprocessing: Preprocessing
) -> list[dict[str, Array]]:
    """Return the input of each batch: the images scaled and normalized as the model's preprocessing declares."""
    tensors = normalize(images, preprocessing, spec.dtype)
    return [{spec.name: tensors[start : start + batch]} for start in range(0, len(tensors), batch)]


def run_all(run: Run, batches: Sequence[Mapping[str, Array]], dtype: type[Any] = np.float32) -> dict[str, Array]:
    """Run every batch and return the outputs, images first; copies, because a runtime may reuse buffers.

    The batch axis is found by its length (`kinds.images_first`); integers keep their type, other numbers get ``dtype``.
    """
    collected: dict[str, list[Array]] = {}
    for batch in batches:
        count = len(next(iter(batch.values())))
        for name, value in run(batch).items():
            array = np.asarray(value)
            floating = np.issubdtype(array.dtype, np.floating)
            copy = np.array(array, dtype=dtype if floating else array.dtype)
            collected.setdefault(name, []).append(kinds.images_first(copy, count))
    return {name: np.concatenate(values) for name, values in collected.items()}


SYNTHETIC_IMAGES = f"{NATURAL} synthetic scenes, then black, white, noise and further scenes"


class Reference(NamedTuple):
    """Images and the outputs that the model has for them.

    ``engine`` computed ``outputs``; ``source`` says what the images are; ``rounding`` is the model's own
    (`rounding_of`), by output, and empty if it is unknown; ``kinds`` says how each output is judged.
    """

    images: npt.NDArray[np.uint8]
    outputs: Mapping[str, Array]
    engine: str
    source: str = SYNTHETIC_IMAGES
    rounding: Mapping[str, float] = MappingProxyType({})
    kinds: Mapping[str, str] = MappingProxyType({})


def save_reference(path: Path, reference: Reference, example: encoded.Example | None = None) -> None:
    """Write images and expected outputs: all that a device needs to verify an artifact."""
    arrays = {f"output:{name}": value for name, value in reference.outputs.items()}
    arrays |= {f"rounding:{name}": np.array(value) for name, value in reference.rounding.items()}
    arrays |= {f"kind:{name}": np.array(value) for name, value in reference.kinds.items()}
    arrays |= {name: np.array(text) for name, text in (("engine", reference.engine), ("source", reference.source))}
    arrays |= encoded.arrays(example) if example else {}
    np.savez(path, images=reference.images, **arrays)  # type: ignore[arg-type]


def load_reference(path: Path) -> Reference:
    """Read a file of expected outputs.

    Raises:
        DataError: The file is missing or not a reference.
    """
    try:
        data = reading.arrays(path)
        outputs, rounding, stored = (
            {name.removeprefix(prefix): data[name] for name in data if name.startswith(prefix)}
            for prefix in ("output:", "rounding:", "kind:")
        )
        own = {name: float(value) for name, value in rounding.items()}
        by_kind = {name: str(value) for name, value in stored.items()}
        return Reference(data["images"], outputs, str(data["engine"]), str(data["source"]), own, by_kind)
    except KeyError as error:
        raise DataError(f"{path}: not a file of expected outputs (no {error}).", hint="Export again.") from error


def first(reference: Reference, limit: int | None, batch: int) -> Reference:
    """Return the first images of a reference with their expected outputs, in full batches; None takes all."""
    if limit is None:
        return reference
    count = min(len(reference.images), -(-limit // batch) * batch)
    outputs = {name: value[:count] for name, value in reference.outputs.items()}
    return reference._replace(images=reference.images[:count], outputs=outputs)


@dataclass(frozen=True)
class Setup:
    """What a check compares with, and how it feeds the session.

    Attributes:
        reference: Images and expected outputs.
        batch: Batch size of the session.
        spec: The session's image input.
        preprocessing: The model's.
        precision: Storage precision; selects the limits.
        example: An encoded image, to be decoded and preprocessed here.
        limit: How many images to run, in full batches; None runs all. The spread is of all images either way.
        slack: How many times the limits an error may be.
    """

    reference: Reference
    batch: int
    spec: TensorSpec
    preprocessing: Preprocessing
    precision: str
    example: encoded.Example | None = None
    limit: int | None = None
    slack: float = 1.0


def check(run: Run, setup: Setup) -> Fidelity:
    """Run an artifact over the reference images and decide whether it is still the same model.

    Raises:
        DataError: The number or shape of outputs differs from the reference's.
    """
    reference, batch, precision = setup.reference, setup.batch, setup.precision
    if precision in CALIBRATED:
        reference = first(reference, NATURAL, batch)
    images, expected = first(reference, setup.limit, batch)[:2]
    population = reference.outputs
    batches = feeds(images, batch, setup.spec, setup.preprocessing)
    # In float64 the outputs of an exact engine keep their digits.
    outputs = run_all(run, batches, np.float64)
    again = run_all(run, batches[:1], np.float64)
    finite = all(bool(np.isfinite(value).all()) for value in outputs.values())
    terms = Terms(reference.kinds, reference.rounding, setup.slack)
    judged = verdict(expected, outputs, precision, terms, population=population)
    figures = judged.figures()
    start = {name: value[:batch] for name, value in outputs.items()}
    repeatable = all(
        np.array_equal(again[name], start[name], equal_nan=True) or _close(again[name], start[name]) for name in start
    )
    limits = judged.limits(precision, setup.slack)
    reasons = [*([] if repeatable else ["the same input gave another output the second time"]), *judged.reasons]
    unverifiable = judged.unverifiable if repeatable else ""
    level_error = None
    if setup.example is not None:
        level_error, wrong_input, wrong_output = _check_encoded(run, setup.example, setup)
        reasons += [reason for reason in (wrong_input, "" if unverifiable else wrong_output) if reason]
        unverifiable = "" if wrong_input else unverifiable
    return Fidelity(
        passed=not reasons and not unverifiable,
        reference=reference.engine,
        inputs=len(images),
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
        images=_described(reference.source, len(images)),
        outputs=tuple(expected),
        rounding=dict(reference.rounding),
        blind_to=_blind_to(setup, limits),
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
    """Say what the first images of a source are."""
    if source != SYNTHETIC_IMAGES:
        return f"{count} images: {source}"
    parts = [f"{min(count, NATURAL)} synthetic scenes", *("black", "white", "noise")[: max(count - NATURAL, 0)]]
    return ", ".join([*parts, *([f"{count - NATURAL - 3} more scenes"] if count > NATURAL + 3 else [])])


def _blind_to(setup: Setup, limits: Mapping[str, float]) -> tuple[str, ...]:
    """Name the faults that a check cannot see."""
    texts = [f"a change of the outputs below {resolution(limits):.2g} of their spread"]
    if setup.precision in CALIBRATED:
        texts.append("a fault of one operator that is smaller than the noise of quantization")
    texts.append("a fault that only other images show")
    if setup.example is None:
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


def _check_encoded(run: Run, example: encoded.Example, setup: Setup) -> tuple[float, str, str]:
    """Return the error of the input decoded from an encoded image, in levels of 255, and the reasons of a failure.

    They are empty if the input, and the outputs for it, are as expected.
    """
    spec, preprocessing, expected = setup.spec, setup.preprocessing, setup.reference.outputs
    height, width = spec.shape[2:]
    image = read(example.content, "the encoded image", (height or 0, width or 0), preprocessing, spec.shape[1] or 3)
    tensor = normalize(image[None], preprocessing, spec.dtype)
    level_error, wrong_input, wrong_output = encoded.level_error(tensor[0], example.tensor), "", ""
    if level_error > encoded.MAX_LEVEL_ERROR:
        wrong_input = (
            f"an encoded image, decoded and preprocessed here, is {level_error:.1f} levels of 255 from the reference "
            "path's input: the preprocessing differs"
        )
    outputs = run_all(run, [{spec.name: np.repeat(tensor, setup.batch, axis=0)}])
    want, have = (
        {name: np.concatenate([expected[name][:NATURAL], row[:1]]) for name, row in zip(expected, rows, strict=True)}
        for rows in (example.outputs.values(), outputs.values())
    )
    judged = verdict(want, have, "int8", Terms(setup.reference.kinds))
    if judged.reasons:
        wrong_output = f"from an encoded image: {judged.reasons[0]}"
    return level_error, wrong_input, wrong_output


def _close(left: Array, right: Array) -> bool:
    """Return whether two runs agree but for the last bits, which a multi-threaded sum may change."""
    if not np.issubdtype(right.dtype, np.floating):
        return False
    return bool(np.allclose(left, right, rtol=1e-5, atol=1e-6 * float(np.abs(right).max())))
