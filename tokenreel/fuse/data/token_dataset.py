"""A store as a torch Dataset, to train a model of one's own on cached tokens.

    dataset = TokenDataset("stores/NAME", window=32)
    loader = DataLoader(dataset, batch_size=8, shuffle=True, collate_fn=dataset.collate)
    for batch in loader:
        tokens = batch.to("cuda").tokens()  # float32 (B, V, T, N, D), made on the GPU
        loss = cross_entropy(model(tokens), batch.labels)

Codes travel between processes and to the device; floats are made where they are used.

Shapes: B clips, V windows of each, T frames of a window, N tokens, D channels of all blocks, F
distinct frames of a batch.
"""

import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.codec import codec_from_identity
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.store_files import load_arrays, load_identity
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.augment import AugmentConfig
from tokenreel.fuse.config.windows import SamplingKind, sample_windows
from tokenreel.fuse.data.augment import hidden_tokens
from tokenreel.fuse.data.frames import Foldings, Frames
from tokenreel.fuse.kernels import CodedTokens

TOKENS = "tokens"  # the name of a single store
VIEW, CROP = 1, 2  # streams of random numbers of a clip, besides that of its windows


@dataclass(frozen=True, eq=False)
class TokenSample:
    """The windows of one clip.

    Attributes:
        clip_id: the clip.
        action: of the clip, "" where unknown.
        codes: store -> block -> (F, n, d) of the distinct frames, in the codec's dtype.
        scales: store -> block -> (F, n) or (F, n, groups); {} for a codec without.
        cls: store -> float32 (F, D); {} where CLS vectors are not wanted.
        gather: int64 (V, T), which of the F frames each position is.
        steps: int64 (V, T), the frame's number in its clip.
        valid: bool (V, T), False at padding.
        labels: int64 (V, T), phase of each frame, -1 where it has none.
        times_seconds: float64 (V, T).
        hidden: bool (V, N) of the first store's grid, True at tokens outside the crop; or None.
    """

    clip_id: str
    action: str
    codes: dict[str, dict[int, Tensor]]
    scales: dict[str, dict[int, Tensor]]
    cls: dict[str, Tensor]
    gather: Tensor
    steps: Tensor
    valid: Tensor
    labels: Tensor
    times_seconds: Tensor
    hidden: Tensor | None = None


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Samples of B clips: arrays of :class:`TokenSample` with a first axis B, frames end to end.

    Attributes:
        clip_ids: the B clips.
        actions: of the clips.
        frames: store -> the F distinct frames of all clips.
        gather, steps, valid, labels, times_seconds: (B, V, T).
        hidden: bool (B, V, N) or None.
    """

    clip_ids: tuple[str, ...]
    actions: tuple[str, ...]
    frames: dict[str, Frames]
    gather: Tensor
    steps: Tensor
    valid: Tensor
    labels: Tensor
    times_seconds: Tensor
    hidden: Tensor | None = None

    def tokens(self, store: str | None = None, blocks: Sequence[int] | None = None) -> Tensor:
        """Tokens as floats, on the device of the batch: float32 (B, V, T, N, D).

        Args:
            store: name of a store of the set; the first when None.
            blocks: whose channels lie end to end; all when None.
        """
        return self._frames(store).tokens(blocks)[self.gather]

    def coded(self, store: str | None = None, blocks: Sequence[int] | None = None) -> CodedTokens:
        """The F distinct frames as codes, for attention that takes codes; see `gather`."""
        return self._frames(store).coded(blocks)

    def cls(self, store: str | None = None) -> Tensor:
        """CLS vectors after the final norm: float32 (B, V, T, D).

        Raises:
            UsageError: the data set was made without them.
        """
        found = self._frames(store).cls
        if found is None:
            raise UsageError("no CLS vectors in this batch: TokenDataset(..., cls=True) reads them")
        return found[self.gather]

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on a device: codes are copied, not floats."""
        return self._each(lambda part: part.to(device, non_blocking=True), torch.device(device))

    def pin_memory(self) -> "TokenBatch":
        """The same batch in pinned memory: what DataLoader(pin_memory=True) calls."""
        return self._each(lambda part: part.pin_memory(), None)

    def _each(self, change: Any, device: torch.device | None) -> "TokenBatch":
        return replace(
            self,
            frames={
                name: part.to(device) if device is not None else part.map(change)
                for name, part in self.frames.items()
            },
            hidden=None if self.hidden is None else change(self.hidden),
            **{
                name: change(getattr(self, name))
                for name in ("gather", "steps", "valid", "labels", "times_seconds")
            },
        )

    def _frames(self, store: str | None) -> Frames:
        if store is None:
            return next(iter(self.frames.values()))
        if store not in self.frames:
            raise UsageError(f"no store {store!r} in this batch: it has {', '.join(self.frames)}")
        return self.frames[store]


