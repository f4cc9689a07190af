"""What the page of `tokenreel explore` shows of a store, as plain values."""

import base64
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.search.query import (
    Click,
    find_block,
    parse_patch,
    query_direction,
    require_view,
    stored_grid,
)
from tokenreel.cache.search.scores import cosines, exact_tokens
from tokenreel.cache.search.search import Found, PatchIndex, SimilarPatch
from tokenreel.extract.preview.colours import ColourAxes
from tokenreel.pipeline.explore.frames import ClipFrames
from tokenreel.pipeline.explore.runs import ExploredRun

V = TypeVar("V")
Values = dict[str, Any]

ROWS = 200  # clips at most in one answer
OVERLAYS = 64  # frames at most in one answer
SAMPLED_FRAMES = 64  # of a clip, and of a store, from which colours are fitted
SAMPLED_TOKENS = 2**16
SHOWN_CLIPS = 24  # of which the best patch is shown


class Recent(dict[Any, V]):
    """Values by key, the least recently made dropped first."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most, self._lock = most, threading.Lock()

    def made(self, key: Any, make: Callable[[], V]) -> V:
        """The value of a key, made now where it is not there."""
        with self._lock:
            if key in self:
                return self[key]
        value = make()
        with self._lock:
            self[key] = value
            while len(self) > self._most:
                del self[next(iter(self))]
        return value


class Explorer:
    """A store, its frames and runs, for the page.

    Args:
        store: the store.
        frames: of its clips.
        runs: trained on it or on another of the same tokens.
        memory_bytes: for codes that searches keep in memory.
    """

    def __init__(
        self,
        store: Store,
        frames: ClipFrames,
        runs: Sequence[ExploredRun] = (),
        *,
        memory_bytes: int = 0,
    ) -> None:
        self.store, self.frames, self.runs = store, frames, list(runs)
        self._memory_bytes = memory_bytes
        self._tokens: Recent[NDArray[np.float32]] = Recent(4)
        self._axes: Recent[ColourAxes] = Recent(64)
        self._indexes: Recent[PatchIndex] = Recent(1)  # each may hold memory_bytes
        self._labels: Recent[NDArray[Any]] = Recent(100_000)

    def describe(self) -> Values:
        """The store, and what clips can be chosen by."""
        store, records = self.store, self.store.records.values()
        identity = store.identity
        return {
            "name": store.path.name,
            "backbone": identity.architecture,
            "codec": store.codec.name,
            "num_clips": len(store.records),
            "num_frames": sum(record.num_frames for record in records),
            "blocks": list(identity.blocks),
            "views": [str(view.get("name", place)) for place, view in enumerate(identity.views)],
            "grid": list(stored_grid(store)),
            "has_cls": identity.cls != "none",
            "splits": sorted({record.split for record in records}),
            "actions": sorted({record.action for record in records}),
            "phases": sorted({name for record in records for name in record.phases}),
            "runs": [
                {"name": name, "attends": run.attends}
                for name, run in zip(self._names_of_runs(), self.runs, strict=True)
            ],
        }

    def _names_of_runs(self) -> list[str]:
        """The names of the runs' folders, whole paths where several have one name."""
        paths = [run.path.resolve() for run in self.runs]
        names = [path.name for path in paths]
        return [
            name if names.count(name) == 1 else str(path)
            for name, path in zip(names, paths, strict=True)
        ]

    def clips(
        self,
        *,
        split: str = "",
        action: str | None = None,
        phase: str = "",
        text: str = "",
        offset: int = 0,
    ) -> Values:
        """Clips by filters, ROWS of them.

        Args:
            split: of which, "" for all.
            action: of which, None for all.
            phase: that some frame has, "" for any.
            text: a part of their id, whatever the case.
            offset: how many are passed over.
        """
        wanted, part = [], text.casefold()
        for record in self.store.records.values():
            if (
                split in ("", record.split)
                and action in (None, record.action)
                and part in record.clip_id.casefold()
                and (not phase or self._has_phase(record, phase))
            ):
                wanted.append(record)
        shown = wanted[offset : offset + ROWS]
        return {
            "num_clips": len(wanted),
            "clips": [
                {
                    "id": record.clip_id,
                    "split": record.split,
                    "action": record.action,
                    "frames": record.num_frames,
                }
                for record in shown
            ],
        }

    def _has_phase(self, record: ClipRecord, phase: str) -> bool:
        if phase not in record.phases:
            return False
        labels = self._labels.made(record.clip_id, lambda: self.store.labels(record.clip_id))
        return bool((labels == record.phases.index(phase)).any())

    def clip(self, clip_id: str) -> Values:
        """Times and labels of a clip."""
        record = self.store.record(clip_id)
        return {
            "id": record.clip_id,
            "split": record.split,
            "action": record.action,
            "tags": list(record.tags),
            "video": record.video,
            "frames": record.num_frames,
            "views": record.num_views,
            "seconds": self.store.times_seconds(clip_id).round(6).tolist(),
            "labels": self.store.labels(clip_id).tolist(),
            "phases": list(record.phases),
        }

    def overlay(
        self, clip_id: str, *, kind: str, block: int, view: int, first: int, count: int
    ) -> Values:
        """Colours of the patches of consecutive frames.

        Args:
            clip_id: the clip.
            kind: "pca", of the clip; "pca-store", the same colours in every clip; or "norm".
            block: of the store.
            view: of the store.
            first: the first frame.
            count: frames, OVERLAYS at most.

        Returns:
            "data" in base64: uint8 red, green and blue of each patch, or its norm from "low" to
            "high".
        """
        block = find_block(self.store, block)
        require_view(self.store, view)
        frames = self._frames_of(clip_id, first, min(count, OVERLAYS))
        tokens = self.store.read(clip_id, frames, blocks=[block], view=view).decode(block)
        if kind == "norm":
            sampled = np.linalg.norm(self._sample(clip_id, block, view), axis=-1)
            low, high = float(sampled.min()), float(sampled.max())
            norms = np.linalg.norm(tokens, axis=-1)
            shares = np.clip((norms - low) / max(high - low, 1e-12), 0, 1)
            return {"first": int(frames[0]), "low": low, "high": high, **_packed(shares)}
        if kind == "pca":
            axes = self._axes.made(
                (clip_id, block, view), lambda: ColourAxes.fit(self._sample(clip_id, block, view))
            )
        elif kind == "pca-store":
            axes = self._axes.made(
                (None, block, view), lambda: ColourAxes.fit(self._sample_store(block, view))
            )
        else:
            raise UsageError(f"overlay {kind!r} is none of pca, pca-store, norm")
        return {"first": int(frames[0]), **_packed(axes.colours(tokens))}

    def along(self, clip_id: str, clicks: Sequence[Click], *, block: int, view: int) -> Values:
        """Cosines of all patches of a clip with what was clicked.

        Returns:
            "best" and "patches": the highest cosine of each frame and where it is; "data": uint8
            of each patch, from "low" to "high", the least and the highest of the clip.
        """
        block = find_block(self.store, block)
        require_view(self.store, view)
        unit = query_direction(self.store, clicks, block=block, view=view)
        num_frames = self.store.record(clip_id).num_frames
        scores = np.concatenate(
            [
                cosines(self._exact(clip_id, part, block, view), unit)
                for part in np.array_split(np.arange(num_frames), -(-num_frames // OVERLAYS))
            ]
        )
        low, high = float(scores.min()), float(scores.max())
        return {
            "best": scores.max(axis=1).round(6).tolist(),
            "patches": scores.argmax(axis=1).tolist(),
            "low": low,
            "high": high,
            **_packed((scores - low) / max(high - low, 1e-12)),
        }

    def similar(
        self, clip_id: str, clicks: Sequence[Click], *, block: int, view: int
    ) -> Iterator[Values]:
        """The best patch of each other clip: a first answer soon, the last of all frames."""
        block = find_block(self.store, block)
        unit = query_direction(self.store, clicks, block=block, view=view)
        index = self.index(block, view)
        for found in index.refine(unit, count=1):
            yield self._answer(clip_id, found)

    def index(self, block: int, view: int) -> PatchIndex:
        """The index of a block and view; what it has read stays until another is searched."""
        return self._indexes.made(
            (block, view),
            lambda: PatchIndex.of_store(
                self.store, block=block, view=view, memory_bytes=self._memory_bytes
            ),
        )

    def _answer(self, clip_id: str, found: Found) -> Values:
        others = [one for one in found.of_clips if one.clip_id != clip_id][:SHOWN_CLIPS]
        return {
            "done": found.num_done,
            "frames": found.num_frames,
            "speed": found.speed,
            "left_out": list(found.left_out),
            "patches": [self._patch(one) for one in others],
        }

    def _patch(self, one: SimilarPatch) -> Values:
        return {
            "clip": one.clip_id,
            "frame": one.frame,
            "patch": one.patch,
            "score": round(one.score, 6),
            "seconds": round(float(self.store.times_seconds(one.clip_id)[one.frame]), 6),
        }

    def _exact(
        self, clip_id: str, frames: NDArray[np.int64], block: int, view: int
    ) -> NDArray[np.float64]:
        read = self.store.read(clip_id, frames, blocks=[block], view=view)
        return exact_tokens(self.store.codec, read.encoded(block), block=block)

    def _frames_of(self, clip_id: str, first: int, count: int) -> NDArray[np.int64]:
        num_frames = self.store.record(clip_id).num_frames
        if not 0 <= first < num_frames or count < 1:
            raise UsageError(
                f"{clip_id} has frames 0 to {num_frames - 1}, not {count} from {first}"
            )
        return np.arange(first, min(first + count, num_frames))

    def _sample(self, clip_id: str, block: int, view: int) -> NDArray[np.float32]:
        """Tokens (K, n, D) of frames spread over a clip."""

        def read() -> NDArray[np.float32]:
            last = self.store.record(clip_id).num_frames - 1
            rows, columns = stored_grid(self.store)
            most = max(1, min(SAMPLED_FRAMES, SAMPLED_TOKENS // (rows * columns)))
            frames = np.unique(np.linspace(0, last, most).round().astype(np.int64))
            return self.store.read(clip_id, frames, blocks=[block], view=view).decode(block)

        return self._tokens.made((clip_id, block, view), read)

    def _sample_store(self, block: int, view: int) -> NDArray[np.float32]:
        """Tokens (K, n, D) of one frame each of clips spread over the store."""
        names = list(self.store.records)
        rows, columns = stored_grid(self.store)
        most = max(1, min(SAMPLED_FRAMES, SAMPLED_TOKENS // (rows * columns)))
        chosen = np.linspace(0, len(names) - 1, most).round().astype(int).tolist()
        parts = []
        for place, number in enumerate(chosen):
            last = self.store.record(names[number]).num_frames - 1
            frame = round(last * (place + 0.5) / len(chosen))
            try:
                read = self.store.read(names[number], [frame], blocks=[block], view=view)
            except Damaged as error:  # opening the clip says so
                failure = error
                continue
            parts.append(read.decode(block))
        if not parts:
            raise failure
        return np.concatenate(parts)


def parse_clicks(value: object) -> list[Click]:
    """Clicks as the page sends them: [[clip, frame, "row,column", whether positive], ...].

    Raises:
        UsageError: anything else.
    """
    if not isinstance(value, list) or not value:
        raise UsageError("clicks: a list of [clip, frame, patch, is_positive]")
    clicks = []
    for one in value:
        match one:
            case [str(clip), int(frame), str(patch), bool(is_positive)]:
                clicks.append(Click(clip, frame, parse_patch(patch), is_positive))
            case _:
                raise UsageError(f"click {one!r} is not [clip, frame, patch, is_positive]")
    return clicks


def _packed(shares: NDArray[Any]) -> Values:
    """Shares of 1 as bytes in base64."""
    data = (np.clip(shares, 0, 1) * 255).round().astype(np.uint8)
    return {"data": base64.b64encode(data.tobytes()).decode()}
