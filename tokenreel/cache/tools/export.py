"""Export decoded tokens of chosen clips and blocks as HDF5 or .npy files for other tools."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from tokenreel.cache.bucket.path import require_disk, store_path
from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.errors import ClipFailed, Damaged
from tokenreel.cache.files import make_directory, whole_file, write_whole
from tokenreel.cache.locks import create_hdf5
from tokenreel.cache.read.store_reader import Store, open_store


@dataclass
class ExportReport:
    """Result of an export.

    Attributes:
        files: that were written.
        failed: clips that could not be written, each with the reason.
    """

    files: list[Path] = field(default_factory=list)
    failed: list[ClipFailed] = field(default_factory=list)


def export_store(
    path: str | Path,
    out: str | Path,
    *,
    kind: str = "hdf5",
    clips: Sequence[str] | None = None,
    blocks: Sequence[int] | None = None,
    view: int = 0,
) -> ExportReport:
    """Write decoded tokens, float32 (T, n, D), one file a clip (and a block, for npy).

    Args:
        path: the store.
        out: folder for the files: <key>.h5 with tokens/<block>, labels, times_seconds, units,
            bytes/<name> and the fields of the clip as attributes (import_features reads it), or
            <key>.<block>.npy and <key>.<name>/<unit>.bin.
        kind: "hdf5" or "npy".
        clips: clip ids, None for all.
        blocks: those to write, None for all.
        view: 0 is clean.

    Returns:
        The files, and the clips that cannot be read or written so; the others are.

    Raises:
        ClipNotFound: no such clip, block or view.
    """
    if kind not in ("hdf5", "npy"):
        raise ValueError(f"kind {kind!r}: hdf5 or npy")
    store, out, report = open_store(path), store_path(out), ExportReport()
    require_disk(out, "exported files")
    make_directory(out)
    chosen = store.identity.blocks if blocks is None else tuple(blocks)
    write = _write_hdf5 if kind == "hdf5" else _write_npy
    for clip_id in store.records if clips is None else clips:
        try:
            report.files += write(store, clip_id, chosen, view, out)
        except Damaged as error:
            report.failed.append(ClipFailed(ascii(clip_id)[1:-1], stage="read", reason=str(error)))
        except (UnicodeError, ValueError) as error:  # a text that HDF5 cannot hold
            reason = f"{kind} cannot hold it: {error}"
            report.failed.append(ClipFailed(ascii(clip_id)[1:-1], stage="write", reason=reason))
    return report


def _write_npy(
    store: Store, clip_id: str, blocks: Sequence[int], view: int, out: Path
) -> list[Path]:
    written, name = [], store.record(clip_id).key
    for block in blocks:
        written.append(out / f"{name}.{block}.npy")
        tokens = store.read(clip_id, blocks=[block], view=view).decode(block)
        with whole_file(written[-1]) as beside, beside.open("wb") as handle:
            np.save(handle, tokens)
    return written + _write_byte_files(store, clip_id, out)


def _write_byte_files(store: Store, clip_id: str, out: Path) -> list[Path]:
    """Each string of the arrays of bytes of a clip as a file."""
    record, written = store.record(clip_id), []
    for name in record.byte_arrays:
        folder = out / f"{record.key}.{name}"
        make_directory(folder)
        for unit, string in enumerate(store.read_bytes(clip_id, name)):
            written.append(folder / f"{unit:06}.bin")
            write_whole(written[-1], string)
    return written


def _write_hdf5(
    store: Store, clip_id: str, blocks: Sequence[int], view: int, out: Path
) -> list[Path]:
    record = store.record(clip_id)
    path = out / f"{record.key}.h5"
    identity = store.identity
    rows, _ = store.codec.stored_shape(identity.num_tokens, identity.dim, identity.grid)
    size = 4 * record.num_frames * rows * identity.dim * len(blocks)  # of float32
    with whole_file(path) as beside, create_hdf5(beside, num_bytes=size) as file:
        file.attrs.update(clip_id=clip_id, fingerprint=store.fingerprint, codec=store.codec.name)
        for name in ("video", "split", "action", "group"):
            file.attrs[name] = getattr(record, name)
        for name in ("phases", "tags"):
            file.attrs[name] = canonical_json(getattr(record, name)).decode()
        for block in blocks:
            file[f"tokens/{block}"] = store.read(clip_id, blocks=[block], view=view).decode(block)
        file["labels"] = store.labels(clip_id)
        file["times_seconds"] = store.times_seconds(clip_id)
        file["units"] = store.units(clip_id)
        for name in record.byte_arrays:
            strings = store.read_bytes(clip_id, name)
            kind = h5py.vlen_dtype(np.uint8)
            array = file.create_dataset(f"bytes/{name}", (len(strings),), kind)
            for unit, string in enumerate(strings):
                array[unit] = np.frombuffer(string, np.uint8)
    return [path]
