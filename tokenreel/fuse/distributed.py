"""Several processes that train one model, with the numbers of one process at the same global batch.

Each process pools and fuses its share of a batch.  Embeddings are then gathered, and every process
computes the loss of the whole batch, whatever couples its clips, with a gradient for its own share;
the sum of the processes' gradients is the gradient of one.  Batch norms see the whole batch.
Only dropout differs, since each process draws for its own share.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenreel.cache.errors import UsageError

__all__ = [
    "ALONE",
    "GlobalBatchNorm",
    "World",
    "any_of",
    "find_device",
    "from_first",
    "gather_clips",
    "share_batch_norms",
    "sum_gradients",
    "world_from_torchrun",
]

Picklable = TypeVar("Picklable")


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: of this one; rank 0 writes the files.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0


ALONE = World()


def find_device(word: str) -> torch.device:
    """The device of a word; under torchrun each process has its own GPU.

    Raises:
        UsageError: a word that is no device, or a GPU where there is none.
    """
    if word == "auto":
        word = "cuda" if torch.cuda.is_available() else "cpu"
    if word != "cpu" and not re.fullmatch(r"cuda(:\d+)?", word):
        raise UsageError(f"device {word!r} is none of auto, cpu, cuda or cuda:N")
    if word.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {word}: there is no CUDA device here; use cpu or auto")
    if word == "cuda" and "LOCAL_RANK" in os.environ:
        word = f"cuda:{os.environ['LOCAL_RANK']}"
    return torch.device(word)


@contextmanager
def world_from_torchrun(device: torch.device) -> Iterator[World]:
    """The processes that torchrun started, joined while this lasts; one process without torchrun.

    Args:
        device: the gradients are summed by NCCL on a GPU, by gloo elsewhere.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


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


class GlobalBatchNorm(nn.BatchNorm1d):
    """A batch norm over the rows (N, C) of all processes, in float32; works on any device.

    torch's SyncBatchNorm runs on GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) -> (N, C); N may be 0 in some processes."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        rows = x.float()
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
        return normed.to(x.dtype)


def share_batch_norms(model: nn.Module) -> None:
    """Replace the batch norms of a model, in place, by global ones with the same weights."""
    for name, child in list(model.named_children()):
        if type(child) is nn.BatchNorm1d:
            shared = GlobalBatchNorm(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            weight = child.weight
            setattr(model, name, shared.to(weight.device).train(child.training))
        else:
            share_batch_norms(child)


def gather_clips(own: Tensor, count: int, place: slice, world: World) -> Tensor:
    """The embeddings of the whole batch; only the own ones have a gradient.

    Args:
        own: (b, ...) of this process.
        count: clips B of the whole batch.
        place: which of them are the own ones.
        world: the processes.

    Returns:
        (B, ...).
    """
    if world.size == 1:
        return own
    most = -(-count // world.size)
    padded = own.detach().new_zeros((most, *own.shape[1:]))
    padded[: len(own)] = own.detach()
    parts = [torch.empty_like(padded) for _ in range(world.size)]
    dist.all_gather(parts, padded)
    sizes = [count // world.size + (rank < count % world.size) for rank in range(world.size)]
    whole = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return torch.cat([whole[: place.start], own, whole[place.stop :]])


def sum_gradients(model: nn.Module, world: World) -> None:
    """Add up the gradients of all processes, in place, in one message."""
    if world.size == 1:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    start = 0
    for parameter in parameters:
        stop = start + parameter.numel()
        assert parameter.grad is not None
        parameter.grad.copy_(flat[start:stop].view_as(parameter))
        start = stop


def any_of(here: bool, world: World, device: torch.device) -> bool:
    """Whether it is true in any process."""
    if world.size == 1:
        return here
    flag = torch.tensor([float(here)], device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def from_first(value: Picklable, world: World) -> Picklable:
    """What the first process has, in every process.

    Args:
        value: anything that can be pickled; that of other processes does not count.
        world: the processes.
    """
    if world.size == 1:
        return value
    shared: list[Any] = [value]
    dist.broadcast_object_list(shared, src=0)
    found: Picklable = shared[0]
    return found
