"""The embedding file: what phase 2 hands to phase 3.  One HDF5 file, whole or absent.

Layout, version 1.  n clips of T_i frames, C channels; the frames of all clips lie end to end.

    user block          512 bytes: "tokenreel-embeddings sha256 <hex>" of all bytes after them, so
                        that damage is found before the HDF5 library meets it: it may hang
    /                   attributes: format = "tokenreel-embeddings", version = 1,
                        provenance (JSON text), sha256 (of everything below, see `_digest`)
    embeddings          (sum T, C) float32
    lengths             (n,) int64         frames of each clip
    clip_id split       (n,) text
    labels              (sum T,) int16     phase of each frame, -1 = unlabelled      [optional]
    times_seconds       (sum T,) float64   presentation time in the video            [optional]
    frame_index         (sum T,) int64     index of the frame in the decoded video   [optional]
    action group video  (n,) text                                                    [optional]
    phases              (n,) text          JSON array of the names of the phases     [optional]

A user's own file may leave out what is optional, the attributes and the user block, and may be an
.npz with the same names; then labels are -1, times count frames, text is "".  A file of ours is
checked against both sums.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import h5py
import numpy as np

from tokenreel.cache.embedded import PER_FRAME, TEXTS, EmbeddedClip, clips_of, flatten_clips
from tokenreel.cache.errors import EmbeddingFileError
from tokenreel.cache.files import make_directory, whole_file
from tokenreel.cache.format.identity import canonical_json

__all__ = ["EmbeddedClip", "EmbeddingFile", "read_embeddings", "write_embeddings"]

FORMAT = "tokenreel-embeddings"
VERSION = 1
BLOCK = 512  # bytes of the user block: what HDF5 allows at least
MAGIC = b"tokenreel-embeddings sha256 "


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
    """Write an embedding file; afterwards it is there whole, or the former one still is.

    Args:
        path: the file, usually RUN/embeddings.h5; its folder is made.
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
    text = str(attributes.get("provenance", "{}"))
    if "format" in attributes and attributes.get("sha256") != _digest(arrays, text):
        raise EmbeddingFileError(f"{path}: damaged, its contents do not have its sha256")
    try:
        clips = tuple(clips_of(arrays, finite=finite))
        provenance = json.loads(text)
    except (ValueError, KeyError, TypeError) as error:
        raise EmbeddingFileError(f"{path}: {error}") from error
    return EmbeddingFile(path, provenance, clips)


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
            raise EmbeddingFileError(f"{path}: torn or damaged, its bytes do not have their sha256")
        with h5py.File(path, "r") as file:
            arrays = {
                name: file[name].asstr()[:].tolist() if name in TEXTS else file[name][:]
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
