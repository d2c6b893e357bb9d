from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.data.scenes import KINDS, scene
from effbench.deploy.artifact import feeding, fidelity, judge, synthetic
from effbench.errors import DataError
from effbench.schema import Fidelity, InputSpec, Preprocessing

SPEC = InputSpec("image", "float32", (1, 3, 32, 32))
WEIGHTS = np.random.default_rng(5).standard_normal((3 * 32 * 32, 10)).astype(np.float32) / 50
IMAGES = synthetic.reference_images(9, 3, (32, 32))


def model(feeds: Mapping[str, Any], weights: Any = WEIGHTS) -> dict[str, Any]:
    x = feeds["image"].reshape(len(feeds["image"]), -1)
    # All images share the large constant; it must not hide an error.
    return {"output": np.tanh(x @ weights) + np.float32(100)}


def setup_of(expected: dict[str, Any]) -> fidelity.Setup:
    return fidelity.Setup(fidelity.Reference({"image": IMAGES}, expected, "numpy"), 1, (SPEC,), Preprocessing(), "fp32")


def reference() -> fidelity.Reference:
    expected = fidelity.run_all(model, feeding.feeds({SPEC.name: IMAGES}, 1, (SPEC,), Preprocessing()))
    return fidelity.Reference({"image": IMAGES}, expected, "numpy")


def checked(run: Any, precision: str = "fp32") -> Fidelity:
    return fidelity.check(run, fidelity.Setup(reference(), 1, (SPEC,), Preprocessing(), precision))


def test_the_model_itself_passes() -> None:
    record = checked(model)
    assert (record.passed, record.max_error, record.top1_agreement, record.reasons) == (True, 0.0, 1.0, ())
    assert (record.inputs, record.reference) == (9, "numpy")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_wrong_weight_fails(precision: str) -> None:
    wrong = WEIGHTS.copy()
    wrong[:64] *= 1.5
    record = checked(lambda feeds: model(feeds, wrong), precision)
    assert not record.passed
    assert record.reasons


def test_the_spread_is_over_all_images_if_few_are_run() -> None:
    def shifted(feeds: Any) -> dict[str, Any]:
        return {"output": model(feeds)["output"] + np.float32(0.01)}

    full = checked(shifted, "fp16")
    few = fidelity.check(shifted, fidelity.Setup(reference(), 1, (SPEC,), Preprocessing(), "fp16", limit=2))
    assert (full.inputs, few.inputs) == (9, 2)
    assert few.snr_db == pytest.approx(full.snr_db, abs=0.01)
    expected = reference()[1]["output"][: fidelity.NATURAL].astype(np.float64)
    spread = np.sqrt(np.mean((expected - expected.mean(axis=0)) ** 2))
    assert few.max_error == pytest.approx(0.01 / spread, rel=0.01)


def test_int8_is_compared_on_natural_images_and_its_noise_is_recorded() -> None:
    def clipped(feeds: Any) -> dict[str, Any]:
        output = model(feeds)["output"]
        extreme = np.ptp(feeds["image"]) == 0
        return {"output": output * 0 if extreme else output + np.float32(0.02)}

    record = checked(clipped, "int8")
    assert (record.passed, record.inputs) == (True, fidelity.NATURAL)
    expected = reference()[1]["output"][: fidelity.NATURAL].astype(np.float64)
    power = np.mean((expected - expected.mean(axis=0)) ** 2)
    assert record.snr_db == pytest.approx(10 * np.log10(power / 4e-4), abs=0.1)
    assert not checked(clipped, "fp16").passed


def test_a_wrong_channel_order_fails() -> None:
    assert not checked(lambda feeds: model({"image": feeds["image"][:, ::-1]})).passed


def test_a_wrong_layout_fails() -> None:
    assert not checked(lambda feeds: model({"image": feeds["image"].transpose(0, 1, 3, 2)})).passed


def test_half_precision_passes_as_fp16_and_not_as_fp32() -> None:
    def half(feeds: Any) -> dict[str, Any]:
        out = model(feeds)["output"]
        noise = np.random.default_rng(int(feeds["image"].sum()) % 2**31).standard_normal(out.shape)
        return {"output": out + 4e-3 * noise}

    assert checked(half, "fp16").passed
    assert not checked(half, "fp32").passed


def test_nan_fails_and_is_named() -> None:
    record = checked(lambda feeds: {"output": np.full((1, 10), np.nan, np.float32)})
    assert not record.finite
    assert "NaN" in record.reasons[0]


