"""Whether clips of a store are what somebody would write now: features, labels and names of clips.

Features are looked at as videos are: by size, by a note of the store where their time is the same,
and by hash where that leaves it open.
"""

import hashlib
from collections.abc import Collection, Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import UsageError, limit_behind
from tokenreel.cache.format.clip import ClipRecord, SourceInfo
from tokenreel.cache.format.source_notes import Note, add_notes, read_notes
from tokenreel.cache.manifest import Clip, text_of_name
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.source_state import (
    SourceState,
    describe_source,
    source_sha256,
    source_state,
)
from tokenreel.cache.tools.sources import IMPORTED

NAMES = ("video", "split", "action", "group", "tags")


class FeatureSources:
    """The files of features below a folder; each is hashed once, and noted in the store at the end.

    Args:
        folder: of the files.
        store: its directory.
    """

    def __init__(self, folder: Path, store: Path) -> None:
        self._folder, self._store = folder, store
        self._notes = read_notes(store).videos
        self._found: dict[Path, tuple[SourceState, str]] = {}

    def __enter__(self) -> "FeatureSources":
        return self

    def __exit__(self, *_: object) -> None:
        notes: dict[str, Note] = {
            self._name(path): (state.num_bytes, state.mtime_ns, sha256)
            for path, (state, sha256) in self._found.items()
            if not state.is_recent
        }
        with suppress(OSError):  # a store that may only be read
            add_notes(self._store, videos=notes)

    def describe(self, paths: Iterable[Path]) -> SourceInfo:
        """The files of a clip as its record has them: sizes added up, hash over their hashes.

        Raises:
            UsageError: a file cannot be read.
        """
        files = sorted(set(paths))
        found = [self._look_at(path) for path in files]
        digest = hashlib.sha256()
        for _, sha256 in found:
            digest.update(bytes.fromhex(sha256))
        size = sum(state.num_bytes for state, _ in found)
        name = files[0].name
        return SourceInfo(name, size, digest.hexdigest(), IMPORTED, "1", {})

    def require_unchanged(self, paths: Iterable[Path]) -> None:
        """Raise UsageError where a file was written to since it was described."""
        for path in sorted(set(paths)):
            try:
                is_same = source_state(path).seems(self._found[path][0])
            except OSError:
                is_same = False
            if not is_same:
                raise UsageError(
                    f"{path} changed while it was imported; nothing of its clip was kept: rerun "
                    "when nothing writes to it any more"
                )

    def _look_at(self, path: Path) -> tuple[SourceState, str]:
        if path not in self._found:
            try:
                state = source_state(path)
                note = self._notes.get(self._name(path))
                is_noted = note is not None and note[:2] == (state.num_bytes, state.mtime_ns)
                sha256 = note[2] if note is not None and is_noted else source_sha256(path)
            except OSError as error:
                if limit := limit_behind(error):
                    raise limit from error
                raise UsageError(f"{path}: {error.strerror}") from error
            self._found[path] = state, sha256
        return self._found[path]

    def _name(self, path: Path) -> str:
        return text_of_name(path.relative_to(self._folder).as_posix())


def clip_changes(
    store: Store,
    clip: Clip,
    source: SourceInfo,
    *,
    phases: tuple[str, ...],
    labels: Array,
    time_base: Fraction | None,
) -> str:
    """How a clip in a store differs from the files that it would be imported from now, in words.

    Args:
        store: of the clip.
        clip: as it would be written.
        source: its files.
        phases: names of the phases of its action.
        labels: (T,) int16.
        time_base: seconds from row to row; None where the files say when each row begins.

    Returns:
        What was and what is; "" where nothing differs.
    """
    held = store.record(clip.clip_id)
    now = {name: getattr(clip, name) for name in NAMES} | {"phases": phases}
    parts = _sources_differ(held, source.num_bytes, source.sha256) + _words_differ(held, now, now)
    if not parts and not np.array_equal(store.labels(clip.clip_id), labels):
        parts.append("other labels of frames")
    if time_base is not None and Fraction(*held.time_base) != time_base:
        parts.append(f"was {1 / Fraction(*held.time_base)} frames/s, is {1 / time_base} frames/s")
    return "; ".join(parts)


def record_changes(held: ClipRecord, other: ClipRecord) -> str:
    """How two stores' records of a clip differ in what its tokens are of and in its labels.

    Args:
        held: one of them.
        other: the other one.

    Returns:
        What the first says and what the other says; "" where nothing differs.
    """
    size, sha256 = other.source["num_bytes"], other.source["sha256"]
    parts = _sources_differ(held, size, str(sha256))
    names = (*NAMES, "phases", "start_seconds", "stop_seconds", "num_frames", "rules")
    parts += _words_differ(held, {name: getattr(other, name) for name in names}, names)
    has_hashes = held.labels_sha256 and other.labels_sha256
    if not parts and has_hashes and held.labels_sha256 != other.labels_sha256:
        parts.append("other labels of frames")
    return "; ".join(parts)


def _sources_differ(held: ClipRecord, num_bytes: int, sha256: str) -> list[str]:
    source = held.source
    if source["num_bytes"] == num_bytes and (not source["sha256"] or source["sha256"] == sha256):
        return []
    was = describe_source(source["num_bytes"], None, str(source["sha256"]))
    return [f"was of {was}, is of {describe_source(num_bytes, None, sha256)}"]


def _words_differ(held: ClipRecord, now: dict[str, Any], names: Collection[str]) -> list[str]:
    return [
        f"{name} was {getattr(held, name)!r}, is {now[name]!r}"
        for name in names
        if getattr(held, name) != now[name]
    ]
