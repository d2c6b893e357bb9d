"""Validate a network on labelled images during training."""

from __future__ import annotations

import torch
from torch import nn

from effbench.data import Dataset
from effbench.schema import Preprocessing
from effbench.training.features import observe
from effbench.training.losses import UNLABELLED
from effbench.training.views import Views, prepare


@torch.no_grad()
def accuracy(
    module: nn.Module,
    images: Dataset,
    size: tuple[int, int],
    preprocessing: Preprocessing,
    channels: int = 3,
    device: torch.device | None = None,
) -> float:
    """Return the top-1 accuracy on the labelled images, between 0 and 1, with the model in eval mode."""
    views = Views(images, size, "none", 0, preprocessing, fixed=False)
    labelled = [index for index, label in enumerate(views.labels) if label != UNLABELLED]
    training = module.training
    module.eval()
    correct = 0
    for start in range(0, len(labelled), 256):
        part = [views[index, 0] for index in labelled[start : start + 256]]
        pixels = torch.stack([item[0] for item in part]).to(device)
        logits = observe(module, prepare(pixels, size, preprocessing, channels)).logits
        assert logits is not None
        correct += int((logits.argmax(dim=1).cpu() == torch.tensor([item[1] for item in part])).sum())
    module.train(training)
    return correct / max(1, len(labelled))