def test_a_session_whose_outputs_drift_is_not_repeatable() -> None:
    calls = []

    def drifts(feeds: Any) -> dict[str, Any]:
        calls.append(1)
        return {"output": model(feeds)["output"] * (1 + 1e-4 * len(calls))}

    record = checked(drifts, "fp16")
    assert not record.repeatable


def test_a_reused_output_buffer_passes() -> None:
    buffer = np.zeros((1, 10), np.float32)

    def reuses(feeds: Any) -> dict[str, Any]:
        buffer[...] = model(feeds)["output"]
        return {"output": buffer}

    assert checked(reuses).passed


def test_constant_outputs_prove_nothing() -> None:
    def dead(feeds: Any) -> dict[str, Any]:
        return {"output": np.ones((1, 10), np.float32)}

    expected = fidelity.run_all(dead, feeding.feeds({SPEC.name: IMAGES}, 1, (SPEC,), Preprocessing()))
    record = fidelity.check(
        dead,
        setup_of(expected),
    )
    assert not record.passed
    assert "do not depend on the image" in record.unverifiable


def test_other_output_shapes_are_an_error() -> None:
    with pytest.raises(DataError, match=r"shape \[9, 5\], expected \[9, 10\]"):
        checked(lambda feeds: {"output": model(feeds)["output"][:, :5]})
    with pytest.raises(DataError, match="2 outputs, expected 1"):
        checked(lambda feeds: {**model(feeds), "more": np.ones((1, 1), np.float32)})


def test_renamed_outputs_are_matched_by_order() -> None:
    assert checked(lambda feeds: {"logits:0": model(feeds)["output"]}).passed


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.floats(1e-3, 1.0), st.floats(-1e3, 1e3))
def test_errors_do_not_depend_on_scale_or_offset(scale: float, offset: float) -> None:
    rng = np.random.default_rng(3)
    want = rng.standard_normal((9, 20))
    have = want + 1e-2 * rng.standard_normal((9, 20))
    plain = judge.compare({"a": want}, {"a": have})
    moved = judge.compare({"a": want * scale + offset}, {"a": have * scale + offset})
    assert moved["max_error"] == pytest.approx(plain["max_error"], rel=1e-3)
    assert moved["cosine"] == pytest.approx(plain["cosine"], rel=1e-3)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (33, 47)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_reference_images_have_the_stated_shape_and_extremes(size: tuple[int, int], channels: int) -> None:
    images = synthetic.reference_images(10, channels, size)
    assert images.shape == (10, channels, *size)
    assert images.dtype == np.uint8
    assert (images[fidelity.NATURAL] == 0).all()
    assert (images[fidelity.NATURAL + 1] == 255).all()
    assert np.array_equal(images, synthetic.reference_images(10, channels, size))


def test_natural_images_are_of_six_kinds_and_so_are_further_ones() -> None:
    images = synthetic.reference_images(fidelity.NATURAL + 3 + len(KINDS), 3, (64, 64))
    for index in (*range(fidelity.NATURAL), *range(fidelity.NATURAL + 3, len(images))):
        assert np.array_equal(images[index], scene(3, (64, 64), index, KINDS[index % len(KINDS)]))
    assert fidelity.NATURAL == len(KINDS)


