"""The embedding file, which phase 2 writes and phase 3 reads: one HDF5 file, written atomically.

FORMAT.md has its layout: n clips, the frames (or other units) of all of them end to end, with the
fields of EmbeddedClip.  A file without targets and class names whose unit is the frame is written
as version 1, any other as version 2.  A user block of 512 bytes holds the SHA-256 of all later
bytes, so that damage is found before the HDF5 library reads the file, which might hang.  A user's
own file may leave out the user block, the attributes and what is optional, and may be an .npz with
the same names.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tokenreel.cache.canonical import canonical_json, read_json
from tokenreel.cache.embedding_arrays import (
    TEXTS,
    load_arrays,
    require_file,
    unreadable_embeddings,
)
from tokenreel.cache.errors import EmbeddingFileError
from tokenreel.cache.files import make_directory, whole_file
from tokenreel.cache.locks import BUSY, create_hdf5, is_busy
from tokenreel.cache.manifest import UNLABELLED

log = logging.getLogger(__name__)

FORMAT = "tokenreel-embeddings"
VERSIONS = (1, 2)
BLOCK = 512  # bytes of the user block: what HDF5 allows at least
MAGIC = b"tokenreel-embeddings sha256 "
PER_CLIP = ("clip_id", "split", "action", "group", "video", "phases")  # texts
FRAME = "frame"
PER_FRAME = {"labels": np.int16, "times_seconds": np.float64, "frame_index": np.int64}
RENAMED = {"store_recipe": "store_identity", "layers": "blocks"}  # keys of provenance
PHASES = '["raise", "pour"]'
MOST_ROUNDED = 0.01  # of the range of a channel, by rounding to float32
CHANNELS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class EmbeddedClip:
    """The embeddings of one clip, and its labels, times and names for evaluation.

    Attributes:
        clip_id: name of the clip, unique in the file.
        split: "train", "val" or "test".
        action: name of the action, "" when unknown.
        group: clips of one group show the same video; "" when unknown.
        embeddings: (T, C) float32, T >= 1, finite.
        labels: (T,) int16, phase of each frame, -1 where unlabelled.
        times_seconds: (T,) float64, presentation time in the video.
        phases: names of the phases of the action, in the order of their indices.
        frame_index: (T,) int64, index of each frame in the decoded video.
        video: path of the video, relative to the data set's root.
        targets: (K,) int64 or float64, what a metric of clips compares with: 0 or 1 for each of
            the class names of the file, or values; (0,) when there are none.
        is_timed: whether times_seconds are known; otherwise they count the frames.
    """

    clip_id: str
    split: str
    action: str
    group: str
    embeddings: np.ndarray
    labels: np.ndarray
    times_seconds: np.ndarray
    phases: tuple[str, ...] = ()
    frame_index: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    video: str = ""
    targets: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    is_timed: bool = True

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.embeddings)

    def moment(self, frame: int, *, digits: int = 2) -> str:
        """Where a frame is, for people: its time, or its number where times are unknown."""
        if self.is_timed:
            return f"{self.times_seconds[frame]:.{digits}f} s"
        return f"frame {frame}"


@dataclass(frozen=True, eq=False)
class EmbeddingFile:
    """An embedding file in memory.

    Attributes:
        path: where it was read from.
        provenance: the run, identity, seed, store... that made it; {} in a user's own file.
        clips: in the order of the file.
        unit: what a row of embeddings is of: "frame", "scene", "clip"...
        class_names: (K,) of the columns of targets; () when they have none.
        notes: a sentence for each thing that was read in another way than it was written.
    """

    path: Path
    provenance: dict[str, Any]
    clips: tuple[EmbeddedClip, ...]
    unit: str = FRAME
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_of_tags(self) -> bool:
        """Whether its rows are scores of whole clips, one for each of class_names."""
        count = len(self.class_names)
        return (
            self.unit == "clip"
            and count > 0
            and all(
                clip.embeddings.shape == (1, count) and len(clip.targets) == count
                for clip in self.clips
            )
        )

    @property
    def run_name(self) -> str:
        """The run of its provenance; else the name of the file, or of its folder."""
        named = self.provenance.get("run")
        if named:
            return str(named)
        is_of_run = self.path.stem == "embeddings" and self.path.parent.name
        return self.path.parent.name if is_of_run else self.path.stem


def tag_targets(
    tags: Mapping[str, Sequence[str]], names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Tags of clips as targets: 1 for each that a clip has.

    Args:
        tags: clip id -> its tags.
        names: of the columns; all tags, sorted, when None.

    Returns:
        The names, and clip id -> (K,) int64.

    >>> names, targets = tag_targets({"a": ["war", "drama"], "b": ["war"], "c": []})
    >>> names, [row.tolist() for row in targets.values()]
    (('drama', 'war'), [[1, 1], [0, 1], [0, 0]])
    """
    every = sorted({tag for own in tags.values() for tag in own}) if names is None else names
    return tuple(every), {
        clip_id: np.array([name in own for name in every], np.int64)
        for clip_id, own in tags.items()
    }


