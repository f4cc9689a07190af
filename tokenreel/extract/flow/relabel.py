"""Labels of a data set as it is now, for clips that were committed before; no video is opened.

Split, action, group, tags, names of phases and labels of frames belong to the data set, not to
tokens: a store can have new ones at any time.
"""

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.errors import ClipFailed, Damaged, UsageError
from tokenreel.cache.format.clip import ClipRecord, labels_hash, load_rows
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.index import load_records, place_of
from tokenreel.cache.format.layout import clip_arrays
from tokenreel.cache.format.relabelled import (
    RENEWED,
    Relabelled,
    load_relabelled,
    relabel,
    write_relabelled,
)
from tokenreel.cache.format.store_files import load_identity
from tokenreel.cache.manifest import UNLABELLED, Clip, Manifest
from tokenreel.extract.flow.labels import frame_labels
from tokenreel.extract.frame_policy import SAMPLED
from tokenreel.extract.video.pictures import DEFAULT_FPS

log = logging.getLogger(__name__)

Labels = NDArray[np.int16]

FRAMES = "labels"  # the kind of change that is of frames


@dataclass(frozen=True)
class LabelChanges:
    """Differences between the labels that a store has and those of a manifest.

    Attributes:
        kinds: "split", "action", "group", "tags", "phases" or "labels" (of frames) -> clip id ->
            what was and what is.
        misfits: clips that the labels of the manifest do not fit, with the reason.
    """

    kinds: dict[str, dict[str, str]] = field(default_factory=dict)
    misfits: dict[str, str] = field(default_factory=dict)

    @property
    def clips(self) -> set[str]:
        """The clips that differ."""
        return {name for clips in self.kinds.values() for name in clips} | set(self.misfits)

    def lines(self) -> list[str]:
        """One line a kind: how many clips, and the first of them."""
        lines = []
        for kind, clips in self.kinds.items():
            name, what = next(iter(clips.items()))
            lines.append(f"{kind}: {len(clips)} clip(s) have others now, such as {name}: {what}")
        if self.misfits:
            name, why = next(iter(self.misfits.items()))
            lines.append(f"labels: {len(self.misfits)} clip(s) do not fit, such as {name}: {why}")
        return lines


