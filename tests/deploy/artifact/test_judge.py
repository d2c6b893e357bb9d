from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from effbench.deploy.artifact import kinds
from effbench.deploy.artifact.judge import OutputVerdict, Terms, own_rounding, verdict
from effbench.errors import DataError, UsageError

RNG = np.random.default_rng(3)
LOGITS = RNG.standard_normal((9, 20)).astype(np.float32)


def judged(
    want: Any, have: Any, kind: str = "features", precision: str = "fp32", rounding: Any = None
) -> OutputVerdict:
    terms = Terms({"y": kind}, {} if rounding is None else {"y": rounding})
    return verdict({"y": np.asarray(want)}, {"y": np.asarray(have)}, precision, terms)


def test_a_failure_names_the_output_the_element_and_both_values() -> None:
    wrong = LOGITS.copy()
    wrong[2, 7] += 0.5
    (reason,) = judged(LOGITS, wrong).reasons
    spread = float(np.sqrt(((LOGITS[:6] - LOGITS[:6].mean(0)) ** 2).mean()))
    assert reason == (
        f"max error {0.5 / spread:.3g} is above 0.001 of the spread: output 'y', element [7] of image 2: "
        f"expected {LOGITS[2, 7]:.6g}, observed {wrong[2, 7]:.6g}"
    )


def test_the_limit_follows_the_models_own_rounding() -> None:
    nearly = LOGITS * (1 + 2e-4)
    assert not judged(LOGITS, nearly).reasons
    assert judged(LOGITS, nearly, rounding=1e-6).reasons
    assert not judged(LOGITS, nearly, rounding=1e-4).reasons


def test_a_fault_in_one_exact_channel_is_not_hidden_by_the_rounding_of_another() -> None:
    wrong = LOGITS.copy()
    wrong[:, 3] *= 1 + 1e-3
    rounding = np.full(20, 1e-7)
    rounding[11] = 2e-5
    assert "element [3]" in judged(LOGITS, wrong, rounding=rounding).reasons[0]


def test_an_error_within_the_models_own_rounding_proves_nothing() -> None:
    result = judged(LOGITS, LOGITS * 1.03, rounding=0.02)
    assert result.reasons == ()
    assert "own rounding" in result.unverifiable
    assert judged(LOGITS, -LOGITS, rounding=0.02).reasons


def test_own_rounding_is_by_channel_and_relative_to_the_spread() -> None:
    double = LOGITS.astype(np.float64)
    double[:, 4] += 1e-3
    rounding = own_rounding({"y": LOGITS}, {"y": double})["y"]
    spread = float(np.sqrt(((LOGITS[:6] - LOGITS[:6].mean(0)) ** 2).mean()))
    assert rounding.shape == (20,)
    assert rounding[4] == pytest.approx(1e-3 / spread, rel=1e-3)
    assert not rounding[:4].any()


def test_a_sparse_map_that_is_zero_on_every_scene_has_an_absolute_scale_and_says_what_it_hides() -> None:
    zero = np.zeros((9, 1, 8, 8), np.float32)
    almost = zero + np.float32(1e-7)
    result = judged(zero, almost, "probabilities")
    assert (result.reasons, result.unverifiable) == ((), "")
    assert result.blind_to == ("a fault that leaves 'y' near zero, as it is here",)
    assert judged(zero, zero + 1e-5, "probabilities").reasons
    assert judged(zero, zero + 0.1, "probabilities").reasons
    terms = Terms({"map": "probabilities", "y": "logits"})
    both = verdict({"map": zero, "y": LOGITS}, {"map": almost, "y": LOGITS}, "fp32", terms)
    assert (both.reasons, both.unverifiable) == ((), "")


