"""Whether the videos of committed clips are what they were: by size and time, by hash where needed.

A video is as it was when its size and time are those in the record of the clip, or in a note of the
store, or when its hash is.  Only what differs in time is hashed.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tokenreel.cache.bucket.path import is_bucket
from tokenreel.cache.errors import ServiceError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.format.source_notes import Note, add_notes, read_notes
from tokenreel.cache.manifest import path_below
from tokenreel.cache.progress import Progress
from tokenreel.cache.source_state import (
    TAG,
    SourceState,
    describe_source,
    source_sha256,
    source_state,
)

log = logging.getLogger(__name__)

STAT_THREADS = 32  # a stat takes 1 ms on a network file system
HASH_THREADS = 8
IMPORTED = "import"  # the decoder of clips whose source is a file of features, not a video

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SourceChange:
    """A committed clip whose video is another one now.

    Attributes:
        record: of the clip.
        was: the video when it was extracted, in words.
        now: the video as it is, in words.
    """

    record: ClipRecord
    was: str
    now: str

    def __str__(self) -> str:
        clip = self.record
        return f"{clip.clip_id}: {clip.video} was {self.was} when it was extracted, is {self.now}"


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """Result of check_sources.

    Attributes:
        num_videos: looked at.
        num_hashed: of them, those that were read and hashed.
        num_touched: of them, those with another time and the same bytes.
        changed: clips whose video changed.
        missing: clips whose video cannot be looked at, each with the reason.
        num_imported: clips of features of another program: their videos were never seen.
    """

    num_videos: int = 0
    num_hashed: int = 0
    num_touched: int = 0
    changed: tuple[SourceChange, ...] = ()
    missing: tuple[tuple[ClipRecord, str], ...] = ()
    num_imported: int = 0

    @property
    def exit_status(self) -> int:
        """3 where a video changed or is missing, else 0."""
        return 3 if self.changed or self.missing else 0

    @property
    def num_missing(self) -> int:
        """Videos that cannot be looked at."""
        return len({record.video for record, _ in self.missing})

    def summary(self) -> str:
        """The counts, in one line."""
        counts = [f"{self.num_videos} compared"]
        for count, what in (
            (self.num_hashed, "hashed"),
            (self.num_touched, "with another time and the same bytes"),
            (len({change.record.video for change in self.changed}), "changed"),
            (self.num_missing, "missing"),
            (self.num_imported, "imported clip(s) left out, whose videos were never seen"),
        ):
            counts += [f"{count} {what}"] if count else []
        return ", ".join(counts)

    def lines(self) -> list[str]:
        """A sentence for each clip whose video changed or is missing."""
        gone = [f"{clip.clip_id}: {clip.video}: {reason}" for clip, reason in self.missing]
        if gone and not self.changed and self.num_missing == self.num_videos:
            gone = [f"{gone[0]}; none of the {self.num_videos} videos is there: another --root?"]
        return [*map(str, self.changed), *gone]


def check_sources(
    store: Path, records: Iterable[ClipRecord], root: Path, *, progress: bool = True
) -> SourceCheck:
    """Compare the videos of committed clips with what their records say.

    What had to be hashed is noted in the store, so that it is hashed once.

    Args:
        store: its directory.
        records: of the clips.
        root: folder of the videos.
        progress: whether to draw a bar while videos are hashed.
    """
    clips: dict[str, list[ClipRecord]] = {}
    num_imported = 0
    for record in records:
        if record.source["decoder"] == IMPORTED:
            num_imported += 1
            continue
        clips.setdefault(record.video, []).append(record)
    notes = read_notes(store).videos
    states = dict(zip(clips, in_threads(_state, [path_below(root, v) for v in clips]), strict=True))
    doubtful = [
        video
        for video, state in states.items()
        if isinstance(state, SourceState)
        and any(_needs_hash(record, state, notes.get(video)) for record in clips[video])
    ]
    hashes = dict(zip(doubtful, _hash_all(root, doubtful, progress=progress), strict=True))
    known = {video: state for video, state in states.items() if isinstance(state, SourceState)}
    new = {
        video: (known[video].num_bytes, known[video].mtime_ns, sha256)
        for video, sha256 in hashes.items()
        if not isinstance(sha256, OSError) and not known[video].is_recent
    }
    if new:
        _note(store, new)
    changed: list[SourceChange] = []
    missing: list[tuple[ClipRecord, str]] = []
    touched = set()
    for video, its_clips in clips.items():
        state = states[video]
        sha256 = hashes.get(video) or _noted(known.get(video), notes.get(video))
        bad = next((x for x in (state, sha256) if isinstance(x, OSError)), None)
        for record in its_clips:
            if bad is not None or not isinstance(state, SourceState):
                reason = bad.strerror if isinstance(bad, OSError) else None
                missing.append((record, (reason or str(bad)).lower()))
            elif not _is_same(record, state, str(sha256 or ""), is_hashed=not is_bucket(root)):
                changed.append(_change(record, state, str(sha256 or "")))
            elif sha256 and record.source.get("mtime_ns") not in (None, state.mtime_ns):
                touched.add(video)
    counts = len(clips), len(hashes), len(touched)
    return SourceCheck(*counts, tuple(changed), tuple(missing), num_imported)


def _state(path: Path) -> SourceState | OSError:
    try:
        return source_state(path)
    except ServiceError:  # of all videos
        raise
    except OSError as error:
        return error


def _hash(path: Path) -> str | OSError:
    try:
        return source_sha256(path)
    except OSError as error:
        return error


def _hash_all(root: Path, videos: Sequence[str], *, progress: bool) -> list[str | OSError]:
    """The hash of each video, several at once, in order."""
    if not videos:
        return []
    with (
        ThreadPoolExecutor(min(HASH_THREADS, os.cpu_count() or 1)) as pool,
        Progress(desc="hash", unit="video", total=len(videos), enabled=progress) as bar,
    ):
        found = []
        for digest in pool.map(_hash, [path_below(root, video) for video in videos]):
            found.append(digest)
            bar.update(1)
        return found


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The work done on each item, in order; each thread takes every n-th of them."""

    def part(first: int) -> list[Result]:
        return [work(item) for item in items[first::STAT_THREADS]]

    results: list[Result] = [None] * len(items)  # type: ignore[list-item]
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        for first, done in enumerate(pool.map(part, range(min(STAT_THREADS, len(items))))):
            results[first::STAT_THREADS] = done
    return results


