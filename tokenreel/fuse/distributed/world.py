"""Several processes that train one model, with the numbers of one process at the same global batch.

Each process pools and fuses its share of a batch.  Embeddings are then gathered, and every process
computes the loss of the whole batch, whatever couples its clips, with a gradient for its own share;
the sum of the processes' gradients is the gradient of one.  Batch norms and dropouts are those of
the whole batch too: global_layers.py.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tokenreel.cache.canonical import field_differences
from tokenreel.cache.errors import TokenReelError, WrongIdentity

Picklable = TypeVar("Picklable")
Item = TypeVar("Item")
log = logging.getLogger(__name__)

SHOWN = 6  # differences that an error lists
LONGEST = timedelta(days=30)  # that the other processes wait for the first one


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: of this one; rank 0 writes the files.
        size: how many there are.
        hosts: of each, by rank.
        store: key-value store that they share; None for one process.
    """

    rank: int = 0
    size: int = 1
    hosts: tuple[str, ...] = ()
    store: Any = field(default=None, compare=False, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def name_of(self, rank: int) -> str:
        """A process in words.

        >>> World(0, 2, ("a", "b")).name_of(1)
        'rank 1 on b'
        """
        return f"rank {rank}" + (f" on {self.hosts[rank]}" if self.hosts else "")


ALONE = World()


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


def of_all(value: Picklable, world: World) -> list[Picklable]:
    """What each process has, by rank, in every process.

    Args:
        value: anything that can be pickled, of this process.
        world: the processes.
    """
    if world.size == 1:
        return [value]
    found: list[Any] = [None] * world.size
    dist.all_gather_object(found, value)
    return found


@contextmanager
def together(world: World) -> Iterator[None]:
    """Let an error of ours in any process be raised in all of them, at the end of the block.

    A process that left a block alone would let the others wait for it, or answer what they do not
    ask.  Each process has to come to the end of each block.
    """
    error: TokenReelError | None = None
    try:
        yield
    except TokenReelError as found:
        if world.size == 1:
            raise
        error = found.with_traceback(None)
    if world.size > 1:
        _raise_first(error, world)


def in_step(items: Iterator[Item], world: World, device: torch.device) -> Iterator[Item]:
    """Items of which each process takes as many; an error of ours in one is raised in all.

    Nothing here holds an item that was taken.

    Args:
        items: of this process.
        world: the processes.
        device: of the messages.
    """
    return items if world.size == 1 else _in_step(items, world, device)


def _in_step(items: Iterator[Item], world: World, device: torch.device) -> Iterator[Item]:
    while True:
        taken: list[Item] = []
        error: TokenReelError | None = None
        try:
            taken.append(next(items))
        except StopIteration:
            pass
        except TokenReelError as found:
            error = found.with_traceback(None)
        if any_of(error is not None, world, device):
            _raise_first(error, world)
        if not taken:
            return
        yield taken.pop()


def _raise_first(error: TokenReelError | None, world: World) -> None:
    """Raise the error of the first process that has one, in every process."""
    for rank, found in enumerate(of_all(error, world)):
        if found is not None:
            if rank != world.rank:
                log.error("%s: %s", world.name_of(rank), found)
            raise found


def require_alike(values: Mapping[str, Any], world: World) -> None:
    """Refuse processes that would not train the same: other code, stores or settings.

    Args:
        values: JSON values that have to be the same in every process.
        world: the processes.

    Raises:
        WrongIdentity: in every process; who differs from the first one, and in what.
    """
    every = of_all(dict(values), world)
    rows = [
        f"  {world.name_of(rank)}: {name} is {there!r}, of {world.name_of(0)} {here!r}"
        for rank, other in enumerate(every)
        for name, here, there in field_differences(every[0], other)
    ]
    if rows:
        more = [f"  and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
        raise WrongIdentity(
            "the processes of this run are not alike, nothing was trained:\n"
            + "\n".join([*rows[:SHOWN], *more])
            + "\nevery node needs the same stores, the same versions of TokenReel and torch, and "
            "the same command"
        )


@contextmanager
def behind_first(what: str, world: World) -> Iterator[None]:
    """Let the other processes wait, at the end of the block, until the first one has left it.

    They look at a key, so that the wait may be longer than one for a message.

    Args:
        what: a name that the run has once.
        world: the processes.
    """
    try:
        yield
    finally:
        if world.size > 1 and world.is_first:
            world.store.set(f"left/{what}", "")
        elif world.size > 1:
            world.store.wait([f"left/{what}"], LONGEST)


def share_weights(model: nn.Module, world: World) -> None:
    """Give every process the weights of the first one, in place.

    Those that each drew by itself may differ in the last bit where the processors do.
    """
    if world.size == 1:
        return
    for value in model.state_dict().values():
        sent = value.contiguous()
        dist.broadcast(sent, src=0)
        value.copy_(sent)
