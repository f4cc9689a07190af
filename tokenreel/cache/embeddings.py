"""The embedding file, which phase 2 writes and phase 3 reads: one HDF5 file, written atomically.

FORMAT.md has its layout, version 1: n clips, the frames of all of them end to end, with the fields
of EmbeddedClip.  A user block of 512 bytes holds the SHA-256 of all later bytes, so that damage is
found before the HDF5 library reads the file, which might hang.  A user's own file may leave out
the user block, the attributes and what is optional, and may be an .npz with the same names.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import h5py
import numpy as np

from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.errors import EmbeddingFileError
from tokenreel.cache.files import make_directory, whole_file
from tokenreel.cache.manifest import UNLABELLED

log = logging.getLogger(__name__)

FORMAT = "tokenreel-embeddings"
VERSION = 1
BLOCK = 512  # bytes of the user block: what HDF5 allows at least
MAGIC = b"tokenreel-embeddings sha256 "
TEXTS = ("clip_id", "split", "action", "group", "video", "phases")
PER_FRAME = {"labels": np.int16, "times_seconds": np.float64, "frame_index": np.int64}
RENAMED = {"store_recipe": "store_identity", "layers": "blocks"}  # keys of provenance


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

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.embeddings)


@dataclass(frozen=True, eq=False)
class EmbeddingFile:
    """An embedding file in memory.

    Attributes:
        path: where it was read from.
        provenance: the run, identity, seed, store... that made it; {} in a user's own file.
        clips: in the order of the file.
    """

    path: Path
    provenance: dict[str, Any]
    clips: tuple[EmbeddedClip, ...]


def write_embeddings(
    path: str | Path, clips: Sequence[EmbeddedClip], *, provenance: Mapping[str, Any]
) -> Path:
    """Write an embedding file atomically: on an error a former file stays as it was.

    Args:
        path: the file, usually RUN/embeddings.h5; its folder is created if absent.
        clips: at least one, all with the same number of channels.
        provenance: what made the embeddings; plain JSON values.

    Raises:
        ValueError: clips whose shapes, names or values do not fit the layout.
    """
    path = Path(path)
    arrays = flatten_clips(clips)
    text = canonical_json(dict(provenance)).decode()
    make_directory(path.parent)
    with whole_file(path) as beside:
        with h5py.File(beside, "w", userblock_size=BLOCK) as file:
            for name, array in arrays.items():
                kind = h5py.string_dtype() if name in TEXTS else None
                file.create_dataset(name, data=array, dtype=kind)
            file.attrs.update(
                format=FORMAT, version=VERSION, provenance=text, sha256=_digest(arrays, text)
            )
        with beside.open("r+b") as handle:
            handle.write(MAGIC + _sum_after_block(beside))
    return path


def read_embeddings(path: str | Path, *, finite: bool = True) -> EmbeddingFile:
    """Read an embedding file, ours or a user's, and check all of it.

    Args:
        path: the file.
        finite: refuse NaN and infinity; False leaves them to the caller.

    Raises:
        EmbeddingFileError: absent, torn, altered, or not in the layout above.
    """
    path = Path(path)
    if not path.is_file():
        raise EmbeddingFileError(f"{path}: no such embedding file")
    arrays, attributes = _load(path)
    for name in ("embeddings", "lengths", "clip_id", "split"):
        if name not in arrays:
            raise EmbeddingFileError(f"{path}: no array {name!r}; it holds {sorted(arrays)}")
    if attributes.get("format", FORMAT) != FORMAT or attributes.get("version", VERSION) != VERSION:
        raise EmbeddingFileError(f"{path}: not version {VERSION} of the embedding file")
    try:
        text = text_of(attributes.get("provenance", "{}"))
    except ValueError as error:
        raise EmbeddingFileError(f"{path}: its provenance: {error}") from None
    if "format" in attributes and attributes.get("sha256") != _digest(arrays, text):
        raise EmbeddingFileError(f"{path}: damaged, its contents do not match its sha256")
    try:
        clips = tuple(clips_of(arrays, finite=finite))
        provenance = with_current_names(json.loads(text), where=path)
    except (ValueError, KeyError, TypeError) as error:
        raise EmbeddingFileError(f"{path}: {error}") from error
    return EmbeddingFile(path, provenance, clips)


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


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    known = {"embeddings", "lengths", *PER_FRAME, *TEXTS}
    try:
        if path.suffix == ".npz":
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
                return {
                    name: archive[name].tolist() if name in TEXTS else archive[name]
                    for name in known & set(archive.files)
                }, {}
        with path.open("rb") as handle:
            start = handle.read(len(MAGIC) + 64)
        if start.startswith(MAGIC) and start != MAGIC + _sum_after_block(path):
            raise EmbeddingFileError(f"{path}: torn or damaged, its bytes do not match the sha256")
        with h5py.File(path, "r") as file:
            arrays = {
                name: file[name].asstr("utf-8")[:].tolist() if name in TEXTS else file[name][:]
                for name in known & set(file)
            }
            return arrays, dict(file.attrs)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, BadZipFile) as error:
        raise EmbeddingFileError(f"{path}: torn or not an embedding file: {error}") from error


def _sum_after_block(path: Path) -> bytes:
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


def flatten_clips(clips: Sequence[EmbeddedClip]) -> dict[str, Any]:
    """The arrays of an embedding file: frames of all clips end to end, texts as lists.

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
    arrays: dict[str, Any] = {
        "embeddings": np.concatenate([clip.embeddings for clip in clips]).astype(np.float32),
        "lengths": np.array([clip.num_frames for clip in clips], np.int64),
        "labels": np.concatenate([clip.labels for clip in clips]).astype(np.int16),
        "times_seconds": np.concatenate([clip.times_seconds for clip in clips]).astype(np.float64),
        "frame_index": np.concatenate(index).astype(np.int64),
    }
    for name in TEXTS[:-1]:
        arrays[name] = [getattr(clip, name) for clip in clips]
    arrays["phases"] = [canonical_json(list(clip.phases)).decode() for clip in clips]
    return arrays


