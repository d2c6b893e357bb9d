"""Samples of inputs by role, and the batches that a model is fed with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effbench.deploy.artifact import feeding
from effbench.errors import DataError
from effbench.schema import InputSpec, Preprocessing

NONE = Preprocessing(mean=(0.0,), std=(1.0,), scale=1.0)
"""Pixels as they are."""


def spec_of(shape: tuple[int | None, ...], dtype: str = "float32", **fields: object) -> InputSpec:
    return InputSpec("x", dtype, shape, **{"layout": "", "role": "normal", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("NCHW", (2, 3, 8, 12)), ("NHWC", (2, 8, 12, 3)), ("CHW", (3, 8, 12)), ("HWC", (8, 12, 3))],
)
def test_an_image_comes_in_the_layout_of_its_input(layout: str, shape: tuple[int, ...]) -> None:
    axis = 0 if "N" in layout else None
    inputs = (InputSpec("x", "uint8", shape, layout=layout, batch_axis=axis),)
    samples = feeding.synthetic(inputs, 2)
    assert (2, 3, 8, 12) == samples["x"].shape
    batch = 2 if axis == 0 else 1
    feed = feeding.feeds(samples, batch, inputs, NONE)[0]["x"]
    assert (shape, np.uint8) == (feed.shape, feed.dtype)
    first = feed[0] if axis == 0 else feed
    assert np.array_equal(samples["x"][0, 1], np.moveaxis(first, layout.replace("N", "").index("C"), 0)[1])


@pytest.mark.parametrize("layout", ["NHW", "HW"])
def test_an_input_without_channels_takes_gray_images(layout: str) -> None:
    shape = (1, 8, 12) if layout == "NHW" else (8, 12)
    inputs = (InputSpec("x", "float32", shape, layout=layout, batch_axis=0 if layout == "NHW" else None),)
    assert shape == feeding.feeds(feeding.synthetic(inputs, 1), 1, inputs, NONE)[0]["x"].shape


def test_two_images_differ() -> None:
    inputs = tuple(InputSpec(name, "float32", (1, 3, 8, 8)) for name in "ab")
    samples = feeding.synthetic(inputs, 2)
    assert not np.array_equal(samples["a"], samples["b"])


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [
        (spec_of((1, 50), "int64", role="tokens", vocabulary=7), 0, 6),
        (spec_of((1, 50), role="uniform"), 0, 1),
        (spec_of((1, 50), "int32", role="constant", value=16000.0), 16000, 16000),
    ],
)
def test_values_lie_in_the_range_of_their_role(spec: InputSpec, low: float, high: float) -> None:
    values = feeding.synthetic((spec,), 3)["x"]
    assert spec.dtype == values.dtype.name
    assert low <= values.min() <= values.max() <= high


def test_the_size_is_that_of_the_image() -> None:
    inputs = (InputSpec("i", "float32", (1, 3, 8, 12)), spec_of((1, 2), "int64", role="size"))
    assert [[8, 12]] == feeding.synthetic(inputs, 1)["x"][0].tolist()


def test_a_batch_axis_that_is_not_the_first() -> None:
    spec = spec_of((5, 2, 4), batch_axis=1)
    samples = feeding.synthetic((spec,), 4)
    feeds = feeding.feeds(samples, 2, (spec,), NONE)
    assert [(5, 2, 4)] * 2 == [feed["x"].shape for feed in feeds]
    assert np.array_equal(feeds[1]["x"][:, 0], samples["x"][2][:, 0])


def test_samples_are_the_same_for_the_same_signature_and_others_for_another_seed() -> None:
    spec = spec_of((1, 4))
    first, again, other = (feeding.synthetic((spec,), 2, seed)["x"] for seed in (0, 0, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("shape", [(3, 4), (3, 1, 4)])
def test_a_file_counts_samples_along_the_batch_or_in_front(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(shape)
    np.savez(tmp_path / "s.npz", x=values)
    samples = feeding.from_file(tmp_path / "s.npz", (spec_of((1, 4)),), 5)["x"]
    assert (5, 1, 4) == samples.shape
    assert np.array_equal(samples[4, 0], values.reshape(3, 4)[1])


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("y", np.zeros((2, 4), np.float32), "has no input 'y'"),
        ("x", np.zeros((2, 5), np.float32), "shape .*samplesx1x4 is needed"),
        ("x", np.zeros((0, 4), np.float32), "hold \\[0\\] samples"),
        ("x", np.zeros((2, 4), "U3"), "holds"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(name: str, array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", **{name: array})
    with pytest.raises(DataError, match=message):
        feeding.from_file(tmp_path / "s.npz", (spec_of((1, 4)),), 5)


def test_a_scalar_is_an_array() -> None:
    spec = InputSpec("rate", "int64", (), role="constant", batch_axis=None, value=16000)
    (feed,) = feeding.feeds(feeding.synthetic([spec], 1), 1, [spec], Preprocessing())
    assert isinstance(feed["rate"], np.ndarray), "ONNX Runtime takes no number"
    assert ((), 16000) == (feed["rate"].shape, int(feed["rate"]))


@pytest.mark.parametrize("shape", [(1, 3, 1 << 40, 64), (1, 1 << 40)])
def test_a_shape_that_no_memory_holds_is_refused(shape: tuple[int, ...]) -> None:
    spec = InputSpec("x", "float32", shape, role="image" if len(shape) == 4 else "normal")
    with pytest.raises(DataError, match=r"'x' of shape .* takes"):
        feeding.synthetic([spec], 3)


def test_a_batch_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(DataError, match="for 1099511627776 samples"):
        feeding.synthetic([InputSpec("x", "float32", (1 << 40, 3, 64, 64))], 1 << 40)
