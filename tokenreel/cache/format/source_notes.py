"""`sources.json` of a store: what was learnt of its videos after their clips were committed.

A note saves hashing a video again whose time differs from the one in a record, or whose record has
none (format 1).  Without the file nothing is lost: videos are hashed again.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tokenreel.cache.canonical import canonical_json, open_seal, parse_json, seal
from tokenreel.cache.errors import Damaged
from tokenreel.cache.files import again_if_stale, file_inside, write_whole

log = logging.getLogger(__name__)

NOTES = "sources.json"

Note = tuple[int, int, str]  # size, mtime_ns and sha256 of a video


@dataclass(frozen=True)
class SourceNotes:
    """The notes of a store.

    Attributes:
        root: a hint: the folder of the videos when they were last compared, "" when unknown.
        videos: state of a video that was hashed, by its path below the root.
    """

    root: str = ""
    videos: Mapping[str, Note] = field(default_factory=dict)


def load_notes(path: Path) -> SourceNotes:
    """The notes of a store; empty ones where it has none.

    Raises:
        Damaged: altered, torn or of another form.
    """
    file = file_inside(path, NOTES)
    try:
        data = again_if_stale(file.read_bytes)
    except FileNotFoundError:
        return SourceNotes()
    try:
        values = open_seal(parse_json(data, where=file), where=file)
        videos = {
            str(video): (int(size), int(mtime_ns), str(sha256))
            for video, (size, mtime_ns, sha256) in values["videos"].items()
        }
        return SourceNotes(str(values["root"]), videos)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{file}: no notes of videos ({error}); delete it") from error


def read_notes(path: Path) -> SourceNotes:
    """As load_notes, but damaged ones count as none: they only save work."""
    try:
        return load_notes(path)
    except Damaged as error:
        log.warning("%s; videos are hashed again", error)
        return SourceNotes()


def add_notes(path: Path, *, root: str = "", videos: Mapping[str, Note] | None = None) -> None:
    """Add to the notes of a store, whole or not at all; nothing is written where nothing is new.

    Of two processes that add at once the notes of the last one stay.

    Args:
        path: the store.
        root: folder of the videos; "" leaves it as it is.
        videos: as in SourceNotes.
    """
    held = read_notes(path)
    new = SourceNotes(root or held.root, {**held.videos, **(videos or {})})
    if new != held:
        values = {
            "root": new.root,
            "videos": {name: list(note) for name, note in new.videos.items()},
        }
        write_whole(path / NOTES, canonical_json(seal(values)))