def _noted(state: SourceState | None, note: Note | None) -> str | None:
    """The hash that a note has for a video in this state."""
    if state is None or note is None or note[:2] != (state.num_bytes, state.mtime_ns):
        return None
    return note[2]


def _needs_hash(record: ClipRecord, state: SourceState, note: Note | None) -> bool:
    """Whether size, time and note leave it open whether the video is the one of the record."""
    source = record.source
    if source["num_bytes"] != state.num_bytes or not source["sha256"]:
        return False
    if note is not None and note[:2] == (state.num_bytes, state.mtime_ns):
        return False
    return source.get("mtime_ns") != state.mtime_ns


def _is_same(record: ClipRecord, state: SourceState, sha256: str, *, is_hashed: bool) -> bool:
    source = record.source
    if source["num_bytes"] != state.num_bytes:
        return False
    if sha256 and source["sha256"]:
        return bool(sha256 == source["sha256"])
    if state.tag and (tag := source["container"].get(TAG)):
        return bool(tag == state.tag)
    if not is_hashed and source.get("mtime_ns") is not None:
        return bool(source["mtime_ns"] == state.mtime_ns)
    return True  # its time is that of the record, or nothing but its size was recorded


def _change(record: ClipRecord, state: SourceState, sha256: str) -> SourceChange:
    source = record.source
    was = describe_source(
        source["num_bytes"],
        source.get("mtime_ns"),
        str(source["sha256"]),
        str(source["container"].get(TAG, "")),
    )
    now = describe_source(state.num_bytes, state.mtime_ns, sha256, state.tag)
    return SourceChange(record, was, now)


def _note(store: Path, videos: Mapping[str, Note]) -> None:
    try:
        add_notes(store, videos=videos)
    except OSError as error:  # a store that may only be read
        log.info("%s: what was hashed is not noted: %s", store, error.strerror)
