"""From a store to the batches of a step, read ahead in a thread.

The order of the clips and the windows of each are a pure function of data.seed, epoch and clip: a
run that is resumed, or that shares its stream with others, sees what it would have seen alone.
Both windows of a clip are one read: frames that they share, and padding that repeats the last, are
read once.
"""

import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.cache.format.clip import ClipRecord
from tokenreel.fuse.config.system import DataConfig
from tokenreel.fuse.data.epoch_plan import Draw, Sampling, plan_epoch
from tokenreel.fuse.data.frames import Frames, Piece
from tokenreel.fuse.data.source import TokenSource

STORED_VIEW = 1  # the stream of random numbers of a clip that its stored views are drawn from


@dataclass(frozen=True, eq=False)
class Batch:
    """One step: B clips of all processes, of which this process pools `own`.

    Attributes:
        clip_ids: the B clips.
        frames: the F distinct frames of the local clips (this rank), of the first store.
        gather: int64 (b, V, T): which distinct frame each position of a window of a local clip is.
        steps: int64 (B, V, T): the frame's number in its clip.
        valid: bool (B, V, T), False at padding; always on the host.
        labels: int64 (B, V, T): phase of each frame as a class of the store, -1 unlabelled.
        targets: float32 (B, K): 1 for each tag that a clip has, of the store's.
        num_frames: int64 (B,): frames of each clip.
        actions: the B actions, "" where unknown.
        own: which of the B clips are this process's.
        grid: rows and columns of the tokens.
        others: the same F frames of further stores, by name.
    """

    clip_ids: tuple[str, ...]
    frames: Frames
    gather: Tensor
    steps: Tensor
    valid: Tensor
    labels: Tensor
    targets: Tensor
    num_frames: Tensor
    actions: tuple[str, ...]
    own: slice
    grid: tuple[int, int]
    others: Mapping[str, Frames] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        arrays = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("gather", "steps", "labels", "targets", "num_frames")
        }
        others = {name: frames.to(device) for name, frames in self.others.items()}
        return replace(self, frames=self.frames.to(device), others=others, **arrays)


@dataclass(frozen=True)
class Place:
    """Where in a run a batch belongs.

    Attributes:
        epoch: number of the pass, from 0.
        step: number of the batch in it.
        ends_epoch: whether it is the last of its pass.
    """

    epoch: int
    step: int
    ends_epoch: bool


def make_batch(
    source: TokenSource,
    clips: Sequence[ClipRecord],
    numbers: Sequence[int],
    sampling: Sampling,
    epoch: int,
    *,
    rank: int = 0,
    world: int = 1,
) -> Batch:
    """Draw the windows of some clips and read their frames, into memory.

    Args:
        source: where frames come from.
        clips: the training clips.
        numbers: which of them.
        sampling: order and sizes.
        epoch: number of the pass.
        rank: of this process; it reads its share of the clips only.
        world: processes that share the batch.
    """
    chosen = [clips[number] for number in numbers]
    draws = [
        _draw_windows(record, number, sampling, epoch)
        for number, record in zip(numbers, chosen, strict=True)
    ]
    own = _share(len(chosen), rank, world)
    pieces: list[Piece] = []
    gather: list[NDArray[np.int64]] = []
    offset = 0
    for number, record, drawn in zip(numbers[own], chosen[own], draws[own], strict=True):
        rng = np.random.default_rng([sampling.data.seed, epoch, number, STORED_VIEW])
        stored = _stored_views(record, len(drawn.units), sampling.data, rng)
        found, where = _distinct(record, stored, drawn.units)
        pieces += found
        gather.append(where + offset)
        offset += sum(len(piece.frames) for piece in found)
    labels = [
        source.classes(record)[drawn.units] for record, drawn in zip(chosen, draws, strict=True)
    ]
    return Batch(
        clip_ids=tuple(record.clip_id for record in chosen),
        frames=source.read(pieces),
        gather=torch.from_numpy(np.array(gather, np.int64).reshape(-1, *draws[0].units.shape)),
        steps=torch.from_numpy(np.stack([drawn.units for drawn in draws])),
        valid=torch.from_numpy(np.stack([drawn.valid for drawn in draws])),
        labels=torch.from_numpy(np.stack(labels)),
        targets=torch.from_numpy(np.stack([source.targets(record) for record in chosen])).float(),
        num_frames=torch.tensor([record.num_frames for record in chosen]),
        actions=tuple(record.action for record in chosen),
        own=own,
        grid=source.grid,
        others=source.read_others(pieces),
    )