def write_embeddings(
    path: str | Path,
    clips: Sequence[EmbeddedClip],
    *,
    provenance: Mapping[str, Any],
    unit: str = FRAME,
    class_names: Sequence[str] = (),
) -> Path:
    """Write an embedding file atomically: on an error a former file stays as it was.

    Args:
        path: the file, usually RUN/embeddings.h5; its folder is created if absent.
        clips: at least one, all with the same number of channels and of targets.
        provenance: what made the embeddings; plain JSON values.
        unit: what a row of embeddings is of.
        class_names: of the columns of the clips' targets.

    Raises:
        ValueError: clips whose shapes, names or values do not fit the layout.
    """
    path = Path(path)
    arrays = flatten_clips(clips, unit=unit, class_names=class_names)
    version = 2 if {"unit", "targets", "class_names"} & arrays.keys() else 1
    text = canonical_json(dict(provenance)).decode()
    make_directory(path.parent)
    size = sum(array.nbytes for array in arrays.values() if isinstance(array, np.ndarray))
    with whole_file(path) as beside:
        with create_hdf5(beside, num_bytes=size, userblock_size=BLOCK) as file:
            for name, array in arrays.items():
                kind = h5py.string_dtype() if name in TEXTS else None
                file.create_dataset(name, data=array, dtype=kind)
            file.attrs.update(
                format=FORMAT, version=version, provenance=text, sha256=_digest(arrays, text)
            )
        with beside.open("r+b") as handle:
            handle.write(MAGIC + sum_after_block(beside))
    return path


def read_embeddings(path: str | Path, *, finite: bool = True) -> EmbeddingFile:
    """Read an embedding file, ours or a user's, and check all of it.

    Args:
        path: the file.
        finite: refuse NaN and infinity; False leaves them to the caller.

    Raises:
        EmbeddingFileError: absent, torn, altered, open in another process, larger than it may be,
            or not in the layout above.
    """
    path = Path(path)
    if not path.is_file():
        raise EmbeddingFileError(f"{path}: no such embedding file")
    check_sum(path)
    arrays, attributes = load_arrays(path)
    for name in ("embeddings", "lengths", "clip_id", "split"):
        if name not in arrays:
            raise EmbeddingFileError(f"{path}: no array {name!r}; it holds {sorted(arrays)}")
    try:
        given = arrays.pop("provenance", ["{}"])
        if len(given) != 1:
            raise ValueError(f"its provenance is {len(given)} texts, wanted one")
        text = text_of(attributes.get("provenance", given[0]))
        if "format" in attributes:
            _check_attributes(attributes, _digest(arrays, text))
        provenance = _provenance(text, where=path)
        notes: list[str] = []
        clips = tuple(clips_of(arrays, finite=finite, notes=notes))
        unit, class_names = _unit_and_classes(arrays)
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise EmbeddingFileError(f"{path}: {error or type(error).__name__}") from error
    return EmbeddingFile(path, provenance, clips, unit, class_names, tuple(notes))


def read_names(path: str | Path) -> tuple[str, str]:
    """The run and the recipe that an embedding file names, without reading its arrays.

    Raises:
        EmbeddingFileError: the file, or its provenance, cannot be read.
    """
    check_sum(Path(path))
    file = _without_clips(path)
    return file.run_name, str(file.provenance.get("recipe", "") or file.run_name)


def read_provenance(path: str | Path) -> dict[str, Any]:
    """The provenance of an embedding file; its arrays are neither read nor checked.

    Raises:
        EmbeddingFileError: the file, or its provenance, cannot be read.
    """
    return dict(_without_clips(path).provenance)