def _check(clip: EmbeddedClip, *, channels: int, finite: bool = True) -> None:
    shape = clip.embeddings.shape
    if len(shape) != 2 or shape[0] < 1 or shape[1] != channels:
        raise ValueError(f"{clip.clip_id}: embeddings are {shape}, wanted (T >= 1, {channels})")
    if finite and not np.isfinite(clip.embeddings).all():
        raise ValueError(f"{clip.clip_id}: embeddings hold NaN or infinity")
    for name in PER_FRAME:
        length = len(getattr(clip, name))
        if length != shape[0] and not (name == "frame_index" and length == 0):
            raise ValueError(f"{clip.clip_id}: {length} {name} for {shape[0]} frames")


def clips_of(arrays: Mapping[str, Any], *, finite: bool) -> list[EmbeddedClip]:
    """The clips in the arrays of an embedding file, with defaults for what is optional.

    Args:
        arrays: embeddings, lengths, clip_id, split and any of the optional ones.
        finite: refuse NaN and infinity.

    Raises:
        ValueError: arrays that do not fit together.
    """
    lengths = np.asarray(arrays["lengths"], np.int64)
    embeddings = np.asarray(arrays["embeddings"], np.float32)
    total = int(lengths.sum())
    if lengths.ndim != 1 or (lengths < 1).any() or embeddings.ndim != 2 or len(embeddings) != total:
        raise ValueError(f"embeddings {embeddings.shape} do not fit lengths of sum {total}")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    counting = np.concatenate([np.arange(length) for length in lengths])
    defaults: dict[str, Any] = {
        "labels": np.full(total, UNLABELLED),
        "times_seconds": counting,
        "frame_index": counting,
    }
    frames = {n: np.asarray(arrays.get(n, defaults[n])).astype(t) for n, t in PER_FRAME.items()}
    blank = [""] * len(lengths)
    texts = {name: [text_of(text) for text in arrays.get(name, blank)] for name in TEXTS}
    for name, values in (frames | texts).items():
        if len(values) != (total if name in frames else len(lengths)):
            raise ValueError(f"{len(values)} {name} for {len(lengths)} clips of {total} frames")
    clips = []
    for i, (start, stop) in enumerate(pairwise(starts)):
        words: dict[str, Any] = {name: texts[name][i] for name in TEXTS[:-1]}
        phases = tuple(json.loads(texts["phases"][i] or "[]"))
        rows: dict[str, Any] = {name: values[start:stop] for name, values in frames.items()}
        clip = EmbeddedClip(embeddings=embeddings[start:stop], phases=phases, **words, **rows)
        _check(clip, channels=embeddings.shape[1], finite=finite)
        clips.append(clip)
    if len(set(texts["clip_id"])) != len(clips):
        raise ValueError("two clips have the same clip_id")
    return clips
