"""Import features that another program made into a store.

A clip is one file `<name>.npy` where there is one block, files `<name>.<block>.npy`, or one
`<name>.h5` with arrays `tokens/<block>` and, where known, `labels`, `times_seconds`, or `units`
(T, 2) for start and stop in seconds, `bytes/<name>` of variable-length uint8, and attributes
clip_id, video, split, action, group, phases and tags (JSON): what export writes.  Each tokens array
is (T, N, D), or (T, D) where N is 1.  A table `clips.csv` beside them may have the columns file,
clip_id, video, split, action, group and labels; file is the name without `.npy` and block, or with
`.h5`; labels, `labels.csv` and `phases.csv` are those of `feature_labels`.

A TOML or JSON file with the fields of ImportStatement states what made the features.  Every file
is checked before anything is written.  A rerun compares the files with the clips that are in the
store, see `imported_clips`.
"""

import logging
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.canonical import read_json
from tokenreel.cache.codec import Encoded, calibrate, codec_identity, require_fits
from tokenreel.cache.codec.base import Array
from tokenreel.cache.csv_tables import Line, read_lines, read_table, require_splits
from tokenreel.cache.embedding_arrays import require_own_bytes
from tokenreel.cache.embeddings import labels_of, text_of, times_of
from tokenreel.cache.errors import EmbeddingFileError, UsageError, limit_behind
from tokenreel.cache.files import files_in
from tokenreel.cache.format.byte_arrays import is_array_name
from tokenreel.cache.format.clip import ClipRecord, clip_key
from tokenreel.cache.format.identity import StoreIdentity, wrong_fields
from tokenreel.cache.format.index import find_clip
from tokenreel.cache.format.layout import SEGMENT, default_stops, segments
from tokenreel.cache.format.store_files import create_store, load_arrays
from tokenreel.cache.locks import open_hdf5
from tokenreel.cache.manifest import SPLITS, UNLABELLED, Clip, text_of_name
from tokenreel.cache.read.store_reader import Store, open_store
from tokenreel.cache.tools.feature_labels import LabelTables, read_label_tables
from tokenreel.cache.tools.imported_clips import FeatureSources, clip_changes
from tokenreel.cache.write.claims import ClaimHeld
from tokenreel.cache.write.store_writer import StoreWriter

log = logging.getLogger(__name__)

WORDS = ("clip_id", "video", "split", "action", "group")
LABELS = "labels"
TABLES = ("clips.csv", "labels.csv", "phases.csv")
TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx", ".xls", ".ods")

SAMPLE_FILES, SAMPLE_FRAMES = 32, 8
TICKS = 90_000  # of a second, where a file has times


