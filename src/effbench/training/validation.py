"""How often a network is right on labelled images, while it is trained."""

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
    how: Preprocessing,
    channels: int = 3,
    device: torch.device | None = None,
) -> float:
    """Return the share of labelled images whose highest score is their class, with the model in eval mode."""
    views = Views(images, size, "none", 0, how, fixed=False)
    known = [index for index, label in enumerate(views.labels) if label != UNLABELLED]
    training = module.training
    module.eval()
    right = 0
    for start in range(0, len(known), 256):
        part = [views[index, 0] for index in known[start : start + 256]]
        pixels = torch.stack([item[0] for item in part]).to(device)
        logits = observe(module, prepare(pixels, size, how, channels)).logits
        assert logits is not None
        right += int((logits.argmax(dim=1).cpu() == torch.tensor([item[1] for item in part])).sum())
    module.train(training)
    return right / max(1, len(known))