@pytest.mark.parametrize(("precision", "within", "beyond"), [("fp32", 1e-5, 2e-4), ("int8", 5e-2, 0.2)])
def test_a_constant_output_beside_others_is_compared_by_value(precision: str, within: float, beyond: float) -> None:
    """Its last bits differ between images, which is rounding; the other output still proves the model."""
    constant = np.full((9, 4), 3.0, np.float32) + RNG.standard_normal((9, 4)).astype(np.float32) * np.float32(2e-7)
    expected = {"constant": constant, "y": LOGITS}
    terms = Terms({}, {"constant": 0.4, "y": 1e-6})
    for error, right in ((within, True), (beyond, False)):
        result = verdict(expected, {"constant": constant * np.float32(1 + error), "y": LOGITS}, precision, terms)
        assert (not result.reasons, result.unverifiable) == (right, ""), result
        assert "a fault of 'constant' alone, which is the same for all images" in result.blind_to
    alone = verdict({"constant": constant}, {"constant": constant}, precision, terms)
    assert "do not depend on the image" in alone.unverifiable


def test_probabilities_near_zero_are_not_held_to_the_spread_of_their_tails() -> None:
    tails = np.abs(RNG.standard_normal((9, 1, 8, 8))).astype(np.float32) * 1e-6
    assert not judged(tails, tails + np.float32(3e-8), "probabilities").reasons
    assert judged(tails, tails + np.float32(3e-8), "features").reasons


def test_a_small_probability_may_differ_by_the_last_bits_of_one() -> None:
    small = (0.01 + 1e-4 * RNG.standard_normal((9, 1, 8, 8))).astype(np.float32)
    for kind, passes in (("probabilities", True), ("features", False)):
        terms = Terms({"y": kind}, {"y": np.array(1e-9)})
        assert passes is not bool(verdict({"y": small}, {"y": small + np.float32(2e-7)}, "fp32", terms).reasons)


def test_an_output_that_is_the_same_for_every_image_has_to_stay_the_same() -> None:
    anchors = np.tile(RNG.standard_normal((1, 30, 4)), (9, 1, 1)).astype(np.float32)
    terms = Terms({"anchors": "boxes", "y": "logits"})
    assert not verdict({"anchors": anchors, "y": LOGITS}, {"anchors": anchors, "y": LOGITS}, "fp32", terms).reasons
    moved = verdict({"anchors": anchors, "y": LOGITS}, {"anchors": anchors * 1.02, "y": LOGITS}, "fp32", terms)
    assert "output 'anchors'" in moved.reasons[0]


def test_swapped_outputs_fail() -> None:
    other = RNG.standard_normal((9, 20)).astype(np.float32)
    assert verdict({"a": LOGITS, "b": other}, {"a": other, "b": LOGITS}, "fp32").reasons
    assert verdict({"a": LOGITS, "b": other}, {"a": other, "b": LOGITS}, "int8").reasons


def test_integers_are_compared_exactly_and_a_mask_by_the_share_of_labels() -> None:
    classes = RNG.integers(0, 1000, (9, 5))
    assert not judged(classes, classes, "integers").reasons
    wrong = classes.copy()
    wrong[4, 2] += 1
    (reason,) = judged(classes, wrong, "integers").reasons
    assert f"element [2] of image 4: expected {classes[4, 2]}, observed {wrong[4, 2]}" in reason
    labels = RNG.integers(0, 5, (9, 100, 100))
    flipped = labels.copy()
    flipped[0, 0, :5] += 1  # 5 of 90000 pixels on a border between classes
    assert not judged(labels, flipped, "mask").reasons
    assert judged(labels, labels[:, ::-1], "mask").reasons


def test_large_integers_are_not_rounded() -> None:
    big = np.full((9, 2), 2**40, np.int64) + np.arange(9)[:, None]
    assert judged(big, big + 1, "integers").reasons


def test_booleans() -> None:
    value = RNG.random((9, 50)) > 0.5
    assert not judged(value, value, "booleans").reasons
    assert judged(value, ~value, "booleans").reasons


def test_the_agreement_of_labels_of_a_mask_is_by_pixel() -> None:
    mask = RNG.standard_normal((9, 4, 10, 10)).astype(np.float32)
    other = mask.copy()
    other[:, :, 0] = -other[:, :, 0]
    agreement = judged(mask, other, "mask").outputs[0].top1_agreement
    assert 0.9 <= agreement < 1


def detections() -> dict[str, Any]:
    scores = -np.sort(-RNG.random((9, 10)).astype(np.float32), axis=1)
    scores[:, 4] = scores[:, 3] - np.float32(1e-7)
    boxes = RNG.random((9, 10, 4)).astype(np.float32) * 200
    return {"scores": scores, "boxes": boxes, "labels": RNG.integers(0, 80, (9, 10))}


