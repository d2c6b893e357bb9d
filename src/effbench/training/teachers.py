"""Teachers: frozen networks that say what their features of a view are, at the positions the student has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effbench.codec import fingerprint
from effbench.schema import Preprocessing
from effbench.training.features import observe, to_grid
from effbench.training.views import prepare


@dataclass(frozen=True)
class TeacherOutput:
    """What a teacher gives for a batch: pooled (B, C), spatial (B, C, h, w), logits (B, K); None where it has none."""

    pooled: Tensor | None = None
    spatial: Tensor | None = None
    logits: Tensor | None = None

    def kinds(self) -> dict[str, Tensor]:
        """Return what is there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Teacher:
    """A frozen network.

    ``answer`` takes normalised images of ``size``; ``identity`` hashes the weights and all that decides an answer.
    """

    name: str
    identity: str
    size: tuple[int, int]
    how: Preprocessing
    answer: Callable[[Tensor], TeacherOutput]
    channels: int = 3

    @torch.no_grad()
    def __call__(self, pixels: Tensor, grid: tuple[int, int]) -> TeacherOutput:
        """Return the answer to views (bytes, any size), its spatial features brought to a grid of positions.

        A grid of one position says what the pooled features say, and is left out where those are there.
        """
        found = self.answer(prepare(pixels, self.size, self.how, self.channels))
        if found.spatial is None:
            return found
        if grid == (1, 1) and found.pooled is not None:
            return TeacherOutput(found.pooled, None, found.logits)
        return TeacherOutput(found.pooled, to_grid(found.spatial, grid), found.logits)


def from_module(name: str, module: nn.Module, size: tuple[int, int], how: Preprocessing, channels: int = 3) -> Teacher:
    """Freeze a module and make a teacher of it; it stays on the device where it is."""
    module.eval().requires_grad_(False)

    def answer(images: Tensor) -> TeacherOutput:
        features = observe(module, images)
        return TeacherOutput(features.pooled, features.maps[-1], features.logits)

    made_of = {"weights": state_sha256(module), "size": size, "how": how, "channels": channels}
    return Teacher(name, fingerprint(made_of), size, how, answer, channels)


def state_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of a module's class, the names and shapes of its tensors, and their content."""
    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}".encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
