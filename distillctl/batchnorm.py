"""Batch norm over the batch of all ranks on any backend; torch's own SyncBatchNorm is for GPUs only."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over the ranks; what each rank's loss owes to it comes back summed as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm(nn.BatchNorm2d):
    """Same parameters, buffers and names as the layer that it stands for; statistics are of all ranks' samples."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # stands for 1d and 3d layers too

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        dims = [dim for dim in range(input.dim()) if dim != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.float()
        count = torch.full((1,), float(input.numel() // input.shape[1]), device=input.device)
        # two passes, as one process does it: E[x²] - E[x]² would lose digits
        sums = SumOverRanks.apply(torch.cat([values.sum(dims), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values - mean.view(shape)
        variance = SumOverRanks.apply((centred * centred).sum(dims)) / total
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * total / (total - 1), momentum)
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(input.dtype)


def convert(module: nn.Module) -> nn.Module:
    """Put a SharedBatchNorm in place of every batch norm, with the same tensors inside."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, SharedBatchNorm):
        assert dist.is_initialized()
        shared = SharedBatchNorm(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
        shared._parameters, shared._buffers = module._parameters, module._buffers
        return shared.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, convert(child))
    return module
