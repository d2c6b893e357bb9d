"""Teachers: frozen networks whose features are resized to the positions of the student."""

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
    """The output of a teacher for a batch: pooled (B, C), spatial (B, C, h, w), logits (B, K); each may be None."""

    pooled: Tensor | None = None
    spatial: Tensor | None = None
    logits: Tensor | None = None

    def kinds(self) -> dict[str, Tensor]:
        """Return the outputs that are present, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Teacher:
    """A frozen network.

    ``run`` takes normalised images of ``size``; ``identity`` hashes the weights and all that decides an output.
    """

    name: str
    identity: str
    size: tuple[int, int]
    preprocessing: Preprocessing
    run: Callable[[Tensor], TeacherOutput]
    channels: int = 3

    @torch.no_grad()
    def __call__(self, pixels: Tensor, grid: tuple[int, int]) -> TeacherOutput:
        """Return the output for views (uint8, any size), with spatial features resized to a grid of positions.

        Spatial features on a grid of one position are left out if there are pooled features, which are the same.
        """
        output = self.run(prepare(pixels, self.size, self.preprocessing, self.channels))
        if output.spatial is None:
            return output
        if grid == (1, 1) and output.pooled is not None:
            return TeacherOutput(output.pooled, None, output.logits)
        return TeacherOutput(output.pooled, to_grid(output.spatial, grid), output.logits)


def from_module(
    name: str, module: nn.Module, size: tuple[int, int], preprocessing: Preprocessing, channels: int = 3
) -> Teacher:
    """Freeze a module and wrap it as a teacher; it stays on its device."""
    module.eval()
    module.requires_grad_(False)

    def run(images: Tensor) -> TeacherOutput:
        features = observe(module, images)
        return TeacherOutput(features.pooled, features.maps[-1], features.logits)

    inputs = {"weights": state_sha256(module), "size": size, "how": preprocessing, "channels": channels}
    return Teacher(name, fingerprint(inputs), size, preprocessing, run, channels)


def state_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of a module's class and of the names, shapes and contents of its tensors."""
    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}".encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
