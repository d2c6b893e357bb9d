"""Losses computed by hand, and the properties of teacher dropping."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from effbench.training import losses
from effbench.training.losses import MatchedFeatures


def test_the_loss_is_zero_for_equal_features():
    x = torch.randn(3, 5, 2, 2)
    torch.testing.assert_close(torch.zeros(3), losses.feature_loss(x, x), atol=1e-6, rtol=0)


def test_the_loss_by_hand():
    student, teacher = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    # cosine distance 1; smooth L1 of 3 is 2.5, of 0.5 is 0.125
    expected = 0.5 * 1 + 0.5 * (2.5 + 0.125) / 2
    torch.testing.assert_close(torch.tensor([expected]), losses.feature_loss(student, teacher))
    torch.testing.assert_close(torch.tensor([1.0]), losses.feature_loss(student, teacher, cosine=1, smooth_l1=0))


def test_spatial_features_are_averaged_over_positions():
    student, teacher = torch.randn(2, 4, 3, 2), torch.randn(2, 4, 3, 2)
    per_position = [losses.feature_loss(student[:, :, i, j], teacher[:, :, i, j]) for i in range(3) for j in range(2)]
    torch.testing.assert_close(torch.stack(per_position).mean(0), losses.feature_loss(student, teacher))


def test_features_of_different_shapes_are_an_error():
    with pytest.raises(ValueError, match="against"):
        losses.feature_loss(torch.zeros(2, 4, 1, 1), torch.zeros(2, 4, 2, 2))


def test_a_teacher_without_spatial_features_counts_its_pooled_ones_alone():
    pooled, spatial = torch.randn(2, 3), torch.randn(2, 3, 2, 2)
    student = {"a": MatchedFeatures(pooled + 1, spatial), "b": MatchedFeatures(pooled - 1, None)}
    rows = losses.teacher_losses(student, {"a": MatchedFeatures(pooled, spatial), "b": MatchedFeatures(pooled, None)})
    expected = [losses.feature_loss(pooled + 1, pooled) / 2, losses.feature_loss(pooled - 1, pooled)]
    torch.testing.assert_close(torch.stack(expected), rows, atol=1e-6, rtol=1e-5)


@seed(0)
@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_the_teacher_with_the_largest_loss_is_always_chosen(teachers: int, images: int, drop: float, number: int):
    generator = torch.Generator().manual_seed(number)
    rows = torch.rand(teachers, images, generator=generator)
    chosen = losses.choose_teachers(rows, torch.rand(teachers, images, generator=generator), drop)
    assert (chosen.gather(0, rows.argmax(0, keepdim=True)) == 1).all()
    assert set(chosen.flatten().tolist()) <= {0.0, 1.0}


def test_other_teachers_are_dropped_with_the_given_probability():
    rows = torch.tensor([[3.0], [2.0], [1.0]]).expand(3, 20_000)
    uniform = torch.rand(3, 20_000, generator=torch.Generator().manual_seed(0))
    shares = losses.choose_teachers(rows, uniform, 0.3).mean(1)
    torch.testing.assert_close(torch.tensor([1.0, 0.7, 0.7]), shares, atol=4 * math.sqrt(0.21 / 20_000), rtol=0)


def test_losses_of_chosen_teachers_are_averaged():
    rows = torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    chosen = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert (2 + 5 + 3) / 3 == pytest.approx(losses.distillation(rows, chosen).item())


def test_parts_of_a_batch_add_up_to_the_batch():
    torch.manual_seed(0)
    rows, chosen = torch.rand(3, 8), (torch.rand(3, 8) > 0.4).float()
    logits, labels = torch.randn(8, 5), torch.tensor([0, -1, 2, -1, -1, 4, 1, -1])
    soft = [torch.randn(8, 5), torch.randn(8, 5)]
    halves = [slice(None, None, 2), slice(1, None, 2)]

    def parts(name: str) -> float:
        counts = {"chosen": chosen.sum(), "labels": (labels >= 0).sum().float(), "images": torch.tensor(8.0)}
        total = {
            "distillation": lambda s: losses.distillation(rows[:, s], chosen[:, s], lambda _: counts["chosen"]),
            "hard": lambda s: losses.hard_labels(logits[s], labels[s], 0.1, lambda _: counts["labels"]),
            "soft": lambda s: losses.soft_labels(logits[s], [x[s] for x in soft], 2.0, lambda _: counts["images"]),
        }[name]
        return sum(total(half).item() for half in halves)

    assert losses.distillation(rows, chosen).item() == pytest.approx(parts("distillation"))
    assert losses.hard_labels(logits, labels, 0.1).item() == pytest.approx(parts("hard"))
    assert losses.soft_labels(logits, soft, 2.0).item() == pytest.approx(parts("soft"))


def test_images_without_a_label_do_not_count():
    logits, labels = torch.randn(4, 3), torch.tensor([2, -1, 0, -1])
    torch.testing.assert_close(F.cross_entropy(logits[[0, 2]], labels[[0, 2]]), losses.hard_labels(logits, labels))


def test_without_labels_loss_and_gradient_are_zero():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = losses.hard_labels(logits, torch.tensor([-1, -1]))
    loss.backward()
    assert (0.0, 0.0) == (loss.item(), logits.grad.abs().sum().item())


def test_the_loss_of_soft_labels_is_minimal_at_the_teachers_mean():
    teachers = [torch.randn(6, 4), torch.randn(6, 4)]
    best = torch.stack([x.softmax(1) for x in teachers]).mean(0).log()
    assert losses.soft_labels(best, teachers).item() == pytest.approx(0, abs=1e-6)
    assert losses.soft_labels(best + torch.randn(6, 4), teachers).item() > 0.01
