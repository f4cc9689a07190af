"""Arrays of an embedding file as they are stored, HDF5 or .npz: sizes first, then contents.

Nothing of a file is trusted: what an array would take in memory is compared with the size of the
file before it is read, objects are never unpickled, and whatever a library raises becomes one
error with the reason.
"""

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from tokenreel.cache.errors import EmbeddingFileError, UnreadableFile, machine_error
from tokenreel.cache.locks import open_hdf5

TEXTS = (
    "clip_id",
    "split",
    "action",
    "group",
    "video",
    "phases",
    "unit",
    "class_names",
    "provenance",
)
NUMBERS = ("embeddings", "lengths", "labels", "times_seconds", "frame_index", "targets")
TEXTS_OF_TEXT_FILE = ("clip_id", "prompts", "texts")
NUMBERS_OF_TEXT_FILE = ("pooled", "rows", "tokens", "token_counts")
ALL_TEXTS = {*TEXTS, *TEXTS_OF_TEXT_FILE}

MOST_UNPACKED = 100  # times the size of the file; embeddings never compress as well as this
ALWAYS_READ = 256_000_000  # bytes that any file may unpack to

INSTEAD = {  # array -> what to write instead of text or objects
    "labels": "give numbers from 0, -1 for none, and the names of the phases in phases",
    "lengths": "give the number of frames of each clip",
    "embeddings": "give one (frames of all clips, channels) array of float32",
}


@dataclass(frozen=True)
class ArraySpec:
    """Shape and type of an array, known before it is read.

    Attributes:
        shape: of the array.
        dtype: of numpy; text of variable length is an object type, with `is_text`.
        is_text: whether it is text of HDF5.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_text: bool = False

    @property
    def num_bytes(self) -> int:
        """Of the array in memory; text of variable length counts a pointer each."""
        return math.prod(self.shape) * self.dtype.itemsize


def load_arrays(
    path: Path, *, names: Sequence[str] = (*NUMBERS, *TEXTS)
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The known arrays of a file, texts as lists, and its attributes; {} for an .npz.

    Args:
        path: the file.
        names: the arrays that are read, where the file has them.

    Raises:
        EmbeddingFileError: not such a file, torn, open in another process, larger than it may be,
            or with an array of another type.
    """
    with _reading(path):
        if _is_npz(path):
            with path.open("rb") as handle, zipfile.ZipFile(handle) as archive:
                members, specs = _specs_of_zip(archive)
                known = _checked(path, specs, names)
                return {name: _read_member(archive, members[name], name) for name in known}, {}
        with open_hdf5(path) as file:
            known = _checked(path, _specs_of_hdf5(file), names)
            arrays = {name: _read_dataset(file[name], name) for name in known}
            return arrays, dict(file.attrs)


def array_specs(path: Path) -> dict[str, ArraySpec]:
    """Name -> shape and type of every array of a file; none of them is read.

    Raises:
        EmbeddingFileError: not such a file, torn, or open in another process.
    """
    with _reading(path):
        if _is_npz(path):
            with path.open("rb") as handle, zipfile.ZipFile(handle) as archive:
                return _specs_of_zip(archive)[1]
        with open_hdf5(path) as file:
            return _specs_of_hdf5(file)


def _is_npz(path: Path) -> bool:
    """Whether a file is an .npz: by its first bytes, and by its name where they say nothing."""
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or (path.suffix.lower() == ".npz" and start != b"\x89HDF")


def require_file(path: Path) -> None:
    """Raise for what is no file, such as a pipe, which would be waited for.

    Raises:
        EmbeddingFileError: a folder, a pipe or a device; what is absent is left to who opens it.
    """
    if path.exists() and not path.is_file():
        raise EmbeddingFileError(f"{path}: no file: an embedding file is HDF5 or .npz")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever reading a file raises into an EmbeddingFileError with its path."""
    try:
        require_file(path)
        yield
    except EmbeddingFileError:
        raise
    except MemoryError as error:
        raise UnreadableFile(f"{path}: not enough memory to read it") from error
    except BlockingIOError as error:
        raise EmbeddingFileError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise unreadable_embeddings(path, error) from error
    except Exception as error:  # a torn file makes zipfile, numpy and h5py raise almost anything
        raise _torn(path, error) from error


def unreadable_embeddings(path: Path, error: OSError) -> EmbeddingFileError:
    """The error for an embedding file that cannot be opened or read: the machine's, or its own."""
    if found := machine_error(error, path):
        return UnreadableFile(str(found))
    return _torn(path, error)


def _torn(path: Path, error: Exception) -> EmbeddingFileError:
    reason = str(error) or type(error).__name__
    kind = "torn or not an embedding file"
    return EmbeddingFileError(f"{path}: {kind}, neither HDF5 nor .npz: {reason}")


