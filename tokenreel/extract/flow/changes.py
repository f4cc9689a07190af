"""What changed since the clips of a store were committed: videos, ranges, and what left the data.

A clip is made of a range of a video.  Where another range is listed now, or the video has other
bytes, its tokens are of the past: they are replaced, or kept and named.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.format.source_notes import add_notes, read_notes
from tokenreel.cache.format.store_files import StoreFacts, load_identity
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.tools.sources import SourceCheck, check_sources
from tokenreel.extract.flow.relabel import (
    LabelChanges,
    LabelTable,
    compare_labels,
    describe_range,
    is_same_range,
)

log = logging.getLogger(__name__)

WhenChanged = Literal["refuse", "replace", "keep"]


@dataclass(frozen=True)
class StoreChanges:
    """Differences between a store and the data set that it was extracted from.

    Attributes:
        policy: what is done with clips whose video or range changed.
        changed: by id, what was and what is.
        replaced: records of the clips that are extracted again, by id.
        left: clips of the store that the manifest has no more.
        sources: what was looked at.
        labels: differences of splits, actions, groups, tags, phases and labels of frames.
    """

    policy: WhenChanged = "refuse"
    changed: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, ClipRecord] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    sources: SourceCheck = field(default_factory=SourceCheck)
    labels: LabelChanges = field(default_factory=LabelChanges)


def find_changes(
    manifest: Manifest,
    store: Path,
    part: Sequence[Clip],
    *,
    policy: WhenChanged = "refuse",
    is_whole: bool = True,
    progress: bool = True,
) -> StoreChanges:
    """Compare the committed clips of a store with a manifest and its videos.

    Args:
        manifest: the clips.
        store: directory of the store; without one nothing has changed.
        part: the clips of this shard.
        policy: what is to be done with clips whose video or range changed.
        is_whole: whether the manifest has every clip of the data set.
        progress: whether to draw a bar while videos are hashed.

    Raises:
        UsageError: another policy than the three.
        Damaged: the index of the store cannot be read.
    """
    if policy not in get_args(WhenChanged):
        raise UsageError(f"--changed {policy!r}: {', '.join(get_args(WhenChanged))}")
    if not (store / "recipe.json").is_file():
        return StoreChanges(policy)
    table = LabelTable(store)
    records = table.own
    listed = {clip.clip_id for clip in manifest.clips}
    left = sorted(records.keys() - listed) if is_whole else []
    held = [(clip, records[clip.clip_id]) for clip in part if clip.clip_id in records]
    moved = {
        clip.clip_id: f"{clip.clip_id}: was {describe_range(record)}, is {describe_range(clip)}"
        for clip, record in held
        if not is_same_range(clip, record)
    }
    rest = [record for clip, record in held if clip.clip_id not in moved]
    sources = check_sources(store, rest, manifest.root, progress=progress)
    if sources.num_videos and not sources.missing:
        _note_root(store, manifest.root.absolute())
    changed = moved | {change.record.clip_id: str(change) for change in sources.changed}
    replaced = {name: records[name] for name in changed} if policy == "replace" else {}
    same = [clip for clip, _ in held if clip.clip_id not in changed]
    labels, _ = compare_labels(table, manifest, same)
    ordered = dict(sorted(changed.items()))
    return StoreChanges(policy, ordered, replaced, tuple(left), sources, labels)


def _note_root(store: Path, root: Path) -> None:
    """Note where the videos are now, unless the store says so already."""
    known = read_notes(store).root or StoreFacts.of(load_identity(store)[1]).root
    if known != str(root):
        with suppress(OSError):  # a store that may only be read
            add_notes(store, root=str(root))
