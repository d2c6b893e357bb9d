"""Is it still the same model? Outputs of an artifact against expected outputs of the fp32 reference.

Errors are relative to the *spread*: the root mean square of the reference outputs after their mean over the natural
images is subtracted. A constant that all images share carries no information about the model, and an untrained
network's logits are mostly that constant; relative to the spread, it cannot hide a broken mixer, weight or layout.
Black, white and noise images can move outputs several spreads away, and rounding errors with them: their errors are
relative to their own distance from that mean if it is larger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from effbench.data.pixels import normalize, read
from effbench.deploy.artifact import encoded
from effbench.deploy.artifact.bundle import REFERENCE as REFERENCE
from effbench.deploy.artifact.synthetic import NATURAL as NATURAL
from effbench.deploy.artifact.synthetic import reference_images as reference_images
from effbench.errors import DataError
from effbench.schema import CALIBRATED, Fidelity, Preprocessing, TensorSpec

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

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


def run_all(run: Run, batches: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Run every batch and concatenate the outputs along the batch axis; copies, because a runtime may reuse buffers."""
    collected: dict[str, list[Array]] = {}
    for batch in batches:
        for name, value in run(batch).items():
            collected.setdefault(name, []).append(np.array(value, dtype=np.float32))
    return {name: np.concatenate(values) for name, values in collected.items()}


def save_reference(
    path: Path,
    images: npt.NDArray[np.uint8],
    outputs: Mapping[str, Array],
    engine: str,
    example: encoded.Example | None = None,
) -> None:
    """Write images and expected outputs: all that a device needs to verify an artifact."""
    arrays = {f"output:{name}": value for name, value in outputs.items()}
    arrays |= encoded.arrays(example) if example else {}
    np.savez(path, images=images, engine=np.array(engine), **arrays)  # type: ignore[arg-type]


def load_reference(path: Path) -> tuple[npt.NDArray[np.uint8], dict[str, Array], str]:
    """Return images, expected outputs by name, and the engine that computed them.

    Raises:
        DataError: The file is missing or not a reference.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            outputs = {name.removeprefix("output:"): data[name] for name in data.files if name.startswith("output:")}
            return data["images"], outputs, str(data["engine"])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(f"{path}: not a file of expected outputs ({error}).", hint="Export again.") from error


Reference = tuple[npt.NDArray[np.uint8], Mapping[str, Array], str]


def first(reference: Reference, limit: int | None, batch: int) -> Reference:
    """Return the first images of a reference with their expected outputs, in full batches; None takes all."""
    images, outputs, engine = reference
    if limit is None:
        return reference
    count = min(len(images), -(-limit // batch) * batch)
    return images[:count], {name: value[:count] for name, value in outputs.items()}, engine


def compare(
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    natural: int = NATURAL,
    population: Mapping[str, Array] | None = None,
) -> dict[str, float]:
    """Return the worst figures over all outputs: max_error and p99_error (of the spread), cosine, snr_db and others.

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
    worst = dict.fromkeys(("max_error", "p99_error"), max) | dict.fromkeys(
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
        "cosine": float(cosine.min()),
        "top1_agreement": float((want.argmax(axis=1) == have.argmax(axis=1)).mean()),
        "spread": spread / max(float(np.abs(want).max()), 1e-30),
        "snr_db": _signal_to_noise_db(spread**2, float(np.mean((have[:natural] - want[:natural]) ** 2))),
    }


def _signal_to_noise_db(signal: float, noise: float) -> float:
    """Return 10 log10 of signal over noise power; a constant that all images share is no signal."""
    return float(10 * np.log10(max(signal, 1e-60) / max(noise, 1e-30 * signal, 1e-90)))