def _checked(path: Path, specs: Mapping[str, ArraySpec], names: Sequence[str]) -> list[str]:
    """The names that there are, after a check of sizes and types."""
    known = [name for name in names if name in specs]
    unpacked = sum(specs[name].num_bytes for name in known)
    size = path.stat().st_size
    if unpacked > max(ALWAYS_READ, MOST_UNPACKED * size):
        raise EmbeddingFileError(
            f"{path}: its arrays would take {unpacked / 1e9:.1f} GB of memory, the file has "
            f"{size / 1e6:.1f} MB: not read"
        )
    for name in known:
        reason = wrong_type(name, specs[name])
        if reason:
            raise EmbeddingFileError(f"{path}: {reason}")
    return known


def wrong_type(name: str, spec: ArraySpec) -> str:
    """Why an array of that type cannot be used, and what to write instead; "" when it can."""
    kind = spec.dtype.kind
    if name in ALL_TEXTS:
        if kind == "O" and not spec.is_text:
            return f"{name} is an object array: save np.array({name}, dtype=str)"
        return "" if kind in "OUSiu" else f"{name} is {spec.dtype}, wanted text"
    instead = INSTEAD.get(name, f"give np.array({name}, dtype=float)")
    if spec.is_text or kind in "US":
        return f"{name} are text: {instead}"
    if kind == "O":
        return f"{name} is an object array: {instead}"
    if kind == "c":
        return f"{name} are complex numbers ({spec.dtype}): give real ones"
    return "" if kind in "biuf" else f"{name} are {spec.dtype}, wanted numbers"


def _specs_of_zip(
    archive: zipfile.ZipFile,
) -> tuple[dict[str, zipfile.ZipInfo], dict[str, ArraySpec]]:
    members: dict[str, zipfile.ZipInfo] = {}
    specs = {}
    for member in archive.infolist():
        if not member.filename.endswith(".npy"):
            continue
        name = member.filename.removesuffix(".npy")
        if name in members:
            raise ValueError(f"{name} is listed twice")
        with archive.open(member) as file:
            shape, dtype = _npy_header(file)
            header_bytes = file.tell()
        specs[name] = ArraySpec(shape, dtype)
        members[name] = member
        stored = member.file_size - header_bytes
        if dtype.kind != "O" and specs[name].num_bytes != stored:
            raise ValueError(
                f"{name} says {shape} of {dtype}, {specs[name].num_bytes} bytes, and holds {stored}"
            )
    return members, specs


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version} of .npy is not read")
    if any(length < 0 for length in shape):
        raise ValueError(f"a shape of {shape}")
    return shape, dtype


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Any:
    with archive.open(member) as file:
        stream: BinaryIO = file  # type: ignore[assignment]
        array = np.lib.format.read_array(stream, allow_pickle=False)  # compares the checksum
    return _listed(array.tolist()) if name in ALL_TEXTS else array


def _specs_of_hdf5(file: h5py.File) -> dict[str, ArraySpec]:
    for name in file:
        require_own_bytes(file, name)
        if name in (*TEXTS, *NUMBERS):
            item = file.get(name)
            if not isinstance(item, h5py.Dataset) or item.shape is None:
                raise EmbeddingFileError(
                    f"{file.filename}: {name} is {_kind_of(item)}, wanted an array"
                )
    return {
        name: ArraySpec(
            item.shape, item.dtype, is_text=h5py.check_string_dtype(item.dtype) is not None
        )
        for name, item in file.items()
        if isinstance(item, h5py.Dataset) and item.shape is not None
    }


def require_own_bytes(file: h5py.File, name: str) -> None:
    """Raise for an array whose bytes lie in another file, which HDF5 would open at any path.

    Raises:
        EmbeddingFileError: external storage, a virtual array, or a link to another file.
    """
    link, item = file.get(name, getlink=True), None
    if not isinstance(link, h5py.ExternalLink):
        item = file.get(name)
    is_elsewhere = isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)
    if isinstance(link, h5py.ExternalLink) or is_elsewhere:
        raise EmbeddingFileError(
            f"{file.filename}: the bytes of {name} lie in another file, which is not opened: copy "
            "them into this one (h5repack)"
        )


def _kind_of(item: Any) -> str:
    if item is None:
        return "a link to nothing"
    return "an empty array without a shape" if isinstance(item, h5py.Dataset) else "a group"


def _read_dataset(dataset: h5py.Dataset, name: str) -> Any:
    if name not in ALL_TEXTS:
        return dataset[()]
    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    try:
        found = dataset.asstr("utf-8")[()] if is_text else dataset[()]
    except UnicodeDecodeError as error:
        raise EmbeddingFileError(
            f"{dataset.file.filename}: {name} is not UTF-8 text ({error.object!r:.60}): save it as "
            "str, not as bytes"
        ) from error
    return _listed(np.asarray(found).tolist())


def _listed(values: Any) -> list[Any]:
    """Texts as a list; one that stands alone as a list of it."""
    return values if isinstance(values, list) else [values]
