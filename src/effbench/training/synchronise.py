"""Synchronise BatchNorm over all processes, so that results do not depend on their number.

torch's SyncBatchNorm needs an accelerator. On a CPU a differentiable all-reduce exchanges the sums.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from effbench.errors import UsageError


class CpuSyncBatchNorm(_BatchNorm):
    """BatchNorm whose mean and variance are taken over the images of all processes."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least two dimensions, got {input.dim()}")

    def forward(self, x: Tensor) -> Tensor:
        """Normalise per channel (dimension 1); in training mode with the statistics of all processes."""
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1, *([1] * (x.dim() - 2))]
        count = _total(torch.tensor(float(x.numel() // x.shape[1])))
        mean = _total(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = _total(centred.square().sum(axes)) / count
        self._update(mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
        scaled = centred * torch.rsqrt(variance + self.eps).view(shape)
        return scaled * self.weight.view(shape) + self.bias.view(shape) if self.affine else scaled

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def _total(value: Tensor) -> Tensor:
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(value)  # type: ignore[no-any-return, no-untyped-call]


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with every BatchNorm synchronised; parameters, buffers and their names are kept.

    Raises:
        UsageError: On a CPU, a BatchNorm is a subclass that does more (timm's, with an activation).
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return model
    if device.type != "cpu":
        from effbench.models.torchvision_operators import import_timm

        layers = import_timm("timm.layers", "Synchronised BatchNorm", "train")
        converted: nn.Module = layers.convert_sync_batchnorm(model)
        return converted
    if isinstance(model, _BatchNorm):
        return _on_cpu(model)
    for name, child in model.named_children():
        setattr(model, name, synchronised(child, device))
    return model


def _on_cpu(norm: _BatchNorm) -> nn.Module:
    if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        raise UsageError(
            f"A {type(norm).__name__} cannot be synchronised over processes on a CPU.",
            hint="Train this model in one process, or on a GPU.",
        )
    synced = CpuSyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(synced, name, getattr(norm, name))
    return synced.train(norm.training)
