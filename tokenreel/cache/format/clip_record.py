"""The record of a committed clip: what its group's attributes and its manifest line say."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import Any

import crc32c

from tokenreel.cache.errors import Damaged
from tokenreel.cache.format.identity import canonical_json

__all__ = ["ClipRecord", "SourceInfo", "clip_key", "leaves_root", "open_seal", "seal"]


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """The video a clip was made from.

    Attributes:
        video: path relative to the data set's root.
        num_bytes: size of the file.
        sha256: of the file, "" when it was not hashed.
        decoder: "pyav" or "decord"; decoder_version: its version.
        container: what the header says: duration, frame count, codec; plain JSON values.
    """

    video: str
    num_bytes: int
    sha256: str
    decoder: str
    decoder_version: str
    container: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """A committed clip.

    Attributes:
        clip_id, video, split, action, group, start_seconds, stop_seconds: as in the manifest.
        key: name of its directory.
        dataset: name of the data set.
        phases: names of the phases of the action.
        num_frames: T.
        num_views: V.
        time_base: seconds of a tick of `pts`, numerator and denominator.
        source: the SourceInfo as plain values.
    """

    clip_id: str
    key: str
    dataset: str
    video: str
    split: str
    action: str
    group: str
    phases: tuple[str, ...]
    num_frames: int
    num_views: int
    start_seconds: float | None
    stop_seconds: float | None
    time_base: tuple[int, int]
    source: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ClipRecord":
        """The record of plain values.

        Raises:
            Damaged: a field is absent or unknown, the key is not that of the clip, or its video
                would lie outside the data set's root.
        """
        if set(values) != {field.name for field in fields(cls)}:
            raise Damaged(f"the record of a clip has fields {sorted(values)}")
        if values["key"] != clip_key(str(values["clip_id"])):
            raise Damaged(f"the record of {values['clip_id']!r} has key {values['key']!r}")
        if leaves_root(str(values["video"])):
            raise Damaged(f"the record of {values['clip_id']!r} has video {values['video']!r}")
        numerator, denominator = values["time_base"]
        return cls(
            **(
                dict(values)
                | {
                    "phases": tuple(values["phases"]),
                    "time_base": (numerator, denominator),
                }
            )
        )


def leaves_root(video: str) -> bool:
    """Whether a path with forward slashes is absolute or leads out of its root.

    >>> [leaves_root(path) for path in ("a/b.mp4", "/a.mp4", "a/../../b.mp4")]
    [False, True, True]
    """
    path = PurePosixPath(video)
    return path.is_absolute() or ".." in path.parts


def clip_key(clip_id: str) -> str:
    """Directory name of a clip: a readable slug and 8 digits of the hash of its whole name.

    >>> clip_key("a/clip 1"), clip_key("b/clip 1")
    ('a_clip_1-fa0545d8', 'b_clip_1-7f8428c3')
    """
    slug = re.sub(r"[^A-Za-z0-9.-]+", "_", clip_id).strip("._-")[:80] or "clip"
    return f"{slug}-{hashlib.sha256(clip_id.encode()).hexdigest()[:8]}"


def folder_of(key: str) -> str:
    """Path of a clip's directory in the store: clips/<hh>/<key>.

    >>> folder_of("a_clip_1-fa0545d8")
    'clips/fa/a_clip_1-fa0545d8'
    """
    return f"clips/{key[-8:-6]}/{key}"


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values and, as "crc32c", the checksum of their canonical JSON."""
    return {**values, "crc32c": crc32c.crc32c(canonical_json(dict(values)))}


def open_seal(values: Any, *, where: object) -> dict[str, Any]:
    """The values of a sealed object.

    Raises:
        Damaged: they do not have their checksum.
    """
    if not isinstance(values, dict) or "crc32c" not in values:
        raise Damaged(f"{where}: no checksum")
    inner = {key: value for key, value in values.items() if key != "crc32c"}
    if crc32c.crc32c(canonical_json(inner)) != values["crc32c"]:
        raise Damaged(f"{where}: its contents do not have their checksum")
    return inner