def _without_clips(path: str | Path) -> EmbeddingFile:
    path = Path(path)
    arrays, attributes = load_arrays(path, names=("provenance",))
    try:
        given = arrays.get("provenance", ["{}"])
        text = text_of(attributes.get("provenance", given[0] if given else "{}"))
        return EmbeddingFile(path, _provenance(text, where=path), ())
    except ValueError as error:
        raise EmbeddingFileError(f"{path}: {error}") from error


def _check_attributes(attributes: Mapping[str, Any], digest: str) -> None:
    """Check format, version and sum of a file that names its format."""
    version = attributes.get("version", "none")
    is_known = np.ndim(version) == 0 and version in VERSIONS
    if text_of(attributes["format"]) != FORMAT or not is_known:
        wanted = " or ".join(map(str, VERSIONS))
        raise ValueError(f"not version {wanted} of the embedding file, but {version}")
    if text_of(attributes.get("sha256", "")) != digest:
        raise ValueError("damaged, its contents do not match its sha256")


def _provenance(text: str, *, where: Path) -> dict[str, Any]:
    """The provenance of a file, its parts of the expected kinds."""
    try:
        found = read_json(text)
    except ValueError as error:
        raise ValueError(f"its provenance: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"its provenance is a {type(found).__name__}, wanted an object of names")
    for name in ("evaluate", "config", "left_out"):
        if not isinstance(found.get(name, {}), dict):
            raise ValueError(f"its provenance: {name} is {found[name]!r:.60}, wanted an object")
    for action, reasons in found.get("left_out", {}).items():
        if not isinstance(reasons, list):
            raise ValueError(f"its provenance: left_out of {action!r} is no list of sentences")
    return with_current_names(found, where=where)


def _unit_and_classes(arrays: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    units = [_text("unit", unit) for unit in arrays.get("unit", [FRAME])]
    if len(units) != 1 or not units[0]:
        raise ValueError(f"unit is {units}, wanted one word such as 'frame', 'scene' or 'clip'")
    names = tuple(_text("class_names", name) for name in arrays.get("class_names", []))
    _check_class_names(names, np.shape(arrays["targets"])[1] if "targets" in arrays else None)
    return units[0], names


def _check_class_names(names: Sequence[str], num_targets: int | None) -> None:
    if len(set(names)) != len(names):
        raise ValueError("two class_names are the same")
    if names and num_targets is not None and len(names) != num_targets:
        raise ValueError(f"{len(names)} class_names for {num_targets} columns of targets")


def text_of(value: object) -> str:
    """Text as other programs write it: bytes, such as NumPy's `S` strings, are UTF-8.

    >>> text_of(b"salto"), text_of("salto")
    ('salto', 'salto')

    Raises:
        ValueError: bytes that are not UTF-8.
    """
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{value!r} is not UTF-8 text: save it as str, not as bytes") from None


def with_current_names(provenance: Mapping[str, Any], *, where: Path) -> dict[str, Any]:
    """Provenance under the names of this version; old names are logged, once for each file.

    Args:
        provenance: of an embedding file, or a run.json.
        where: the file, for the warning.
    """
    old = {name for name in RENAMED if name in provenance and RENAMED[name] not in provenance}
    if old:
        _warn_of_old_names(str(where), tuple(sorted(old)))
    return {RENAMED[key] if key in old else key: value for key, value in provenance.items()}


@cache
def _warn_of_old_names(where: str, old: tuple[str, ...]) -> None:
    pairs = ", ".join(f"{name} (now {RENAMED[name]})" for name in old)
    log.warning("%s: written by an earlier version, with the keys %s", where, pairs)


def check_sum(path: Path, *, magic: bytes = MAGIC) -> None:
    """Compare the bytes of a file of ours with its sum, before the HDF5 library sees them.

    Args:
        path: the file; one that does not begin with `magic` is somebody else's and passes.
        magic: what the user block of such a file begins with.

    Raises:
        EmbeddingFileError: torn, altered, or open in another process.
    """
    try:
        require_file(path)
        with path.open("rb") as handle:
            start = handle.read(len(magic) + 64)
        is_whole = not start.startswith(magic) or start == magic + sum_after_block(path)
        if not is_whole and is_busy(path):  # whoever writes to it has changed its bytes
            raise EmbeddingFileError(f"{path}: {BUSY}")
    except OSError as error:
        raise unreadable_embeddings(path, error) from error
    if not is_whole:
        raise EmbeddingFileError(f"{path}: torn or damaged, its bytes do not match the sha256")


def sum_after_block(path: Path) -> bytes:
    """SHA-256 of the bytes behind the user block, in hexadecimal."""
    with path.open("rb") as file:
        file.seek(BLOCK)
        return hashlib.file_digest(file, "sha256").hexdigest().encode()


def _digest(arrays: Mapping[str, Any], provenance: str) -> str:
    """SHA-256 over the arrays by sorted name (name, dtype, shape, bytes), then the provenance."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = arrays[name]
        if name in TEXTS:
            digest.update(name.encode() + canonical_json(list(value)))
        else:
            array = np.ascontiguousarray(value)
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
    digest.update(provenance.encode())
    return digest.hexdigest()


def flatten_clips(
    clips: Sequence[EmbeddedClip], *, unit: str = FRAME, class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """The arrays of an embedding file: frames of all clips end to end, texts as lists.

    Args:
        clips: at least one.
        unit: what a row is of; no array for frames.
        class_names: of the columns of targets.

    Raises:
        ValueError: clips whose shapes, names or values do not fit together.
    """
    if not clips:
        raise ValueError("an embedding file holds at least one clip, got none")
    for clip in clips:
        _check(clip, channels=clips[0].embeddings.shape[-1])
    if len({clip.clip_id for clip in clips}) != len(clips):
        raise ValueError("two clips have the same clip_id")
    index = [
        clip.frame_index if len(clip.frame_index) else np.arange(clip.num_frames) for clip in clips
    ]
    lengths = np.array([clip.num_frames for clip in clips], np.int64)
    labels = np.concatenate([clip.labels for clip in clips])
    arrays: dict[str, Any] = {
        "embeddings": np.concatenate([clip.embeddings for clip in clips]).astype(np.float32),
        "lengths": lengths,
        "labels": labels_of(labels, lengths, [clip.clip_id for clip in clips], []),
        "times_seconds": np.concatenate([clip.times_seconds for clip in clips]).astype(np.float64),
        "frame_index": np.concatenate(index).astype(np.int64),
    }
    timed = {clip.is_timed for clip in clips}
    if timed == {False}:
        del arrays["times_seconds"]
    elif len(timed) == 2:
        raise ValueError("some clips have times_seconds and others have none")
    for name in PER_CLIP[:-1]:
        arrays[name] = [getattr(clip, name) for clip in clips]
    arrays["phases"] = [canonical_json(list(clip.phases)).decode() for clip in clips]
    if len({clip.targets.shape for clip in clips}) != 1:
        shapes = sorted({clip.targets.shape for clip in clips})
        raise ValueError(f"targets of the clips are {shapes[0]} and {shapes[1]}, wanted one shape")
    num_targets = None
    if clips[0].targets.size:
        arrays["targets"] = _targets(np.stack([clip.targets for clip in clips]), len(clips))
        num_targets = arrays["targets"].shape[1]
    if unit != FRAME:
        arrays["unit"] = [unit]
    if class_names:
        _check_class_names(class_names, num_targets)
        arrays["class_names"] = list(class_names)
    return arrays


def _check(clip: EmbeddedClip, *, channels: int, finite: bool = True) -> None:
    shape = clip.embeddings.shape
    if len(shape) != 2 or shape[0] < 1 or shape[1] != channels or not channels:
        raise ValueError(f"{clip.clip_id}: embeddings are {shape}, wanted (T >= 1, {channels})")
    if clip.embeddings.dtype.kind not in "fiub":
        raise ValueError(
            f"{clip.clip_id}: embeddings are {clip.embeddings.dtype}, wanted real numbers"
        )
    if finite and not np.isfinite(clip.embeddings).all():
        raise ValueError(f"{clip.clip_id}: embeddings hold NaN or infinity")
    for name in PER_FRAME:
        length = len(getattr(clip, name))
        if length != shape[0] and not (name == "frame_index" and length == 0):
            raise ValueError(f"{clip.clip_id}: {length} {name} for {shape[0]} frames")


def clips_of(
    arrays: Mapping[str, Any], *, finite: bool, notes: list[str] | None = None
) -> list[EmbeddedClip]:
    """The clips in the arrays of an embedding file, with defaults for what is optional.

    Args:
        arrays: embeddings, lengths, clip_id, split and any of the optional ones.
        finite: refuse NaN and infinity.
        notes: gets a sentence for each array that was read in another way than it was written.

    Raises:
        ValueError: arrays that do not fit together.
    """
    notes = [] if notes is None else notes
    embeddings = np.asarray(arrays["embeddings"])
    lengths = _whole_numbers("lengths", arrays["lengths"])
    total = _total(lengths, embeddings)
    with np.errstate(
        over="ignore"
    ):  # infinity, where float32 cannot hold a value, is reported below
        given, embeddings = embeddings, embeddings.astype(np.float32, copy=False)
    _require_precision(given, embeddings)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    texts = _texts(arrays, len(lengths))
    counting = np.concatenate([np.arange(length) for length in lengths])
    for name in PER_FRAME:
        given = np.shape(arrays.get(name, counting))
        if given != (total,):
            raise ValueError(
                f"{name} are {given}, wanted ({total},): one a frame of the {len(lengths)} clips"
            )
    labels = np.asarray(arrays.get("labels", np.full(total, UNLABELLED)))
    frames: dict[str, np.ndarray] = {
        "labels": labels_of(labels, lengths, texts["clip_id"], notes),
        "times_seconds": times_of(arrays.get("times_seconds", counting)),
        "frame_index": _whole_numbers("frame_index", arrays.get("frame_index", counting)),
    }
    targets = _targets(arrays["targets"], len(lengths)) if "targets" in arrays else None
    clips = []
    for i, (start, stop) in enumerate(pairwise(starts)):
        words: dict[str, Any] = {name: texts[name][i] for name in PER_CLIP[:-1]}
        rows: dict[str, Any] = {name: values[start:stop] for name, values in frames.items()}
        if targets is not None:
            rows["targets"] = targets[i]
        clip = EmbeddedClip(
            embeddings=embeddings[start:stop],
            phases=_phases(texts["phases"][i], texts["clip_id"][i]),
            is_timed="times_seconds" in arrays,
            **words,
            **rows,
        )
        _check(clip, channels=embeddings.shape[1], finite=finite)
        clips.append(clip)
    if len(set(texts["clip_id"])) != len(clips):
        raise ValueError("two clips have the same clip_id")
    return clips


def _require_precision(given: np.ndarray, embeddings: np.ndarray) -> None:
    """Refuse numbers of which float32 keeps too little, such as small ones on a large offset.

    Args:
        given: (n, C), as the file has them.
        embeddings: the same as float32.

    Raises:
        ValueError: a channel changes by more than MOST_ROUNDED of its range.
    """
    if given.dtype.itemsize <= (2 if given.dtype.kind in "iu" else 4):  # float32 holds them
        return
    for first in range(0, given.shape[1], CHANNELS_AT_ONCE):
        part = slice(first, first + CHANNELS_AT_ONCE)
        finite = np.isfinite(embeddings[:, part]).all(axis=1)
        if not finite.any():
            continue
        own = given[finite, part].astype(np.longdouble)
        lost = np.abs(own - embeddings[finite, part]).max(axis=0)
        span = np.ptp(own, axis=0)
        bad = (span > 0) & (lost > MOST_ROUNDED * span)
        if bad.any():
            channel = int(np.argmax(bad))
            raise ValueError(
                f"embeddings are {given.dtype} and lose {float(lost[channel]):.3g} as float32, "
                f"channel {first + channel} has a range of {float(span[channel]):.3g}: subtract "
                "the mean of each channel first"
            )


def _total(lengths: np.ndarray, embeddings: np.ndarray) -> int:
    """The number of frames, which the lengths must add up to."""
    if embeddings.ndim != 2:
        raise ValueError(
            f"embeddings are {embeddings.shape}, wanted (frames of all clips, channels)"
        )
    total = len(embeddings)
    if lengths.ndim == 1 and (lengths < 1).any():
        clip = int(np.argmax(lengths < 1))
        raise ValueError(
            f"embeddings {embeddings.shape} do not fit lengths: lengths[{clip}] is "
            f"{lengths[clip]}, a clip has at least one frame"
        )
    fits = lengths.ndim == 1 and len(lengths) and lengths.min() >= 1 and lengths.max() <= total
    if not fits or int(lengths.sum()) != total:
        given = sum(map(int, lengths.ravel()))
        raise ValueError(f"embeddings {embeddings.shape} do not fit lengths of sum {given}")
    return total


def _texts(arrays: Mapping[str, Any], count: int) -> dict[str, list[str]]:
    """The texts of the clips, "" for those that the file lacks."""
    found = {}
    for name in PER_CLIP:
        given = arrays.get(name, [""] * count)
        if len(given) != count:
            raise ValueError(f"{len(given)} {name} for {count} clips")
        found[name] = [_text(name, text) for text in given]
    return found


def _text(name: str, value: object) -> str:
    """A text that HDF5 and JSON can hold.

    Raises:
        ValueError: a row of texts, or characters that no UTF-8 file can hold.
    """
    if isinstance(value, (list, tuple)):
        raise ValueError(f"{name} is {value!r:.60}, wanted one text")
    text = text_of(value)
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{name} {text!a:.60} holds a NUL or half a character: give another text")
    return text


def _phases(text: str, clip_id: str) -> tuple[str, ...]:
    """The names of the phases of a clip, a JSON array of text."""
    try:
        names = read_json(text or "[]")
    except ValueError as error:
        raise ValueError(f"phases of {clip_id}: {error}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"phases of {clip_id} are {text!r:.60}, wanted JSON such as {PHASES!r}")
    return tuple(_text("phases", name) for name in names)


def labels_of(
    values: np.ndarray, lengths: np.ndarray, clip_ids: Sequence[str], notes: list[str]
) -> np.ndarray:
    """Labels as int16; NaN is -1, and noted.

    Raises:
        ValueError: a fraction, infinity, or a number that int16 cannot hold, with its place.
    """
    if values.dtype.kind == "f":
        unknown = np.isnan(values)
        if unknown.any():
            notes.append(f"{int(unknown.sum())} labels are NaN: read as -1, unlabelled")
            values = np.where(unknown, -1, values)
    elif values.dtype.kind not in "iub":
        raise ValueError(f"labels are {values.dtype}, wanted whole numbers")
    info = np.iinfo(np.int16)
    wrong = (values < info.min) | (values > info.max) | (values != np.trunc(values))
    if values.dtype.kind != "b" and wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        clip = int(np.searchsorted(np.cumsum(lengths), first, side="right"))
        frame = first - int(lengths[:clip].sum())
        raise ValueError(
            f"label {values[first]} of frame {frame} of {clip_ids[clip]} ({int(wrong.sum())} such "
            f"labels): labels are whole numbers from 0 to {info.max}, -1 or NaN for none"
        )
    return values.astype(np.int16)


def _whole_numbers(name: str, values: Any) -> np.ndarray:
    """Values as int64.

    Raises:
        ValueError: fractions, NaN, or more than int64 holds.
    """
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        if array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any():
            raise ValueError(f"{name} hold {array.max()}, more than 64 bits with a sign")
        return array.astype(np.int64)
    is_whole = array.dtype.kind == "f" and (np.isfinite(array) & (np.abs(array) < 2**53))
    if not np.all(is_whole) or (array != np.trunc(array)).any():
        raise ValueError(f"{name} are {array.dtype} and not all whole numbers")
    return array.astype(np.int64)


def times_of(values: Any) -> np.ndarray:
    """Times as float64.

    Raises:
        ValueError: values that are not finite real numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise ValueError("times_seconds are not all finite: leave them out where they are unknown")
    return array.astype(np.float64)


def _targets(values: Any, count: int) -> np.ndarray:
    """Targets as int64 or float64, (n, K).

    Raises:
        ValueError: another shape, or values that are not finite real numbers.
    """
    array = np.asarray(values)
    if array.ndim != 2 or len(array) != count or not array.shape[1]:
        raise ValueError(f"targets are {array.shape}, wanted ({count}, K >= 1): a row a clip")
    if array.dtype.kind in "iub":
        return _whole_numbers("targets", array)
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError("targets are not all finite real numbers")
    return array.astype(np.float64)