class TokenDataset(Dataset[TokenSample]):
    """One item a clip: windows in time of its cached tokens, with labels.

    What is drawn for a clip is a function of `seed`, epoch and the clip's number alone: it is the
    same for any number of workers, for any order, and after a resume.  Workers open the store when
    they first read; forked ones use the direct reader alone.

    Args:
        store: directory of a store, an open one, or name -> either for several of the same clips.
        split: of the clips; None for every split.
        action: of the clips; None for every action.
        clips: ids, in order, instead of split and action.
        blocks: to read; None for all of each store.
        cls: whether to read CLS vectors.
        window: frames T of a window; None gives the whole clip, padded to the batch's longest.
        windows: windows V of a clip: 1, or 2 drawn as `fuse train` draws them.
        sampling: how a window is drawn: "random" frames of a crop in time, in order; "even" ones;
            "contiguous" frames; or any kind of :mod:`tokenreel.fuse.config.windows`.
        alpha: a window is drawn from T to alpha T frames.
        beta: least overlap of two windows, as a share.
        views: "clean", or a random one of the stored views: "augmented" or "all".
        crop: least share of the tokens in a random rectangle; the rest is `hidden`.
        flip: mirror half of the rectangles.
        keep: "memory" keeps the codes that a process has read; "disk" reads them each time.
        seed: of all that is drawn.

    Raises:
        UsageError: no clip is left, or an argument does not suit the store.
    """

    def __init__(
        self,
        store: str | Path | Store | Mapping[str, Store | str | Path],
        *,
        split: str | None = "train",
        action: str | None = None,
        clips: Sequence[str] | None = None,
        blocks: Sequence[int] | None = None,
        cls: bool = False,
        window: int | None = 32,
        windows: Literal[1, 2] = 1,
        sampling: str = "random",
        alpha: float = 1.5,
        beta: float = 0.2,
        views: Literal["clean", "augmented", "all"] = "clean",
        crop: float = 1.0,
        flip: bool = False,
        keep: Literal["disk", "memory"] = "disk",
        seed: int = 0,
    ) -> None:
        named = store if isinstance(store, Mapping) else {TOKENS: store}
        self._stores: StoreSet | None = StoreSet(named)
        self._paths = {name: one.path for name, one in self._stores.items()}
        self._fingerprints = self._stores.fingerprints
        if clips is None:
            chosen = [record.clip_id for record in self._stores.first.select(split, action)]
            if not chosen:
                raise UsageError(
                    f"{self._stores.first.path} has no clip of split={split} and action={action}"
                )
        else:
            chosen = [self._stores.first.record(clip_id).clip_id for clip_id in clips]
        self.clip_ids = tuple(chosen)
        self.blocks = None if blocks is None else tuple(sorted(blocks))
        self.uses_cls, self.window, self.windows = cls, window, windows
        self.sampling, self.alpha, self.beta, self.views = sampling, alpha, beta, views
        self.augment = AugmentConfig(crop=crop, flip=flip)
        self.keep, self.seed = keep, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._kept: dict[tuple[str, str, int], tuple[dict[int, Tensor], dict[int, Tensor]]] = {}
        self._require()

    def _require(self) -> None:
        if self.window is not None and self.window < 1:
            raise UsageError(f"window={self.window}: give the frames of a window, at least 1")
        if self.windows not in (1, 2):
            raise UsageError(f"windows={self.windows}: a clip gives 1 window, or 2 that overlap")
        if self.window is None and self.windows != 1:
            raise UsageError("windows=2 are drawn in time: give window=FRAMES, not None")
        known = ("random", "contiguous", *get_args(SamplingKind))
        if self.sampling not in known:
            raise UsageError(f"sampling={self.sampling!r}: choose one of {', '.join(known)}")
        if self.windows == 2 and self.sampling == "contiguous":
            raise UsageError("sampling=contiguous draws one window: set windows=1")
        for name, store in self.stores.items():
            missing = set(self.blocks or ()) - set(store.identity.blocks)
            if missing:
                raise UsageError(
                    f"{name}={store.path} holds blocks {list(store.identity.blocks)}, "
                    f"not {sorted(missing)}"
                )
            if self.uses_cls and store.identity.cls == "none":
                raise UsageError(f"{name}={store.path} holds no CLS vectors: set cls=False")
            if self.views != "clean" and not store.identity.num_augmented:
                raise UsageError(f"{name}={store.path} holds no augmented views: views=clean")

    @property
    def stores(self) -> StoreSet:
        """The stores, opened on first use in this process."""
        if self._stores is None:
            stores = StoreSet(self._paths)
            if stores.fingerprints != self._fingerprints:
                raise UsageError(f"{self._paths} changed since this data set was made")
            self._stores = stores
        return self._stores

    def __getstate__(self) -> dict[str, Any]:
        """Without stores, records and codes: small for any number of clips."""
        ids = zlib.compress("\n".join(self.clip_ids).encode())
        left_out: dict[str, Any] = {"_stores": None, "_kept": {}}
        return {**self.__dict__, **left_out, "clip_ids": ids}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ids = tuple(zlib.decompress(state["clip_ids"]).decode().split("\n"))
        self.__dict__.update(state, clip_ids=ids)

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def epoch(self) -> int:
        """The epoch that items are drawn for; workers that persist see it change."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw the windows, views and crops of another epoch from now on."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> TokenSample:
        clip_id = self.clip_ids[index]
        first = self.stores.first
        record = first.record(clip_id)
        steps, valid = self._draw(record.num_frames, index)
        views = record.num_views if self.views != "clean" else 1
        view = int(self._rng(index, VIEW).integers(int(self.views == "augmented"), views))
        distinct, gather = np.unique(steps, return_inverse=True)
        gather = gather.reshape(steps.shape)
        codes: dict[str, dict[int, Tensor]] = {}
        scales: dict[str, dict[int, Tensor]] = {}
        cls: dict[str, Tensor] = {}
        for name, store in self.stores.items():
            codes[name], scales[name] = self._read(name, store, clip_id, distinct, view)
            if self.uses_cls:
                cls[name] = torch.from_numpy(store.read_cls(clip_id, distinct, view=view))
        labels = first.labels(clip_id).astype(np.int64)
        return TokenSample(
            clip_id,
            record.action,
            codes,
            scales,
            cls,
            gather=torch.from_numpy(gather),
            steps=torch.from_numpy(steps),
            valid=torch.from_numpy(valid),
            labels=torch.from_numpy(np.where(labels < 0, -1, labels)[steps]),
            times_seconds=torch.from_numpy(first.times_seconds(clip_id)[steps]),
            hidden=self._crops(index),
        )

    def collate(self, samples: Sequence[TokenSample]) -> TokenBatch:
        """One batch of samples: what DataLoader(collate_fn=) takes.

        Windows of whole clips are padded by their last frame to the longest, not valid there.
        """
        longest = max(sample.steps.shape[1] for sample in samples)
        counts = [int(sample.gather.max()) + 1 for sample in samples]
        offsets = np.cumsum([0, *counts[:-1]]).tolist()
        frames = {
            name: Frames(
                _joined([sample.codes[name] for sample in samples]),
                _joined([sample.scales[name] for sample in samples]),
                torch.cat([sample.cls[name] for sample in samples]) if self.uses_cls else None,
                foldings_of(str(self._paths[name])),
            )
            for name in self._paths
        }
        hidden = [sample.hidden for sample in samples if sample.hidden is not None]
        gathers = [s.gather + offset for s, offset in zip(samples, offsets, strict=True)]
        return TokenBatch(
            tuple(sample.clip_id for sample in samples),
            tuple(sample.action for sample in samples),
            frames,
            gather=torch.stack([_padded(part, longest) for part in gathers]),
            steps=torch.stack([_padded(sample.steps, longest) for sample in samples]),
            valid=torch.stack([_padded(s.valid, longest, value=False) for s in samples]),
            labels=torch.stack([_padded(sample.labels, longest, value=-1) for sample in samples]),
            times_seconds=torch.stack([_padded(s.times_seconds, longest) for s in samples]),
            hidden=torch.stack(hidden) if hidden else None,
        )

    def _rng(self, index: int, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, index, *stream])

    def _draw(self, num_frames: int, index: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Frames and validity of the windows of a clip, (V, T) each."""
        if self.window is None:
            return np.arange(num_frames)[None], np.ones((1, num_frames), bool)
        rng = self._rng(index)
        if self.sampling == "contiguous":
            start = int(rng.integers(max(1, num_frames - self.window + 1)))
            steps = start + np.arange(self.window)[None]
            return np.minimum(steps, num_frames - 1), steps < num_frames
        kind: Any = "paper" if self.sampling == "random" else self.sampling
        drawn = sample_windows(
            num_frames, self.window, alpha=self.alpha, beta=self.beta, rng=rng, kind=kind
        )
        return drawn.frames[: self.windows], drawn.valid[: self.windows]

    def _crops(self, index: int) -> Tensor | None:
        if not self.augment.changes_tokens:
            return None
        store, rng = self.stores.first, self._rng(index, CROP)
        shape = store.identity.num_tokens, store.identity.dim, store.identity.grid
        grid = store.codec.reduced_shape(*shape)[2]
        masks = [hidden_tokens(grid, self.augment, rng)[0] for _ in range(self.windows)]
        return torch.from_numpy(np.stack(masks))

    def _read(
        self, name: str, store: Store, clip_id: str, frames: NDArray[np.int64], view: int
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Codes and scales of frames, by block."""
        if self.keep == "disk":
            return self._read_codes(store, clip_id, frames, view)
        key = (name, clip_id, view)
        if key not in self._kept:
            self._kept[key] = self._read_codes(store, clip_id, None, view)
        rows = torch.from_numpy(frames)
        codes, scales = self._kept[key]
        return (
            {block: part[rows] for block, part in codes.items()},
            {block: part[rows] for block, part in scales.items()},
        )

    def _read_codes(
        self, store: Store, clip_id: str, frames: NDArray[np.int64] | None, view: int
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        read = store.read(clip_id, frames, blocks=self.blocks, view=view)
        return (
            {block: torch.from_numpy(part) for block, part in read.codes.items()},
            {block: torch.from_numpy(part) for block, part in read.scales.items()},
        )

    def load(self) -> "TokenDataset":
        """Read every clip's clean view into memory now, once for all workers forked afterwards."""
        if self.keep != "memory":
            raise UsageError("keep='disk' keeps nothing in memory: set keep='memory' to load()")
        for name, store in self.stores.items():
            for clip_id in self.clip_ids:
                if (name, clip_id, 0) not in self._kept:
                    self._kept[name, clip_id, 0] = self._read_codes(store, clip_id, None, 0)
        return self


class ClipSampler(Sampler[int]):
    """The order of an epoch's clips by seed, for one process of several, from any position.

    The order is that of `fuse train` at the same `data.seed`.

    Args:
        dataset: whose clips are drawn; its epoch is set along.
        seed: of the order.
        shuffle: False gives the order of the data set.
        rank: of this process.
        world: processes that share an epoch; each is given as many clips, the last ones are drawn
            again from the first where they do not divide.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise UsageError(f"rank={rank} of world={world}: ranks go from 0 to {world - 1}")
        self.dataset, self.seed, self.shuffle = dataset, seed, shuffle
        self.rank, self.world, self.start = rank, world, 0

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Begin an epoch, after the clips that this process was given before it was stopped.

        Args:
            epoch: number of the pass, from 0.
            start: clips of the epoch that this process has taken already.
        """
        if not 0 <= start <= self._each:
            raise UsageError(f"start={start}: an epoch gives this process {self._each} clips")
        self.dataset.set_epoch(epoch)
        self.start = start

    @property
    def _each(self) -> int:
        return -(-len(self.dataset) // self.world)

    def __len__(self) -> int:
        return self._each - self.start

    def __iter__(self) -> Iterator[int]:
        count = len(self.dataset)
        rng = np.random.default_rng([self.seed, self.dataset.epoch])
        order = rng.permutation(count) if self.shuffle else np.arange(count)
        order = np.resize(order, self._each * self.world)
        yield from order[self.rank :: self.world][self.start :].tolist()


class StoreFoldings(Foldings):
    """The foldings of a store, which crosses processes as a path, not with its calibration."""

    def __init__(self, path: str) -> None:
        identity, _ = load_identity(store_path(path))
        codec = codec_from_identity(identity.codec, load_arrays(store_path(path) / "calibration"))
        super().__init__(codec, identity.dim)
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return foldings_of, (self._path,)


@functools.cache
def foldings_of(path: str) -> StoreFoldings:
    """The foldings of a store, one a process."""
    return StoreFoldings(path)


def _joined(parts: Sequence[dict[int, Tensor]]) -> dict[int, Tensor]:
    """Arrays of several clips by block, end to end."""
    return {block: torch.cat([part[block] for part in parts]) for block in parts[0]}


def _padded(part: Tensor, length: int, value: Any = None) -> Tensor:
    """(V, t) as (V, length): filled with a value, or with the last column when None."""
    missing = length - part.shape[1]
    if not missing:
        return part
    last = part[:, -1:] if value is None else torch.full_like(part[:, -1:], value)
    return torch.cat([part, last.expand(-1, missing)], dim=1)