class ImportStatement(BaseModel):
    """Statement of what made the features."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(description="name of the data set")
    architecture: str = Field(description="name of the backbone")
    weights: str = Field(default="stated", description="name of the weights, for people")
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="hash of the weights")
    blocks: tuple[int, ...] = Field(description="0-based blocks the tokens come from")
    grid: tuple[int, int] = Field(description="rows and columns of the tokens; [1, 1] for one")
    dim: int = Field(gt=0, description="channels of a token")
    image_size: tuple[int, int] = Field(description="height and width that the backbone saw")
    transform: dict[str, Any] = Field(description="how frames became images: any names and values")
    frames: dict[str, Any] = Field(default={"policy": "all"}, description="which frames")
    fps: float = Field(gt=0, description="frames a second, for files without times")
    codec: str = Field(default="fp16", description="how the store keeps them")
    unit: str = Field(default="frame", description="what a row is: frame, scene, slot, ...")
    frames_per_window: int = Field(default=1, ge=1, description="frames that the backbone saw")
    rows_per_window: int = Field(default=1, ge=1, description="rows that it made of them")


@dataclass(frozen=True)
class FeatureFile:
    """One clip to import.

    Attributes:
        clip: its names and split.
        paths: block -> file that holds its tokens.
        num_frames: T.
        labels: (T,) phases, -1 unlabelled.
        phases: names of the phases of its action.
        times_seconds: (T,), None where the file has none.
        units: (T, 2) start and stop in seconds, None where the file has none.
        byte_arrays: names of its arrays of bytes.
        name: as in the tables beside it.
        tables: of labels.
    """

    clip: Clip
    paths: Mapping[int, Path]
    num_frames: int
    labels: Array
    phases: tuple[str, ...] = ()
    times_seconds: Array | None = None
    units: Array | None = None
    byte_arrays: tuple[str, ...] = ()
    name: str = ""
    tables: LabelTables | None = None


def read_statement(path: str | Path) -> ImportStatement:
    """Read a statement, TOML or JSON.

    Raises:
        UsageError: no such file, or wrong fields.
    """
    path = Path(path)
    text = "\n".join(read_lines(path))
    try:
        values = read_json(text) if path.suffix == ".json" else tomllib.loads(text)
        return ImportStatement.model_validate(values)
    except ValidationError as error:
        known = ", ".join(ImportStatement.model_fields)
        raise UsageError(f"{path}: {wrong_fields(error)}; the fields are {known}") from error
    except RecursionError as error:
        raise UsageError(f"{path}: values nested too deeply") from error
    except ValueError as error:
        raise UsageError(f"{path}: neither TOML nor JSON: {error}") from error


WhenChanged = Literal["refuse", "replace", "keep"]


@dataclass
class ImportReport:
    """What import_features did.

    Attributes:
        written: ids of the clips written now.
        replaced: of them, those that took the place of a clip of other features or labels.
        changed: of each clip whose features or labels are not those in the store and that was not
            replaced, what was and what is; by id.
        left: ids of clips of the store that have no file any more.
        accepts_changed: whether the user keeps such clips as they are.
    """

    written: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    accepts_changed: bool = False

    @property
    def exit_status(self) -> int:
        """3 where clips changed and were neither replaced nor kept on purpose, else 0."""
        return 3 if self.changed and not self.accepts_changed else 0


def import_features(
    folder: str | Path,
    store: str | Path,
    statement: ImportStatement,
    *,
    changed: WhenChanged = "refuse",
) -> ImportReport:
    """Write features into a store; a rerun after an interruption resumes.

    Args:
        folder: of the files.
        store: the store; created if absent.
        statement: what made the features.
        changed: what is done with clips whose features, labels or names are not those in the store:
            "refuse" and "keep" leave them as they are, "replace" writes them again; the old clip
            stays until the new one is committed.

    Raises:
        UsageError: a shape unlike the stated one, a missing block, NaN, or a file that changes
            while it is read.
        WrongIdentity: the store was made with other settings.
    """
    if changed not in get_args(WhenChanged):
        raise UsageError(f"--changed {changed!r}: {', '.join(get_args(WhenChanged))}")
    folder, store = Path(folder), store_path(store)
    num_tokens = statement.grid[0] * statement.grid[1]
    files = find_features(
        folder, blocks=tuple(sorted(statement.blocks)), num_tokens=num_tokens, dim=statement.dim
    )
    files = [_with_labels(file, statement.fps) for file in files]
    if (store / "recipe.json").is_file():
        calibration: Mapping[str, Array] = load_arrays(store / "calibration")
    else:
        require_fits(statement.codec, num_tokens=num_tokens, dim=statement.dim, grid=statement.grid)
        calibration = calibrate(statement.codec, _sample(files, statement), grid=statement.grid)
    stated = statement.model_dump(exclude={"dataset", "weights", "fps", "codec"})
    stated |= {"blocks": sorted(statement.blocks), "cls": "none"}
    identity = StoreIdentity(**stated, codec=codec_identity(statement.codec, calibration))
    made_with = {"made_by": "import", "dataset": statement.dataset, "weights": statement.weights}
    create_store(store, identity, made_with=made_with, calibration=calibration)
    report = ImportReport(accepts_changed=changed == "keep")
    held = open_store(store)
    report.left = sorted(held.records.keys() - {file.clip.clip_id for file in files})
    sources = FeatureSources(folder, store)
    with StoreWriter(store, writer_id="import") as writer, sources:
        for file in files:
            name = file.clip.clip_id
            replaces = None
            if writer.is_committed(name):
                what = _changes(held, file, sources, statement) if name in held.records else ""
                if what and changed != "replace":
                    report.changed[name] = what
                if not what or changed != "replace":
                    continue
                replaces = _own_record(store, name)
            try:
                _write(writer, file, sources, statement, replaces=replaces)
            except ClaimHeld:
                continue
            report.written.append(name)
            report.replaced += [name] if replaces is not None else []
    return report


def _changes(
    held: Store, file: FeatureFile, sources: FeatureSources, statement: ImportStatement
) -> str:
    """How a clip of the store differs from its file, in words; "" where it does not."""
    base = None if _times_of(file) is not None else _step(statement.fps)
    return clip_changes(
        held,
        file.clip,
        sources.describe(file.paths.values()),
        phases=file.phases,
        labels=file.labels,
        time_base=base,
    )


def _own_record(store: Path, clip_id: str) -> ClipRecord:
    """The record that a clip was committed with, whatever its labels are by now."""
    key = clip_key(clip_id)
    return find_clip(store, key)[1]


def _step(fps: float) -> Fraction:
    """Seconds from frame to frame, of files without times."""
    return 1 / Fraction(fps).limit_denominator(100_000)


def _times_of(file: FeatureFile) -> Array | None:
    """When the rows of a file begin, in seconds; None where it does not say."""
    return file.times_seconds if file.units is None else file.units[:, 0]


def _sample(files: Sequence[FeatureFile], statement: ImportStatement) -> dict[int, Array]:
    """Eight frames of each of at most 32 files, spread: block -> (F, N, D)."""
    parts: dict[int, list[Array]] = {block: [] for block in statement.blocks}
    for file in files[:: -(-len(files) // SAMPLE_FILES)]:
        step = -(-file.num_frames // SAMPLE_FRAMES)
        for block in parts:
            with opened(file.paths[block], block) as array:
                parts[block].append(_tokens(array[::step], statement))
    return {block: np.concatenate(rows) for block, rows in parts.items()}


def _tokens(rows: Any, statement: ImportStatement) -> Array:
    values: Array = np.asarray(rows, np.float32)
    return values.reshape(len(values), -1, statement.dim)


def _write(
    writer: StoreWriter,
    file: FeatureFile,
    sources: FeatureSources,
    statement: ImportStatement,
    *,
    replaces: ClipRecord | None,
) -> None:
    first = file.paths[min(file.paths)]
    source = sources.describe(file.paths.values())
    base, pts = _step(statement.fps), np.arange(file.num_frames)
    stops, times = None, _times_of(file)
    if times is not None:
        base, pts = Fraction(1, TICKS), ticks_of(times)
    if file.units is not None:
        stops = ticks_of(file.units[:, 1])
        if np.abs(stops - default_stops(pts)).max() <= 1:  # but for rounding
            stops = None
    clip = writer.begin(
        file.clip,
        dataset=statement.dataset,
        phases=file.phases,
        source=source,
        time_base=base,
        byte_arrays=file.byte_arrays,
        replaces=replaces,
    )
    try:
        for part in segments(file.num_frames)[clip.resume_frames // SEGMENT :]:
            encoded: dict[int, Encoded] = {}
            for block, path in file.paths.items():
                with opened(path, block) as array:
                    tokens = _tokens(array[part.start : part.stop], statement)
                    encoded[block] = writer.codec.encode(tokens, block=block, grid=statement.grid)
            clip.append(0, encoded, {}, None)
            for name in file.byte_arrays:
                with _open_hdf5(first) as content:
                    rows = content[f"bytes/{name}"][part.start : part.stop]
                    clip.append_bytes(name, [row.astype(np.uint8).tobytes() for row in rows])
        sources.require_unchanged(file.paths.values())
        flags = np.zeros(len(pts), np.uint8)
        clip.commit(pts, np.arange(file.num_frames), file.labels, flags, stop_pts=stops)
    except BaseException:
        clip.abort()
        raise


def _with_labels(file: FeatureFile, fps: float) -> FeatureFile:
    """The file with the labels that tables give, which come before those in it."""
    times = _times_of(file)
    if times is None:
        times = np.array([float(frame * _step(fps)) for frame in range(file.num_frames)])
    assert file.tables is not None  # every file has them
    action = file.clip.action
    labels = file.tables.labels(file.name, action, times)
    phases = file.tables.phases.get(action, file.phases)
    return replace(file, labels=file.labels if labels is None else labels, phases=phases)


def ticks_of(seconds: Array) -> Array:
    """Times as whole ticks, int64."""
    ticks: Array = np.rint(seconds * TICKS).astype(np.int64)
    return ticks


def find_features(
    folder: Path, *, blocks: tuple[int, ...], num_tokens: int, dim: int
) -> list[FeatureFile]:
    """The clips of a folder, each checked against the statement.

    Args:
        folder: of the files.
        blocks: stated blocks, which each clip must have.
        num_tokens: N of a frame.
        dim: D.

    Raises:
        UsageError: no files; a shape unlike the stated one; blocks missing, or of different
            lengths; labels or times of another length; two files of one clip.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of features")
    table = _read_table(folder / "clips.csv")
    arrays = {name: line for name, line in table.items() if line.cells.get(LABELS)}
    tables = read_label_tables(folder, arrays)
    label_files = tables.label_files
    groups: dict[str, dict[int, Path]] = {}
    unread: list[str] = []
    for path in files_in(folder):
        name = text_of_name(path.relative_to(folder).as_posix())
        if path.suffix.lower() in TABLE_SUFFIXES and name not in TABLES:
            unread.append(name)
        if path in label_files:
            continue
        if path.suffix in (".h5", ".hdf5"):
            groups.setdefault(name, {}).update(dict.fromkeys(blocks, path))
        elif path.suffix == ".npy":
            stem, _, block = name[:-4].rpartition(".")
            if len(blocks) == 1 and not _names_block(path, blocks[0]):
                stem, block = name[:-4], str(blocks[0])
            if not block.isdecimal():
                raise UsageError(
                    f"{path}: {len(blocks)} blocks are stated: name it <name>.<block>.npy"
                )
            groups.setdefault(stem, {})[int(block)] = path
    if unread:
        log.warning(
            "%s: %d table(s) are not read, such as %s: they are called %s",
            folder,
            len(unread),
            unread[0],
            ", ".join(TABLES),
        )
    if not groups:
        raise UsageError(f"{folder}: no .npy, .h5 or .hdf5 file")
    for name, line in [*table.items(), *((n, lines[0]) for n, lines in tables.spans.items())]:
        if name not in groups:
            near = get_close_matches(name, groups, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise UsageError(f"{line.where}: no file {name!r} in {folder}{hint}")
    for name, paths in groups.items():
        if set(paths) != set(blocks):
            raise UsageError(f"{name}: has blocks {sorted(paths)}, stated are {list(blocks)}")
    files = [
        replace(_inspect(name, paths, (num_tokens, dim), table), name=name, tables=tables)
        for name, paths in groups.items()
    ]
    ids = [file.clip.clip_id for file in files]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UsageError(f"{folder}: two files are of the clip {twice!r}")
    return files


def _names_block(path: Path, block: int) -> bool:
    """Whether a file is called NAME.BLOCK.npy: for this block, or beside the file of this block."""
    stem, _, word = path.stem.rpartition(".")
    is_beside = word.isdecimal() and path.with_name(f"{stem}.{block}.npy").exists()
    return bool(stem) and (word == str(block) or is_beside)


def _read_table(path: Path) -> dict[str, Line]:
    """Lines of the table by file; none without a table."""
    if not os.path.lexists(path):  # a link to nowhere is refused, not passed over
        return {}
    lines: dict[str, Line] = {}
    named: dict[str, Line] = {}
    table = list(read_table(path, required=("file",), optional=(*WORDS, LABELS)))
    require_splits(table)
    for line in table:
        file, clip_id = line.cells["file"], line.cells.get("clip_id", "")
        before = lines.setdefault(file, line)
        if before is not line:
            raise UsageError(f"{line.where}: the file {file!r} is listed at {before.where} already")
        before = named.setdefault(clip_id, line) if clip_id else line
        if before is not line:
            raise UsageError(
                f"{line.where}: the clip {clip_id!r} is listed at {before.where} already"
            )
    return lines


def _inspect(
    name: str,
    paths: Mapping[int, Path],
    wanted: tuple[int, int],
    table: Mapping[str, Line],
) -> FeatureFile:
    lengths = {}
    for block, path in paths.items():
        with opened(path, block) as array:
            shape = tuple(array.shape)
            if shape[1:] != wanted and (wanted[0] != 1 or shape[1:] != wanted[1:]):
                raise UsageError(
                    f"{path}: block {block} is {shape}, stated are (frames, {wanted[0]} tokens, "
                    f"{wanted[1]} channels)"
                )
            lengths[block] = shape[0]
    num_frames = max(lengths.values())
    if set(lengths.values()) != {num_frames} or num_frames == 0:
        raise UsageError(f"{name}: frames of its blocks are {lengths}; wanted the same, at least 1")
    words, extra = _read_names(next(iter(paths.values())), num_frames)
    stem = name.removesuffix(".h5").removesuffix(".hdf5")
    line = table.get(name)
    listed = {k: v for k, v in line.cells.items() if k in WORDS and v} if line else {}
    words = {"clip_id": stem, "video": stem, "split": "train", **words, **listed}
    tags = extra.pop("tags", ())
    if words["split"] not in SPLITS:
        raise UsageError(f"{name}: split is {words['split']!r}, not one of {', '.join(SPLITS)}")
    clip = Clip(**words, tags=tags)  # type: ignore[arg-type]
    return FeatureFile(clip, paths, num_frames, **extra)


def _read_names(path: Path, num_frames: int) -> tuple[dict[str, str], dict[str, Any]]:
    """Names of the clip in an HDF5 file, and its labels, times and phases."""
    blank: dict[str, Any] = {"labels": np.full(num_frames, UNLABELLED, np.int16)}
    if path.suffix == ".npy":
        return {}, blank
    with _open_hdf5(path) as file:
        try:
            words = {name: text_of(file.attrs[name]) for name in WORDS if name in file.attrs}
        except ValueError as error:
            raise UsageError(f"{path}: an attribute: {error}") from error
        try:
            extra = blank | {
                name: _read_texts(text_of(file.attrs.get(name, "[]")))
                for name in ("phases", "tags")
            }
        except ValueError as error:
            raise UsageError(f"{path}: the attribute phases or tags: {error}") from error
        for name in ("labels", "times_seconds", "units", "tokens", "bytes"):
            if name in file:
                _require_own_bytes(file, name)
        extra["byte_arrays"] = tuple(sorted(file.get("bytes", ())))
        for name in extra["byte_arrays"]:
            _require_own_bytes(file, f"bytes/{name}")
            array = file[f"bytes/{name}"]
            kind, shape = h5py.check_vlen_dtype(array.dtype), array.shape
            if kind != np.uint8 or shape != (num_frames,) or not is_array_name(name):
                raise UsageError(
                    f"{path}: bytes/{name} is {array.dtype}{shape} for {num_frames} units; wanted "
                    "variable-length uint8, and a name of lower-case letters, digits, _ and -"
                )
        if "units" in file:
            units = extra["units"] = file["units"][:].astype(np.float64)
            if units.shape != (num_frames, 2) or not np.isfinite(units).all():
                raise UsageError(
                    f"{path}: units is {units.shape} for {num_frames} units; wanted start and stop "
                    "of each, in seconds"
                )
            if (ticks_of(units[:, 1]) <= ticks_of(units[:, 0])).any():
                raise UsageError(f"{path}: units: one does not end after its start")
        for name, checked in (("labels", _checked_labels), ("times_seconds", _checked_times)):
            if name in file:
                values = np.asarray(file[name])
                if values.shape != (num_frames,):
                    raise UsageError(f"{path}: {name} is {values.shape} for {num_frames} frames")
                extra[name] = checked(values, path)
    return words, extra


def _checked_labels(values: Array, path: Path) -> Array:
    """Labels as int16, as embedding files have them; NaN means unlabelled, and is logged."""
    notes: list[str] = []
    try:
        labels = labels_of(values, np.array([len(values)]), [path.name], notes)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    for note in notes:
        log.warning("%s: %s", path, note)
    return labels


def _checked_times(values: Array, path: Path) -> Array:
    """Times that are finite and rise, in seconds."""
    try:
        times = times_of(values)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    if (np.diff(times) <= 0).any():
        first = int(np.flatnonzero(np.diff(times) <= 0)[0])
        raise UsageError(
            f"{path}: times_seconds of frames {first} and {first + 1} are {times[first]:g} and "
            f"{times[first + 1]:g}: frames are in order of time, each later than the one before"
        )
    return times


def _read_texts(text: str) -> tuple[str, ...]:
    """The texts of a JSON array; ValueError for anything else."""
    values = read_json(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f'{text:.60}: wanted JSON texts such as ["run", "jump"]')
    return tuple(values)


def _open_hdf5(path: Path) -> h5py.File:
    """Open a file to read; UsageError where another process writes to it."""
    try:
        return open_hdf5(path)
    except BlockingIOError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _require_own_bytes(file: h5py.File, name: str) -> None:
    try:
        require_own_bytes(file, name)
    except EmbeddingFileError as error:
        raise UsageError(str(error)) from error


@contextmanager
def opened(path: Path, block: int) -> Iterator[Any]:
    """Open the array of a block, without reading it into memory.

    Raises:
        UsageError: torn, of Python objects, or without the block.
    """
    try:
        if path.suffix == ".npy":
            yield np.load(path, mmap_mode="r", allow_pickle=False)
            return
        with _open_hdf5(path) as file:
            if f"tokens/{block}" not in file:
                raise UsageError(f"{path}: no array tokens/{block}; it holds {sorted(file)}")
            _require_own_bytes(file, f"tokens/{block}")
            yield file[f"tokens/{block}"]
    except (OSError, ValueError, EOFError) as error:
        if limit := limit_behind(error):
            raise limit from error
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: {error}") from error