class LabelTable:
    """The labels of the committed clips of a store, own and renewed.

    Args:
        path: the store.

    Raises:
        Damaged: the index of the store cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path = store_path(path)
        self.identity: StoreIdentity = load_identity(path)[0]
        self.own = load_records(path)
        self.is_damaged = False  # the file of renewed labels
        try:
            self.renewed = load_relabelled(path, self.own)
        except Damaged as error:
            log.warning("%s; it counts as absent", error)
            self.renewed, self.is_damaged = {}, True
        self._is_sampled = self.identity.frames["policy"] in SAMPLED

    def record(self, clip_id: str) -> ClipRecord:
        """The record of a clip with its renewed fields."""
        held = self.renewed.get(clip_id)
        return self.own[clip_id] if held is None else held.record

    def clip(self, clip_id: str) -> Clip:
        """A clip of the store as one of a manifest, with the labels that it has now."""
        record, held = self.record(clip_id), self.renewed.get(clip_id)
        labels = self._rows(record, FRAMES) if held is None else held.labels
        return Clip(
            clip_id,
            record.video,
            start_seconds=record.start_seconds,
            stop_seconds=record.stop_seconds,
            split=record.split,
            action=record.action,
            group=record.group,
            frame_labels=tuple(labels.tolist()),
            tags=record.tags,
            picture_fps=record.source["container"].get("picture_fps"),
        )

    def asked(self, clip: Clip, manifest: Manifest) -> Relabelled:
        """A committed clip with the labels that a manifest gives it.

        Raises:
            ClipFailed: labels that do not fit its frames, or the names of its phases.
        """
        own = self.own[clip.clip_id]
        fields = {name: getattr(clip, name) for name in RENEWED if name != "phases"}
        fields["phases"] = tuple(manifest.phases.get(clip.action, ()))
        labels, names = self._frame_labels(clip, own), fields["phases"]
        if names and labels.max(initial=UNLABELLED) >= len(names):
            count = f"{clip.action!r} has {len(names)} phases, counted from 0"
            reason = f"a frame has phase {labels.max()}, {count}"
            raise ClipFailed(clip.clip_id, stage="labels", reason=reason)
        return relabel(own, fields, labels)

    def has_labels(self, clip_id: str, labels: Labels) -> bool:
        """Whether the frames of a clip are labelled so by now, whatever its phases are called."""
        held = self.renewed.get(clip_id)
        if held is not None:
            return np.array_equal(held.labels, labels)
        return self.has_own_labels(clip_id, labels)

    def has_own_labels(self, clip_id: str, labels: Labels) -> bool:
        """Whether the frames of a clip were labelled so when it was committed."""
        own = self.own[clip_id]
        if own.labels_sha256:
            return own.labels_sha256 == labels_hash(own.phases, labels)
        return np.array_equal(self._rows(own, "labels"), labels)

    def _frame_labels(self, clip: Clip, own: ClipRecord) -> Labels:
        """Label the frames of a committed clip, by the times that the store has of them."""
        if clip.frame_labels is None and not clip.spans:
            return np.full(own.num_frames, UNLABELLED, np.int16)
        if clip.frame_labels is not None:
            return frame_labels(clip, np.zeros(own.num_frames))
        numerator, denominator = own.time_base
        base = numerator / denominator
        pts = stops = self._rows(own, "pts")
        is_frame = self.identity.frames_per_window == self.identity.rows_per_window == 1
        has_end = own.rules > 1 and not self._is_sampled
        if has_end or not is_frame:
            stops = self._rows(own, "stop_pts")  # format 1 has no rules 2 and no parts
        ticks = pts.astype(np.float64) if is_frame else (pts + stops) / 2  # a part: in its middle
        return frame_labels(
            clip,
            ticks * base,
            is_sampled=self._is_sampled,
            shown_until=float(stops[-1]) * base if has_end else None,
        )

    def _rows(self, own: ClipRecord, name: str) -> NDArray[Any]:
        """An array of a clip that its views share, (T,)."""
        version = self.identity.format_version
        specs = {s.path: s for s in clip_arrays(own.num_frames, format_version=version)}
        spec, folder = specs[name], place_of(self.path, own.key)
        parts = [load_rows(folder, spec, number, None) for number in range(spec.num_files)]
        return np.concatenate(parts)


def compare_labels(
    table: LabelTable, manifest: Manifest, clips: Collection[Clip]
) -> tuple[LabelChanges, dict[str, Relabelled]]:
    """Compare the labels of committed clips with those of a manifest.

    Args:
        table: of the store.
        manifest: for the names of the phases.
        clips: of the manifest, each committed and of the range that was extracted.

    Returns:
        The differences, and each clip with the labels that the manifest gives it.
    """
    changes, asked = LabelChanges(), {}
    for clip in clips:
        name = clip.clip_id
        try:
            asked[name] = table.asked(clip, manifest)
        except ClipFailed as error:
            changes.misfits[name] = error.reason
            continue
        for kind, what in _differences(table, asked[name]):
            changes.kinds.setdefault(kind, {})[name] = what
    return changes, asked


def _differences(table: LabelTable, asked: Relabelled) -> Iterator[tuple[str, str]]:
    held = table.record(asked.own.clip_id)
    for kind in RENEWED:
        was, now = getattr(held, kind), getattr(asked.record, kind)
        if was != now:
            yield kind, f"{_words(was)}, is {_words(now)}"
    if not table.has_labels(held.clip_id, asked.labels):
        phases = sorted({int(label) for label in asked.labels} - {UNLABELLED})
        is_labelled = int((asked.labels != UNLABELLED).sum())
        yield FRAMES, f"{is_labelled} of {len(asked.labels)} frames labelled, phases {phases}"


def _words(value: str | tuple[str, ...]) -> str:
    return repr(value) if isinstance(value, str) else f"[{', '.join(value)}]"


@dataclass(frozen=True)
class RelabelReport:
    """What relabel_store did.

    Attributes:
        changes: what differed before.
        num_clips: clips of the store.
        left: clips of the store that the manifest does not have; they keep their labels.
        num_waiting: clips of the manifest that are not in the store yet.
    """

    changes: LabelChanges
    num_clips: int
    left: tuple[str, ...]
    num_waiting: int

    def table(self) -> str:
        """The counts of each kind, one a line."""
        lines = self.changes.lines()
        lines.append(f"{len(self.changes.clips)} of {self.num_clips} clips have new labels")
        if self.left:
            some = ", ".join(self.left[:3]) + (", ..." if len(self.left) > 3 else "")
            lines.append(f"{len(self.left)} clip(s) are not in the data set, as they were: {some}")
        if self.num_waiting:
            lines.append(f"{self.num_waiting} clip(s) of the data set are not extracted yet")
        return "\n".join(lines)


def relabel_store(path: Path, manifest: Manifest) -> RelabelReport:
    """Give every clip of a store the labels that a manifest has, all of them or none.

    Tokens, times and the fingerprint of the store stay; no video is opened.  One file of the store
    is replaced (see cache.format.relabelled), so that a kill leaves all old labels or all new ones.

    Raises:
        UsageError: a clip of another video or range than was extracted, labels that do not fit the
            frames of a clip, or tags in a store of format 1: nothing is changed.
        Damaged: the index of the store cannot be read.
    """
    table, path = LabelTable(path), store_path(path)
    held = [clip for clip in manifest.clips if clip.clip_id in table.own]
    for clip in held:
        own = table.own[clip.clip_id]
        if not is_same_range(clip, own):
            raise UsageError(
                f"{clip.clip_id}: was {describe_range(own)}, is {describe_range(clip)}: other "
                "tokens, not other labels; `extract run ... --changed replace` extracts it again; "
                "no label was changed"
            )
    changes, asked = compare_labels(table, manifest, held)
    if changes.misfits:
        name, why = next(iter(changes.misfits.items()))
        raise UsageError(
            f"{len(changes.misfits)} clip(s) have labels that do not fit, such as {name}: {why}; "
            "no label was changed"
        )
    for new in asked.values():
        new.record.require_fits(format_version=table.identity.format_version)
    left = tuple(sorted(table.own.keys() - asked.keys()))
    kept = {name: clip for name, clip in table.renewed.items() if name in left}
    renewed = {name: clip for name, clip in asked.items() if not _is_own(table, clip)}
    if table.is_damaged or changes.clips:
        write_relabelled(path, kept | renewed)
    return RelabelReport(changes, len(table.own), left, len(manifest.clips) - len(held))


def _is_own(table: LabelTable, clip: Relabelled) -> bool:
    """Whether a clip has the labels that it was committed with."""
    same = replace(clip.record, labels_sha256=clip.own.labels_sha256) == clip.own
    return same and table.has_own_labels(clip.own.clip_id, clip.labels)


def describe_range(clip: Clip | ClipRecord) -> str:
    """The part of a video that a clip is, in words; of a folder of pictures also their rate."""
    return _range(clip) + _rate(clip)


def _rate(clip: Clip | ClipRecord) -> str:
    fps = clip.picture_fps if isinstance(clip, Clip) else None
    if isinstance(clip, ClipRecord):
        fps = clip.source["container"].get("picture_fps")
    return "" if fps is None else f" at {fps:g} pictures/s"


def is_same_range(clip: Clip, record: ClipRecord) -> bool:
    """Whether a clip is the part of the video that was extracted."""
    has_pictures = "picture_fps" in record.source["container"]
    asked = replace(clip, picture_fps=(clip.picture_fps or DEFAULT_FPS) if has_pictures else None)
    return describe_range(asked) == describe_range(record)


def _range(clip: Clip | ClipRecord) -> str:
    if clip.start_seconds is None and clip.stop_seconds is None:
        return clip.video
    stop = "the end" if clip.stop_seconds is None else f"{clip.stop_seconds:g} s"
    return f"{clip.start_seconds or 0.0:g} s to {stop} of {clip.video}"
