"""Layers over the batch of all processes that train one model: what one process would compute."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """The sum over processes; so is its gradient, for each of them uses the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm over the rows of all processes, in float32; works on any device.

    A row is a vector (C,) of each place.  torch's SyncBatchNorm runs on GPUs only.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions after the channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C, ...); N may be 0 in some processes."""
        if not self.training:
            return super().forward(x)
        if x.ndim > 2:
            return self._normalised(x.movedim(1, -1)).movedim(-1, 1)
        return self._normalised(x)

    def _normalised(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        rows = x.float().flatten(0, -2)
        count = torch.full((1,), float(len(rows)), device=x.device)
        sums: Tensor = _Sum.apply(torch.cat([rows.sum(0), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = rows - mean
        variance: Tensor = _Sum.apply((centred * centred).sum(0)) / total
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = 0.1 if self.momentum is None else self.momentum
            unbiased = variance * (total / (total - 1).clamp_min(1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        normed = centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return normed.to(x.dtype).view(x.shape)


class GlobalDropout(nn.Dropout):
    """Dropout of the local clips of a batch, with the mask that one process would draw for all.

    Attributes:
        count: clips of the whole batch.
        place: which of them are local (this rank).
    """

    count = 0
    place = slice(0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, ...); as many rows for each clip, in order; 0 in some processes."""
        if not (self.training and self.p and len(x)):
            return x
        rows = len(x) // (self.place.stop - self.place.start)  # of a clip
        whole = x.new_ones((self.count * rows, *x.shape[1:]))
        own = slice(self.place.start * rows, self.place.stop * rows)
        return x * (nn.functional.dropout(whole, self.p)[own] != 0) / (1 - self.p)


def share_layers(model: nn.Module) -> None:
    """Replace the batch norms and dropouts of a model, in place, by global ones."""
    for name, child in list(model.named_children()):
        if type(child) in BATCH_NORMS:
            assert isinstance(child, nn.modules.batchnorm._BatchNorm)
            shared = GlobalBatchNorm(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            setattr(model, name, shared.to(child.weight.device).train(child.training))
        elif type(child) is nn.Dropout:
            setattr(model, name, GlobalDropout(child.p).train(child.training))
        else:
            share_layers(child)


def place_dropouts(model: nn.Module, count: int, place: slice) -> None:
    """Set the local clips of a batch in the dropouts of a shared model.

    Args:
        model: the model.
        count: clips of the whole batch.
        place: which of them are local (this rank).
    """
    for module in model.modules():
        if isinstance(module, GlobalDropout):
            module.count, module.place = count, place
