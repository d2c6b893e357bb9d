"""Features in every form that networks return."""

from __future__ import annotations

import pytest
import small_training as small
import torch
from torch import Tensor, nn

from effbench.errors import UsageError
from effbench.training.features import as_maps, observe, to_grid
from effbench.training.views import Order, labels_of, prepare


def test_one_pass_returns_maps_pooled_and_logits():
    model, x = small.net().eval(), torch.randn(2, 3, 16, 16)
    features = observe(model, x)
    expected = model.forward_features(x)
    assert [(2, 8, 8, 8), (2, 16, 4, 4)] == [tuple(item.shape) for item in features.maps]
    torch.testing.assert_close(expected[-1].mean((2, 3)), features.pooled)
    torch.testing.assert_close(model(x), features.logits)
    assert "forward_features" not in vars(model)


def test_a_model_without_forward_features_has_its_last_map():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    )
    features = observe(model, torch.randn(2, 3, 16, 16))
    assert [(2, 6), (2, 5)] == [tuple(features.pooled.shape), tuple(features.logits.shape)]
    assert [(2, 6, 5, 5)] == [tuple(item.shape) for item in features.maps]


def test_tokens_become_a_grid():
    tokens = torch.randn(2, 1 + 9, 4)
    (grid,), pooled = as_maps(tokens)
    torch.testing.assert_close(tokens[:, 0], pooled)
    torch.testing.assert_close(tokens[:, 1 + 3 * 1 + 2], grid[:, :, 1, 2])
    (_,), mean = as_maps(tokens[:, 1:])
    torch.testing.assert_close(tokens[:, 1:].mean(1), mean)


def test_a_map_with_channels_last_is_transposed():
    class Last(nn.Module):
        num_features = 7

    (features,), _ = as_maps(torch.randn(2, 3, 4, 7), Last())
    assert (2, 7, 3, 4) == tuple(features.shape)


def test_the_dictionary_of_dinov2_is_supported():
    tokens = {"x_norm_clstoken": torch.ones(2, 5), "x_norm_patchtokens": torch.randn(2, 16, 5)}
    (grid,), pooled = as_maps(tokens)
    assert [(2, 5, 4, 4), (2, 5)] == [tuple(grid.shape), tuple(pooled.shape)]


def test_another_form_is_an_error():
    with pytest.raises(UsageError, match="are not supported"):
        as_maps(torch.randn(2, 3))


@pytest.mark.parametrize(("size", "grid"), [((8, 8), (4, 2)), ((2, 2), (5, 5)), ((3, 3), (3, 3))])
def test_maps_are_resized_to_a_grid(size: tuple[int, int], grid: tuple[int, int]):
    features = to_grid(torch.full((1, 2, *size), 3.0), grid)
    torch.testing.assert_close(torch.full((1, 2, *grid), 3.0), features)


def test_images_are_normalised_as_in_evaluation():
    from effbench.data.pixels import normalize

    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    expected = torch.from_numpy(normalize(pixels.numpy(), small.PREPROCESSING))
    torch.testing.assert_close(expected, prepare(pixels, (8, 8), small.PREPROCESSING))


def test_the_parts_of_all_processes_are_the_batch():
    order = Order(labels_of(small.images(40, 12)), 8, 5, 2, 0.25)
    for step in range(2 * order.steps_per_epoch):
        batch = order.batch(step)
        parts = [order.batch(step, rank, 2) for rank in range(2)]
        assert sorted(batch) == sorted(parts[0] + parts[1])
        assert 2 == sum(index < 12 for index, _ in batch)


def test_an_epoch_uses_each_unlabelled_image_at_most_once():
    order = Order(labels_of(small.images(40, 12)), 8, 5, 2, 0.25)
    images = [index for step in range(order.steps_per_epoch) for index, _ in order.batch(step) if index >= 12]
    assert len(images) == len(set(images)) == 6 * order.steps_per_epoch


def test_a_recording_ends_with_an_error():
    class Broken(small.Net):
        def forward(self, x: Tensor) -> Tensor:
            self.forward_features(x)
            raise RuntimeError("broken")

    model = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        observe(model, torch.randn(2, 3, 16, 16))
    assert "forward_features" not in vars(model)
