"""The reference path from encoded images against Pillow, which it shares no code with; and errors that it detects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from effbench.data.pixels import decode, normalize, read
from effbench.deploy.artifact import encoded, feeding, fidelity, synthetic
from effbench.deploy.artifact.synthetic import natural
from effbench.errors import UsageError
from effbench.schema import Fidelity, InputSpec, Preprocessing

SPEC = InputSpec("image", "float32", (1, 3, 32, 48))
WEIGHTS = np.random.default_rng(5).standard_normal((3 * 32 * 48, 10)).astype(np.float32) / 50
DECLARED = Preprocessing()
IMAGES = synthetic.reference_images(9, 3, (32, 48))


def model(feeds: Mapping[str, Any]) -> dict[str, Any]:
    return {"output": np.tanh(feeds["image"].reshape(len(feeds["image"]), -1) @ WEIGHTS)}


def checked(preprocessing: Preprocessing, precision: str = "fp32", batch: int = 1) -> Fidelity:
    expected = fidelity.run_all(model, feeding.feeds({SPEC.name: IMAGES}, 1, (SPEC,), DECLARED))
    example = encoded.make_example(model, (SPEC,), 1, DECLARED)
    return fidelity.check(
        model,
        fidelity.Setup(
            fidelity.Reference({"image": IMAGES}, expected, "numpy"), batch, (SPEC,), preprocessing, precision, example
        ),
    )


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_decoder_reads_the_png(channels: int):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    decoded = np.asarray(decode(encoded.png(pixels), "x.png", channels)).reshape(pixels.shape)
    assert np.array_equal(pixels, decoded)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    size=st.tuples(st.integers(8, 90), st.integers(8, 90)),
    interpolation=st.sampled_from(encoded.INTERPOLATIONS),
    crop=st.sampled_from([0.75, 0.875, 0.95, 1.0]),
    order=st.sampled_from(["RGB", "BGR"]),
)
def test_any_declared_preprocessing_passes(size: tuple[int, int], interpolation: str, crop: float, order: str):
    preprocessing = replace(DECLARED, interpolation=interpolation, crop_pct=crop, channel_order=order)
    spec = replace(SPEC, shape=(1, 3, *size))
    example = encoded.make_example(lambda feeds: {"output": feeds["image"].mean((2, 3))}, (spec,), 1, preprocessing)
    assert example is not None
    deployed = normalize(read(example.content, "x", size, preprocessing)[None], preprocessing)[0]
    assert encoded.level_error(deployed, example.tensor) < encoded.MAX_LEVEL_ERROR


@settings(max_examples=60, derandomize=True, deadline=None)
@given(old=st.integers(20, 150), new=st.integers(8, 150), name=st.sampled_from(encoded.INTERPOLATIONS[1:]))
def test_an_axis_is_resized_as_pillow_does(old: int, new: int, name: str):
    pixels = np.random.default_rng(old).integers(0, 256, (5, old), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((new, 5), Image.Resampling[name.upper()]))
    assert np.array_equal(expected, encoded.resize_axis(pixels, new, 1, name))


def test_nearest_takes_the_pixel_at_the_center():
    pixels = natural(3, (61, 97), 3).transpose(1, 2, 0)
    nearest = replace(DECLARED, interpolation="nearest")
    deployed = normalize(read(encoded.png(np.ascontiguousarray(pixels)), "x", (32, 48), nearest)[None], nearest)[0]
    assert encoded.level_error(deployed, encoded.preprocess(pixels, (32, 48), nearest)) < 0.01


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_declared_preprocessing_passes(precision: str):
    record = checked(DECLARED, precision)
    assert (True, ()) == (record.passed, record.reasons)
    assert record.prepared_levels is not None
    assert record.prepared_levels <= encoded.MAX_LEVEL_ERROR


BROKEN = {
    "channels swapped": {"channel_order": "BGR"},
    "bilinear": {"interpolation": "bilinear"},
    "lanczos": {"interpolation": "lanczos"},
    "another crop": {"crop_pct": 0.9},
    "no crop": {"crop_pct": 1.0},
    "mean and deviation swapped": {"mean": DECLARED.std, "std": DECLARED.mean},
    "mean in the other order": {"mean": DECLARED.mean[::-1]},
    "pixels up to 255": {"scale": 1.0},
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_broken_preprocessing_fails(fault: str, precision: str):
    record = checked(replace(DECLARED, **BROKEN[fault]), precision)
    assert not record.passed
    assert any("levels of 255 from the reference path's input" in reason for reason in record.reasons), record.reasons


def test_a_decoder_that_shifts_by_a_pixel_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fidelity, "read", lambda *arguments: np.roll(read(*arguments), 1, axis=2))
    assert not checked(DECLARED, "int8").passed


def test_a_runtime_that_is_wrong_only_on_the_encoded_image_fails():
    expected = fidelity.run_all(model, feeding.feeds({SPEC.name: IMAGES}, 1, (SPEC,), DECLARED))
    example = encoded.make_example(model, (SPEC,), 1, DECLARED)
    assert example is not None

    def off(feeds: Mapping[str, Any]) -> dict[str, Any]:
        wrong = encoded.level_error(feeds["image"][0], example.tensor) < encoded.MAX_LEVEL_ERROR
        return {"output": model(feeds)["output"][:, :: -1 if wrong else 1]}

    record = fidelity.check(
        off,
        fidelity.Setup(fidelity.Reference({"image": IMAGES}, expected, "numpy"), 1, (SPEC,), DECLARED, "fp32", example),
    )
    (reason,) = record.reasons
    assert reason.startswith("from an encoded image: cosine ")


def test_images_have_one_three_or_four_channels():
    assert encoded.make_example(model, (InputSpec("image", "float32", (1, 5, 32, 32)),), 1, DECLARED) is None
    with pytest.raises(UsageError, match="Interpolation 'area' is none of"):
        checked(replace(DECLARED, interpolation="area"))


def test_an_example_is_read_back(tmp_path: Any):
    example = encoded.make_example(model, (SPEC,), 1, DECLARED)
    assert example is not None
    reference = fidelity.Reference({"image": IMAGES}, model({"image": np.zeros((9, 3, 32, 48))}), "n")
    fidelity.save_reference(tmp_path / "with.npz", reference, example)
    fidelity.save_reference(tmp_path / "without.npz", reference._replace(outputs={}))
    loaded = encoded.load(tmp_path / "with.npz")
    assert loaded is not None
    assert example.content == loaded.content
    assert np.array_equal(example.tensor, loaded.tensor)
    assert np.array_equal(example.outputs["output"], loaded.outputs["output"])
    assert {"output"} == set(fidelity.load_reference(tmp_path / "with.npz")[1])
    assert encoded.load(tmp_path / "without.npz") is None
