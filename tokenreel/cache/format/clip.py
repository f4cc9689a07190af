"""One committed clip: its record, and its files checked against the format byte for byte."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import crc32c

from tokenreel.cache.bucket.local_cache import local_cache
from tokenreel.cache.bucket.path import is_bucket
from tokenreel.cache.canonical import canonical_json, open_seal, parse_json, read_json, seal
from tokenreel.cache.codec import Codec
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.files import (
    again_if_stale,
    file_inside,
    files_below,
    read_file,
    unreadable,
)
from tokenreel.cache.format.byte_arrays import (
    BytesSpec,
    byte_arrays,
    is_array_name,
    read_index,
    read_strings,
)
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.layout import (
    SEGMENT,
    ArraySpec,
    clip_arrays,
    group_json,
    shard_index,
    view_arrays,
)

# Fields of a ClipRecord that are those of the Clip in the manifest.
OF_MANIFEST = (
    "clip_id",
    "video",
    "split",
    "action",
    "group",
    "start_seconds",
    "stop_seconds",
    "tags",
)
# Fields that format 2 added to a record and to the source in it.
ADDED = ("tags", "rules", "labels_sha256", "byte_arrays", "extra")
ADDED_TO_SOURCE = ("mtime_ns", "pixel_aspect", "orientation")


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """The video a clip was made from.

    Attributes:
        video: path relative to the data set's root.
        num_bytes: size of the file.
        sha256: of the file, "" when it was not hashed.
        decoder: "pyav" or "decord"; decoder_version: its version.
        container: what the header says: duration, frame count, codec; plain JSON values.
        mtime_ns: when the file was last changed, nanoseconds since 1970; None when unknown.
        pixel_aspect: width over height of a pixel, numerator and denominator; None when unknown.
        orientation: degrees by which the header has pictures turned, clockwise; None when unknown.
    """

    video: str
    num_bytes: int
    sha256: str
    decoder: str
    decoder_version: str
    container: Mapping[str, Any]
    mtime_ns: int | None = None
    pixel_aspect: tuple[int, int] | None = None
    orientation: int | None = None

    def to_dict(self, *, format_version: int) -> dict[str, Any]:
        """Plain JSON values, as a record of that format holds them."""
        values = asdict(self)
        if format_version == 1:
            return {name: values[name] for name in values if name not in ADDED_TO_SOURCE}
        aspect = self.pixel_aspect
        return {**values, "pixel_aspect": None if aspect is None else list(aspect)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SourceInfo":
        """The source in a record of either format."""
        aspect = values.get("pixel_aspect")
        return cls(**{**values, "pixel_aspect": None if aspect is None else tuple(aspect)})


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
        tags: as in the manifest.
        rules: version of the rules by which frames and their geometry were chosen.
        labels_sha256: of labels_hash, "" in format 1.
        byte_arrays: names of the clip's arrays of bytes, sorted.
        extra: fields of other programs, plain JSON values; kept when not understood.
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
    tags: tuple[str, ...] = ()
    rules: int = 1
    labels_sha256: str = ""
    byte_arrays: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self, *, format_version: int) -> dict[str, Any]:
        """Plain JSON values, as a store of that format holds them."""
        left_out = ADDED if format_version == 1 else ()
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def require_fits(self, *, format_version: int) -> None:
        """Raise UsageError if a store of that format cannot keep what the record says."""
        blank: dict[str, Any] = {"tags": (), "rules": 1, "byte_arrays": (), "extra": {}}
        given = [name for name, value in blank.items() if getattr(self, name) != value]
        if format_version == 1 and given:
            raise UsageError(
                f"{self.clip_id}: a store of format 1 cannot keep {', '.join(given)}: make one of "
                "format 2 of it by `tokenreel store migrate STORE NEW --format 2`"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ClipRecord":
        """The record of plain values.

        Raises:
            Damaged: a field is absent or unknown, the key is not that of the clip, or its video
                would lie outside the data set's root.
        """
        if values.keys() != RECORD_FIELDS and values.keys() != RECORD_FIELDS - set(ADDED):
            raise Damaged(f"the record of a clip has fields {sorted(values)}")
        if values["key"] != clip_key(str(values["clip_id"])):
            raise Damaged(f"the record of {values['clip_id']!r} has key {values['key']!r}")
        if leaves_root(str(values["video"])):
            raise Damaged(f"the record of {values['clip_id']!r} has video {values['video']!r}")
        numerator, denominator = values["time_base"]
        tuples: dict[str, Any] = {"time_base": (numerator, denominator)}
        for name in ("phases", "tags", "byte_arrays"):
            tuples[name] = tuple(values.get(name, ()))
        if not all(map(is_array_name, tuples["byte_arrays"])):
            raise Damaged(f"the record of {values['clip_id']!r} has arrays {values['byte_arrays']}")
        return cls(**{**values, **tuples})


RECORD_FIELDS = {field.name for field in fields(ClipRecord)}


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


def labels_hash(phases: Sequence[str], labels: Array) -> str:
    """SHA-256 of the canonical JSON of the phases and the bytes of the labels, int16 (T,)."""
    digest = hashlib.sha256(canonical_json(list(phases)))
    digest.update(labels.astype("<i2").tobytes())
    return digest.hexdigest()


def all_arrays(identity: StoreIdentity, codec: Codec, record: ClipRecord) -> dict[str, ArraySpec]:
    """Every array of a clip but those of bytes, by path; the crc32c of those is one of them."""
    specs = clip_arrays(record.num_frames, format_version=identity.format_version)
    for view in range(record.num_views):
        specs += view_arrays(identity, codec, view, record.num_frames)
    specs += [spec.sums for spec in byte_arrays(record.byte_arrays, record.num_frames).values()]
    return {spec.path: spec for spec in specs}


def groups_of(specs: Iterable[str]) -> list[str]:
    """Paths of the groups between a clip and its arrays."""
    parents = {str(parent) for path in specs for parent in Path(path).parents}
    return sorted(parents - {"."})


def read_bytes(folder: Path, relative: str) -> bytes:
    """A file of a clip.

    Raises:
        Damaged: it is missing, cannot be read, or is a link.
        MachineError: only this process cannot read it.
    """
    return read_file(file_inside(folder, relative))


def clip_group(
    record: ClipRecord, seals: dict[str, list[int]], *, identity: StoreIdentity
) -> bytes:
    """The zarr.json of a clip committed to a store of the identity; load_clip reads it."""
    values = {
        "record": record.to_dict(format_version=identity.format_version),
        "seals": seals,
        "fingerprint": identity.fingerprint,
    }
    return group_json({"tokenreel": seal(values)})


def load_clip(
    folder: Path, key: str, *, fingerprint: str | None = None
) -> tuple[ClipRecord, dict[str, list[int]]]:
    """The record of a committed clip, and the checksums of the chunk files of each array.

    Args:
        folder: of the clip.
        key: expected key of the clip.
        fingerprint: of the store; None accepts a clip written for any store.

    Raises:
        Damaged: absent, altered, another clip's, or copied from a store of another identity.
    """
    where = folder / "zarr.json"
    meta = parse_json(read_bytes(folder, "zarr.json"), where=where)
    try:
        if (meta["zarr_format"], meta["node_type"]) != (3, "group"):
            raise Damaged(f"{where}: not a Zarr v3 group")
        inner = open_seal(meta["attributes"]["tokenreel"], where=where)
        record = ClipRecord.from_dict(inner["record"])
        seals: dict[str, list[int]] = inner["seals"]
        if "rules" in inner["record"] and "fingerprint" not in inner:
            raise Damaged(f"{where}: does not name the fingerprint of its store")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{where}: not the group of a clip: {error}") from error
    if record.key != key:
        raise Damaged(f"{where}: holds {record.clip_id}, its directory is {key}")
    theirs = inner.get("fingerprint", fingerprint)  # absent in the first stores of version 1
    if fingerprint is not None and theirs != fingerprint:
        raise Damaged(
            f"{where}: written for a store of fingerprint {str(theirs)[:12]}, this store has "
            f"{fingerprint[:12]}"
        )
    return record, seals


def check_shard(
    folder: Path, spec: ArraySpec, number: int, sums: Array, *, deep: bool
) -> list[str]:
    """Problems of one shard: its size, its index and, when deep, each chunk against `sums`."""
    path = file_inside(folder, spec.chunk_file(number))
    num_frames = min(SEGMENT, spec.shape[0] - number * SEGMENT)
    index = shard_index(num_frames, spec.row_bytes)
    expected = num_frames * spec.row_bytes + len(index)
    try:
        with again_if_stale(lambda: path.open("rb")) as file:
            found = file.seek(0, os.SEEK_END)
            file.seek(0)
            if found != expected:
                return [f"{path}: {found} bytes, wanted {expected}"]
            wrong = []
            for frame in range(num_frames if deep else 0):
                if crc32c.crc32c(file.read(spec.row_bytes)) != sums[frame]:
                    wrong.append(f"{path}: frame {number * SEGMENT + frame} is damaged")
            file.seek(num_frames * spec.row_bytes)
            if file.read() != index:
                wrong.append(f"{path}: its index is not that of a dense shard")
            return wrong
    except OSError as error:
        problem = unreadable(path, error)
        if not isinstance(problem, Damaged):
            raise problem from error
        return [str(problem)]


def check_clip(
    folder: Path, key: str, identity: StoreIdentity, codec: Codec, *, deep: bool
) -> list[str]:
    """Problems of a clip's directory, one sentence each.

    Args:
        folder: of the clip.
        key: expected key of the clip.
        identity: of the store.
        codec: of the store.
        deep: read every token, not only sizes, indexes and checksums of the small arrays.
    """
    try:
        record, seals = load_clip(folder, key, fingerprint=identity.fingerprint)
    except Damaged as error:
        return [str(error)]
    specs, problems = all_arrays(identity, codec, record), []
    strings = byte_arrays(record.byte_arrays, record.num_frames)
    if record.num_views != identity.num_views or set(seals) != {
        path for path, spec in specs.items() if not spec.sharded
    }:
        return [f"{folder}: its arrays are not those of the identity"]
    groups = groups_of([*specs, *strings])
    known = {"zarr.json"} | {f"{group}/zarr.json" for group in groups}
    every: list[ArraySpec | BytesSpec] = [*specs.values(), *strings.values()]
    for spec in every:
        known |= {f"{spec.path}/zarr.json"} | {spec.chunk_file(i) for i in range(spec.num_files)}
        if isinstance(spec, BytesSpec):
            problems += _check_strings(folder, spec, seals, deep=deep)
        else:
            problems += _check_array(folder, spec, seals, deep=deep)
    for group in groups:
        problems += _differs(folder, f"{group}/zarr.json", read_json(group_json()))
    present = {path.relative_to(folder).as_posix() for path in files_below(folder)}
    return problems + [
        f"{folder / extra}: does not belong here" for extra in sorted(present - known)
    ]


def _check_array(
    folder: Path, spec: ArraySpec, seals: dict[str, list[int]], *, deep: bool
) -> list[str]:
    problems = _differs(folder, f"{spec.path}/zarr.json", spec.metadata())
    for number in range(spec.num_files):
        try:
            if spec.sharded:
                sums = load_sums(folder, spec, number, seals)
                problems += check_shard(folder, spec, number, sums, deep=deep)
            else:
                load_rows(folder, spec, number, seals)
        except Damaged as error:
            problems.append(str(error))
    return problems


def _check_strings(
    folder: Path, spec: BytesSpec, seals: dict[str, list[int]] | None, *, deep: bool
) -> list[str]:
    problems = _differs(folder, f"{spec.path}/zarr.json", spec.metadata())
    for number in range(spec.num_files):
        problems += check_strings(folder, spec, number, seals, deep=deep)
    return problems


def check_strings(
    folder: Path, spec: BytesSpec, number: int, seals: dict[str, list[int]] | None, *, deep: bool
) -> list[str]:
    """Problems of one file of an array of bytes: its index and, when deep, each string."""
    try:
        sums = load_rows(folder, spec.sums, number, seals)
        places = read_index(folder, spec, number)
        rows = range(len(places)) if deep else range(0)
        read_strings(folder, spec, number, rows, places=places, sums=sums)
    except Damaged as error:
        return [str(error)]
    return []


def load_rows(
    folder: Path, spec: ArraySpec, number: int, seals: dict[str, list[int]] | None
) -> Array:
    """The rows of one chunk file of an array that is not sharded, without the padding.

    Args:
        folder: of the clip.
        spec: of the array.
        number: of the chunk file.
        seals: of the clip; None for one not yet committed: only the file's own checksum counts.

    Raises:
        Damaged: missing, altered, or another array's file.
    """
    name, checksum = spec.chunk_file(number), None
    if seals is not None:
        sums = seals.get(spec.path, [])
        if len(sums) != spec.num_files:
            raise Damaged(f"{folder}: no checksums of {spec.path}")
        checksum = sums[number]
    parse = partial(spec.parse_chunk, where=folder / name, checksum=checksum)
    fetch = partial(read_bytes, folder, name)
    if checksum is not None and is_bucket(folder):
        rows = local_cache().read(f"{folder / name} {checksum}", fetch, parse)
    else:
        rows = parse(fetch())
    return rows[: spec.shape[0] - number * spec.rows]


def load_sums(
    folder: Path, spec: ArraySpec, number: int, seals: dict[str, list[int]] | None
) -> Array:
    """The crc32c of the frames of one shard of a tokens array; arguments as in load_rows."""
    path = spec.path.replace("/tokens/", "/crc32c/")
    side = ArraySpec(path, (spec.shape[0],), "<u4", 0, SEGMENT)
    return load_rows(folder, side, number, seals)


def frames_are_whole(
    folder: Path, identity: StoreIdentity, codec: Codec, view: int, number: int
) -> bool:
    """Whether a full segment that a killed writer left is complete and undamaged."""
    for spec in view_arrays(identity, codec, view, SEGMENT * (number + 1)):
        try:
            if not spec.sharded:
                load_rows(folder, spec, number, None)
            elif check_shard(
                folder, spec, number, load_sums(folder, spec, number, None), deep=True
            ):
                return False
        except Damaged:
            return False
    return True


def _differs(folder: Path, name: str, wanted: dict[str, Any]) -> list[str]:
    try:
        found = parse_json(read_bytes(folder, name), where=folder / name)
    except Damaged as error:
        return [str(error)]
    return [] if found == wanted else [f"{folder / name}: not the metadata of the format"]