DETECTED = {"scores": "scores", "boxes": "boxes", "labels": "integers"}


def test_near_tied_rows_may_swap_and_others_may_not() -> None:
    want = detections()
    order = np.arange(10)
    order[[3, 4]] = 4, 3
    have = {"scores": want["scores"], "boxes": want["boxes"][:, order], "labels": want["labels"][:, order]}
    assert verdict(want, have, "fp32", Terms(DETECTED)).reasons == ()
    order = np.arange(10)
    order[[0, 5]] = 5, 0
    have = {name: value[:, order] if name != "scores" else value for name, value in want.items()}
    assert verdict(want, have, "fp32", Terms(DETECTED)).reasons


def test_a_row_at_the_end_may_give_way_to_one_of_the_same_score() -> None:
    want = detections()
    have = {name: value.copy() for name, value in want.items()}
    have["boxes"][:, 9] += 50
    have["labels"][:, 9] += 1
    assert verdict(want, have, "fp32", Terms(DETECTED)).reasons == ()
    have["boxes"][:, 2] += 50
    assert verdict(want, have, "fp32", Terms(DETECTED)).reasons


def test_a_box_that_moved_fails_although_its_score_ties() -> None:
    want = detections()
    have = {name: value.copy() for name, value in want.items()}
    have["boxes"][:, 3] *= np.float32(1.02)
    assert verdict(want, have, "fp32", Terms(DETECTED)).reasons


@pytest.mark.parametrize(
    ("name", "value", "writer", "kind"),
    [
        ("output", LOGITS, "Gemm", "logits"),
        ("p", np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True), "Softmax", "probabilities"),
        ("map", RNG.random((9, 1, 64, 64)), "Sigmoid", "probabilities"),
        ("out", RNG.standard_normal((9, 21, 64, 64)), "Conv", "mask"),
        ("out", RNG.standard_normal((9, 256, 2, 2)), "Conv", "features"),
        ("boxes", RNG.random((9, 10, 4)), "Concat", "boxes"),
        ("values", -np.sort(-RNG.random((9, 10)), axis=1), "TopK", "scores"),
        ("labels", RNG.integers(0, 9, (9, 10)), "TopK", "integers"),
        ("labels", RNG.integers(0, 9, (9, 64, 64)), "ArgMax", "mask"),
        ("text", RNG.standard_normal((9, 40, 97)), "MatMul", "sequence"),
        ("on", RNG.random((9, 4)) > 0.5, "Greater", "booleans"),
    ],
)
def test_kinds_are_guessed(name: str, value: Any, writer: str, kind: str) -> None:
    assert kinds.guess(name, value, (64, 64), writer) == kind


def test_a_users_word_wins_and_a_wrong_one_is_refused() -> None:
    assert kinds.chosen({"y": "logits"}, kinds.parse(["y=features"])) == {"y": "features"}
    with pytest.raises(UsageError, match="Unknown kind of output 'logit'"):
        kinds.parse(["y=logit"])
    with pytest.raises(UsageError, match="Unknown output 'z'"):
        kinds.chosen({"y": "logits"}, {"z": "features"})
    with pytest.raises(UsageError, match="is not NAME=KIND"):
        kinds.parse(["features"])


def test_the_batch_axis_is_found() -> None:
    time_first = RNG.standard_normal((7, 2, 5))
    assert np.array_equal(kinds.images_first([time_first], [2])[0], time_first.transpose(1, 0, 2))
    assert kinds.images_first([RNG.standard_normal((7, 5))], [2])[0].shape == (1, 7, 5)
    by_image = kinds.images_first([np.zeros((1, 3)), np.zeros((4, 3))], [1, 1])  # one row, then four: no batch axis
    assert [(1, 1, 3), (1, 4, 3)] == [value.shape for value in by_image]


def test_other_shapes_are_an_error() -> None:
    with pytest.raises(DataError, match=r"output 'y' has shape \[9, 19\], expected \[9, 20\]"):
        judged(LOGITS, LOGITS[:, :19])