def check(
    run: Run,
    reference: tuple[npt.NDArray[np.uint8], Mapping[str, Array], str],
    batch: int,
    spec: TensorSpec,
    preprocessing: Preprocessing,
    precision: str,
    example: encoded.Example | None = None,
    limit: int | None = None,
) -> Fidelity:
    """Run an artifact over the reference images and decide whether it is still the same model.

    Args:
        run: The session under test.
        reference: Images, expected outputs and the reference's name (`load_reference`).
        batch: Batch size of the session.
        spec: The session's image input.
        preprocessing: The model's.
        precision: Storage precision; selects the limits.
        example: An encoded image, to be decoded and preprocessed here.
        limit: How many images to run, in full batches; None runs all. The spread is of all images either way.

    Raises:
        DataError: The number or shape of outputs differs from the reference's.
    """
    if precision in CALIBRATED:
        reference = first(reference, NATURAL, batch)
    images, expected, engine = first(reference, limit, batch)
    population = reference[1]
    batches = feeds(images, batch, spec, preprocessing)
    outputs = run_all(run, batches)
    again = run_all(run, batches[:1])
    finite = all(bool(np.isfinite(value).all()) for value in outputs.values())
    figures = compare(expected, {name: np.nan_to_num(value) for name, value in outputs.items()}, population=population)
    start = {name: value[:batch] for name, value in outputs.items()}
    repeatable = all(
        np.array_equal(again[name], start[name], equal_nan=True) or _close(again[name], start[name]) for name in start
    )
    limits = LIMITS[precision]
    reasons = _reasons(figures, limits, finite, repeatable)
    level_error = None
    if example is not None:
        level_error, encoded_reasons = _check_encoded(run, example, population, batch, spec, preprocessing)
        reasons += encoded_reasons
    return Fidelity(
        passed=not reasons,
        reference=engine,
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
    )


def worst(checks: Sequence[Fidelity]) -> Fidelity:
    """Return one record of several checks of the same artifact: the worst figures, every reason; all have to pass."""
    levels = [check.prepared_levels for check in checks if check.prepared_levels is not None]
    return replace(
        checks[0],
        passed=all(check.passed for check in checks),
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


def _check_encoded(
    run: Run,
    example: encoded.Example,
    expected: Mapping[str, Array],
    batch: int,
    spec: TensorSpec,
    preprocessing: Preprocessing,
) -> tuple[float, list[str]]:
    """Return the error of the input decoded from an encoded image, in levels of 255, and the reasons of a failure."""
    height, width = spec.shape[2:]
    image = read(example.content, "the encoded image", (height or 0, width or 0), preprocessing, spec.shape[1] or 3)
    tensor = normalize(image[None], preprocessing, spec.dtype)
    level_error, reasons = encoded.level_error(tensor[0], example.tensor), []
    if level_error > encoded.MAX_LEVEL_ERROR:
        reasons.append(
            f"an encoded image, decoded and preprocessed here, is {level_error:.1f} levels of 255 from the reference "
            "path's input: the preprocessing differs"
        )
    outputs = run_all(run, [{spec.name: np.repeat(tensor, batch, axis=0)}])
    want, have = (
        {name: np.concatenate([expected[name][:NATURAL], row[:1]]) for name, row in zip(expected, rows, strict=True)}
        for rows in (example.outputs.values(), (np.nan_to_num(value) for value in outputs.values()))
    )
    cosine = compare(want, have)["cosine"]
    if cosine < LIMITS["int8"]["cosine"]:
        reasons.append(f"from an encoded image: cosine {cosine:.3g} is below {LIMITS['int8']['cosine']:g}")
    return level_error, reasons


def _close(left: Array, right: Array) -> bool:
    """Return whether two runs agree but for the last bits, which a multi-threaded sum may change."""
    return bool(np.allclose(left, right, rtol=1e-5, atol=1e-6 * float(np.abs(right).max())))


def _reasons(figures: Mapping[str, float], limits: Mapping[str, float], finite: bool, repeatable: bool) -> list[str]:
    reasons = []
    if not finite:
        reasons.append("an output holds NaN or infinity")
    if not repeatable:
        reasons.append("the same input gave another output the second time")
    if figures["spread"] < 1e-7:
        reasons.append("the reference outputs do not depend on the image, so nothing can be proved")
    for name, limit in limits.items():
        missed = figures[name] < limit if name == "cosine" else figures[name] > limit
        if missed:
            relation = "below" if name == "cosine" else "above"
            reasons.append(f"{name.replace('_', ' ')} {figures[name]:.3g} is {relation} {limit:g}")
    return reasons