def test_image_counts_fill_whole_batches() -> None:
    for batch in (1, 2, 4, 8, 32):
        count = fidelity.count_for(batch)
        assert count % batch == 0
        assert count >= fidelity.NATURAL + 3
        assert [
            len(f["image"])
            for f in feeding.feeds({SPEC.name: IMAGES[: batch * (9 // batch)]}, batch, (SPEC,), Preprocessing())
        ] == [batch] * (9 // batch)


def test_preprocessing_scales_and_normalizes() -> None:
    image = np.full((1, 3, 2, 2), 255, np.uint8)
    (feed,) = feeding.feeds({SPEC.name: image}, 1, (SPEC,), Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 2.0)))
    assert np.allclose(feed["image"][0, :, 0, 0], [1.0, 1.5, 0.5])


def test_a_reference_is_read_back(tmp_path: Path) -> None:
    saved = reference()._replace(engine="torch 2", source="photographs", rounding={"output": 3e-6})
    fidelity.save_reference(tmp_path / "reference.npz", saved)
    loaded = fidelity.load_reference(tmp_path / "reference.npz")
    assert (loaded.engine, loaded.source, loaded.rounding) == ("torch 2", "photographs", {"output": 3e-6})
    assert np.array_equal(loaded.samples["image"], saved.samples["image"])
    assert np.array_equal(loaded.outputs["output"], saved.outputs["output"])


def test_a_damaged_reference_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reference.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match="not a file of NumPy arrays"):
        fidelity.load_reference(tmp_path / "reference.npz")


def test_an_image_near_the_mean_may_have_the_noise_of_the_others() -> None:
    rng = np.random.default_rng(0)
    want = rng.normal(size=(fidelity.NATURAL, 1000))
    want[3] = 0.1 * want[3] + np.delete(want, 3, axis=0).mean(axis=0)
    noise = 0.05 * rng.normal(size=want.shape)
    center = want.mean(axis=0)
    left, right = want[3] - center, want[3] + noise[3] - center
    assert left @ right / np.linalg.norm(left) / np.linalg.norm(right) < 0.95
    assert judge.compare({"y": want}, {"y": want + noise})["cosine"] > 0.995
    # That does not excuse an image with the outputs of another, nor constant outputs.
    moved = want + noise
    moved[2] = moved[1]
    assert judge.compare({"y": want}, {"y": moved})["cosine"] < 0.2
    assert judge.compare({"y": want}, {"y": np.tile(center, (fidelity.NATURAL, 1))})["cosine"] < 0.2


@pytest.mark.parametrize(
    ("rounding", "error", "reported"),
    [
        (1e-5, 5e-5, True),  # passes, and the model is far more exact than the limit
        (1e-6, 5e-4, True),  # fails, although below a thousandth of the spread: the model is far more exact
        (8e-4, 1e-4, False),  # passes by chance: the model itself is no more exact
        (1e-6, 1e-2, True),  # fails, and rounding does not explain it
        (2e-3, 1e-2, False),  # rounding explains the failure
        (2e-3, 1.0, True),  # rounding does not explain so much
    ],
)
def test_the_models_own_rounding_is_the_floor(rounding: float, error: float, reported: bool) -> None:
    rounded = reference()._replace(rounding={"output": rounding})
    spread = np.sqrt(np.mean((rounded[1]["output"][:6] - rounded[1]["output"][:6].mean(axis=0)) ** 2))

    def shifted(feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {"output": model(feeds)["output"].astype(np.float64) + error * spread}

    record = fidelity.check(shifted, fidelity.Setup(rounded, 1, (SPEC,), Preprocessing(), "fp32"))
    assert bool(record.unverifiable) != reported
    assert record.passed == (reported and error < 1e-4)
    assert record.failed == (reported and error > 1e-4)
    if not reported:
        assert f"own rounding in fp32 is {rounding:.2g} of the spread of 'output'" in record.unverifiable
        assert "the limit is 0.001" in record.unverifiable


def test_constant_outputs_that_agree_are_unverifiable_and_others_fail() -> None:
    def constant(value: float) -> fidelity.Run:
        return lambda feeds: {"output": np.full((1, 10), value, np.float32)}

    expected = fidelity.run_all(constant(1), feeding.feeds({SPEC.name: IMAGES}, 1, (SPEC,), Preprocessing()))
    setup = fidelity.Setup(
        fidelity.Reference({"image": IMAGES}, expected, "numpy"), 1, (SPEC,), Preprocessing(), "fp32"
    )
    same, other = (fidelity.check(constant(value), setup) for value in (1, 2))
    assert "do not depend on the image" in same.unverifiable
    assert (same.proved, other.proved) == (None, False)


def test_a_record_says_what_was_compared() -> None:
    record = fidelity.check(model, fidelity.Setup(reference(), 1, (SPEC,), Preprocessing(), "fp32"))
    assert record.images == "6 synthetic scenes, black, white, noise"
    assert record.outputs == ("output",)
    assert "a change of the outputs below 0.001 of their spread" in record.blind_to
    assert "wrong decoding or preprocessing of image files" in record.blind_to
    few = fidelity.check(model, fidelity.Setup(reference(), 1, (SPEC,), Preprocessing(), "int8", limit=2))
    assert few.images == "2 synthetic scenes"
    assert any("quantization" in text for text in few.blind_to)
    photographs = reference()._replace(source="held out of the folder 'photos'")
    record = fidelity.check(model, fidelity.Setup(photographs, 1, (SPEC,), Preprocessing(), "fp32"))
    assert record.images == "9 samples: held out of the folder 'photos'"
