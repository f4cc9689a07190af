"""Several processes that train one model, with the numbers of one process at the same global batch.

Each process pools and fuses its share of a batch.  Embeddings are then gathered, and every process
computes the loss of the whole batch, whatever couples its clips, with a gradient for its own share;
the sum of the processes' gradients is the gradient of one.  Batch norms and dropouts are those of
the whole batch too: global_layers.py.
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
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what is no tensor is sent by way of the current one
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def gather_clips(own: Tensor, count: int, place: slice, world: World) -> Tensor:
    """The embeddings of the whole batch; only local ones have a gradient.

    Args:
        own: (b, ...) of this process.
        count: clips B of the whole batch.
        place: which of them are local (this rank).
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