def _draw_windows(record: ClipRecord, number: int, sampling: Sampling, epoch: int) -> Draw:
    """The units of a clip in an epoch."""
    return sampling.draw(record, np.random.default_rng([sampling.data.seed, epoch, number]))


def _stored_views(
    record: ClipRecord, count: int, data: DataConfig, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Which view of the store each of the windows of a clip is taken from, (V,)."""
    if data.views == "clean":
        return np.zeros(count, np.int64)
    first = 1 if data.views == "augmented" else 0
    views = first + rng.permutation(record.num_views - first)
    return views[np.arange(count) % len(views)]


def _distinct(
    record: ClipRecord, stored: NDArray[np.int64], frames: NDArray[np.int64]
) -> tuple[list[Piece], NDArray[np.int64]]:
    """What to read of a clip so that no frame is read twice, and where each position is in it.

    Args:
        record: the clip.
        stored: (V,) the store's view of each window.
        frames: (V, T) the frames of each window.

    Returns:
        A piece for each view of the store that is used, and int64 (V, T).
    """
    pieces, gather, offset = [], np.empty_like(frames), 0
    for view in np.unique(stored):
        own = stored == view
        distinct, inverse = np.unique(frames[own], return_inverse=True)
        pieces.append(Piece(record.clip_id, int(view), distinct))
        gather[own] = inverse.reshape(-1, frames.shape[1]) + offset
        offset += len(distinct)
    return pieces, gather


def _share(count: int, rank: int, world: int) -> slice:
    """The clips of a process: shares differ by one clip at most.

    >>> [_share(5, rank, 2) for rank in range(2)]
    [slice(0, 3, None), slice(3, 5, None)]
    """
    sizes = [count // world + (place < count % world) for place in range(world)]
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def stream_batches(
    source: TokenSource,
    clips: Sequence[ClipRecord],
    sampling: Sampling,
    *,
    start: tuple[int, int] = (0, 0),
    epochs: int,
    rank: int = 0,
    world: int = 1,
) -> Generator[tuple[Place, Batch]]:
    """The batches of a run from a position on, each with its place, read ahead where memory allows.

    Nothing here holds a batch that was taken: its memory is free once the caller drops it.

    Args:
        source: where frames come from.
        clips: the training clips.
        sampling: order and sizes.
        start: epoch and step of the first batch.
        epochs: where to end.
        rank: of this process.
        world: processes that share each batch.
    """

    def make() -> Iterator[tuple[Place, Batch]]:
        for epoch in range(start[0], epochs):
            plan = plan_epoch(clips, sampling, epoch)
            for step, numbers in enumerate(plan):
                if (epoch, step) >= start:
                    place = Place(epoch, step, step + 1 == len(plan))
                    yield (
                        place,
                        make_batch(source, clips, numbers, sampling, epoch, rank=rank, world=world),
                    )

    def move(made: tuple[Place, Batch]) -> tuple[Place, Batch]:
        return made[0], made[1].to(source.device)

    if not source.batches_ahead:
        yield from map(move, make())
        return
    with Prefetch(make(), ahead=source.batches_ahead) as ahead:
        yield from map(move, ahead)


class Prefetch:
    """Background prefetching iterator; an error in its thread is raised where items are taken.

    There are never more than `ahead` + 2 items, that of the caller and the one in the making among
    them: none is held that was handed over.

    Args:
        items: what is prefetched.
        ahead: items that may wait, at least 1.
    """

    def __init__(self, items: Iterator[Any], *, ahead: int) -> None:
        self._items = items
        self._waiting: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tokenreel-ahead", daemon=True)

    def __enter__(self) -> "Prefetch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        while self._thread.is_alive():
            while not self._waiting.empty():  # the thread may wait for a place
                self._waiting.get()
            self._thread.join(0.01)

    def __iter__(self) -> "Prefetch":
        return self

    def __next__(self) -> Any:
        kind, value = self._waiting.get()
        if kind == "item":
            return value
        self._waiting.put((kind, value))  # for the next call
        raise value if kind == "error" else StopIteration

    def _run(self) -> None:
        try:
            for item in self._items:
                self._waiting.put(("item", item))
                del item
                if self._is_over.is_set():
                    return
            self._waiting.put(("end", None))
        except BaseException as error:  # handed to the thread that waits
            self._waiting.put(("error", error))
