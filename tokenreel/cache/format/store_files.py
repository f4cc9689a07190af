"""Files of a store as a whole: identity, calibration, canary, failure records."""

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tokenreel.cache.bucket.objects import in_parallel
from tokenreel.cache.bucket.path import is_bucket, object_state, put_new, put_object, store_path
from tokenreel.cache.canonical import canonical_json, open_seal, parse_json, parse_object, seal
from tokenreel.cache.codec import calibration_hash, codec_from_identity
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import (
    Damaged,
    StoreError,
    StoreNotFound,
    UsageError,
    WrongIdentity,
    limit_behind,
    machine_error,
)
from tokenreel.cache.files import (
    again_if_stale,
    file_inside,
    files_below,
    is_made_by_another,
    make_directory,
    read_file,
    sync_directory,
    sync_tree,
    temporary_name,
    unreadable,
    write_synced,
    write_whole,
)
from tokenreel.cache.format.bucket_store import create_on_bucket
from tokenreel.cache.format.clip import clip_key
from tokenreel.cache.format.identity import KNOWN_VERSIONS, StoreIdentity, wrong_fields
from tokenreel.cache.format.layout import ArraySpec, group_json

log = logging.getLogger(__name__)
FOLDERS = ("calibration", "canary", "claims", "clips", "failed", "manifest")
WORKERS = "workers"  # a folder of notes for people; a store that is complete has none


@dataclass(frozen=True)
class StoreFacts:
    """What a store of format 2 records beside its identity and made_with.

    Attributes:
        root: a hint: the folder of the videos when the store was made, "" when unknown.
        former_fingerprints: of the stores that it was migrated from, oldest first; what was made on
            them (runs, checkpoints, embedding files) is valid for this store.
        extra: fields of other programs, plain JSON values; kept when not understood.
    """

    root: str = ""
    former_fingerprints: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "StoreFacts":
        """The facts in the attributes of a store's root; a store of format 1 has none."""
        former = tuple(attributes.get("former_fingerprints", ()))
        return cls(attributes.get("root", ""), former, attributes.get("extra", {}))


def create_store(
    path: str | Path,
    identity: StoreIdentity,
    *,
    made_with: Mapping[str, Any],
    calibration: Mapping[str, Array] | None = None,
    canary: Mapping[str, Array] | None = None,
    facts: StoreFacts | None = None,
) -> Path:
    """Create a store atomically; an existing one must have the same identity.

    Args:
        path: directory of the store.
        identity: its identity.
        made_with: versions, GPU, labels: recorded, but not part of the identity.
        calibration: arrays of the codec, whose hash is in the identity.
        canary: frames and their tokens, which each writer recomputes when it starts.
        facts: what format 2 records beside that, none of it part of the identity.

    Raises:
        WrongIdentity: a store of another identity exists at the path.
        UsageError: the calibration does not match the identity.
        StoreError: it cannot be written there.
    """
    path = store_path(path)
    codec_from_identity(identity.codec, calibration or {})
    is_new = not again_if_stale((path / "recipe.json").exists)
    if is_new and is_bucket(path):
        root = _root_group(identity, made_with, canary or {}, facts or StoreFacts())
        _create_on_bucket(path, identity, root, calibration or {}, canary or {})
    elif is_new:
        beside = temporary_name(path)
        try:
            make_directory(path.parent)
            root = _root_group(identity, made_with, canary or {}, facts or StoreFacts())
            _fill(beside, identity, root, calibration or {}, canary or {})
            os.rename(beside, path)  # noqa: PTH104  fails when another made it first
            sync_directory(path.parent)
        except OSError as error:
            if not is_made_by_another(error, (path / "recipe.json").exists):
                what = f"{path}: cannot create a store here"
                reason = StoreError(f"{what}: {error.strerror or error}")
                raise machine_error(error, what) or reason from error
            log.info("%s: created by another writer meanwhile", path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    load_identity(path)[0].require(identity, path=path)
    return path


def _create_on_bucket(
    path: Path,
    identity: StoreIdentity,
    root: bytes,
    calibration: Mapping[str, Array],
    canary: Mapping[str, Array],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "store"
        _fill(here, identity, root, calibration, canary)
        files = {file.relative_to(here).as_posix(): file.read_bytes() for file in files_below(here)}
    try:
        create_on_bucket(path, files)
    except OSError as error:
        what = f"{path}: cannot create a store here"
        reason = StoreError(f"{what}: {error.strerror or error}")
        raise machine_error(error, what) or reason from error


def create_twin(path: Path, source: Path, *, identity: StoreIdentity | None = None) -> Path:
    """Create an empty store that takes the tokens of another: its calibration and canary too.

    Args:
        path: directory of the new store; an existing one must have the same identity.
        source: directory of the other.
        identity: of the new one, where it is not that of the other.

    Raises:
        As create_store; what cannot be read of the other.
    """
    held, attributes = load_identity(source)
    return create_store(
        path,
        identity or held,
        made_with=attributes["made_with"],
        calibration=load_arrays(source / "calibration"),
        canary=load_arrays(source / "canary"),
        facts=StoreFacts.of(attributes),
    )


def _fill(
    path: Path,
    identity: StoreIdentity,
    root: bytes,
    calibration: Mapping[str, Array],
    canary: Mapping[str, Array],
) -> None:
    path.mkdir()
    for name in FOLDERS:
        (path / name).mkdir()
    for folder, arrays in (("calibration", calibration), ("canary", canary)):
        for name, array in arrays.items():
            _write_array(path / folder, name, array)
    write_synced(path / "recipe.json", identity.to_json())
    write_synced(path / "zarr.json", root)
    sync_tree(path)


def _root_group(
    identity: StoreIdentity,
    made_with: Mapping[str, Any],
    canary: Mapping[str, Array],
    facts: StoreFacts,
) -> bytes:
    """The zarr.json of a new store."""
    attributes: dict[str, Any] = {
        "fingerprint": identity.fingerprint,
        "made_with": dict(made_with),
        "canary_sha256": calibration_hash(canary) if canary else None,
    }
    if identity.format_version > 1:
        attributes |= asdict(facts)
    elif facts != StoreFacts():
        raise UsageError("format 1 keeps no root, former fingerprints or extra fields")
    return group_json({"tokenreel": seal(attributes)})


def _write_array(folder: Path, name: str, array: Array) -> None:
    """One chunk, with its crc32c.  Dtypes are those of layout.NAMES."""
    values = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    spec = _whole_spec(values.shape, values.dtype.str.replace("|", ""))
    path = file_inside(folder, name)
    (path / spec.chunk_file(0)).parent.mkdir(parents=True)
    write_synced(path / "zarr.json", canonical_json(spec.metadata()))
    write_synced(path / spec.chunk_file(0), spec.chunk_bytes(values))


def _whole_spec(shape: tuple[int, ...], dtype: str) -> ArraySpec:
    return ArraySpec(".", shape, dtype, float("nan") if "f" in dtype else 0, shape[0])


def load_arrays(folder: Path) -> dict[str, Array]:
    """The arrays below calibration/ or canary/, by name.

    Raises:
        Damaged: torn, altered, or metadata that no format writes.
    """
    arrays = {}
    if again_if_stale(folder.is_symlink):
        raise Damaged(f"{folder} is a symbolic link; a store holds files only; refused")
    names = {np.dtype(name).name: name for name in ("i1", "u1", "<i2", "<i8", "<u4", "<f2", "<f4")}
    for file in again_if_stale(lambda: sorted(folder.rglob("zarr.json"))):
        meta = parse_object(read_file(file), where=file)
        try:
            file_inside(folder.parent, file.relative_to(folder.parent).as_posix())
            spec = _whole_spec(tuple(meta["shape"]), names[meta["data_type"]])
            if meta != spec.metadata():
                raise Damaged(f"{file}: not metadata of the format")
            name = file.parent.relative_to(folder).as_posix()
            chunk = file_inside(file.parent, spec.chunk_file(0))
            arrays[name] = spec.parse_chunk(read_file(chunk), where=chunk)
        except (KeyError, TypeError, OSError) as error:
            if limit := limit_behind(error):
                raise limit from error
            raise Damaged(f"{file}: {error}") from error
    return arrays


def array_files(folder: Path) -> set[Path]:
    """Every file that the arrays below calibration/ or canary/ consist of."""
    files = set()
    for meta in folder.rglob("zarr.json"):
        shape = parse_object(read_file(meta), where=meta)["shape"]
        files |= {meta, meta.parent.joinpath("c", *["0"] * len(shape))}
    return files


def _why_no_store(path: Path) -> str:
    """Why there is no store at a path: a run knows its own."""
    if (path / "run.json").is_file():
        try:
            run = parse_json((path / "run.json").read_bytes(), where=path / "run.json")
            name = str(run["store_name"])
        except (OSError, Damaged, KeyError, TypeError):
            return f"{path}: this is a run, not a store: name the store that it was trained on"
        return f"{path}: this is a run, not a store; its store is {name}"
    if path.is_file():
        return f"{path}: this is a file; a token store is a folder"
    below = [
        entry.name for entry in sorted(path.glob("[!.]*")) if (entry / "recipe.json").is_file()
    ]
    if below:
        more = ", ..." if len(below) > 3 else ""
        return f"{path}: this folder holds stores, name one: {', '.join(below[:3])}{more}"
    return f"{path}: no token store here (no recipe.json)"


def load_identity(path: Path) -> tuple[StoreIdentity, dict[str, Any]]:
    """The identity of a store and the attributes of its root, each checked against the other.

    Raises:
        StoreNotFound: no store there.
        WrongIdentity: a format version, or a field, that this package does not know.
        Damaged: recipe.json or zarr.json was altered.
    """
    path = store_path(path)
    try:
        is_there = again_if_stale((path / "recipe.json").is_file)
    except OSError as error:  # of a bucket
        raise unreadable(path, error) from error
    if not is_there:
        raise StoreNotFound(_why_no_store(path))
    try:
        data = read_file(file_inside(path, "recipe.json"))
        _require_known_version(data, path)
        identity = StoreIdentity.model_validate_json(data)
        root = parse_object(read_file(file_inside(path, "zarr.json")), where=path / "zarr.json")
        if root["zarr_format"] != 3 or root["node_type"] != "group":
            raise Damaged(f"{path / 'zarr.json'}: not a Zarr v3 group")
        attributes = open_seal(root["attributes"]["tokenreel"], where=path / "zarr.json")
    except ValidationError as error:
        unknown = [str(e["loc"][0]) for e in error.errors() if e["type"] == "extra_forbidden"]
        if unknown:
            raise WrongIdentity(
                f"{path}: recipe.json has {', '.join(unknown)}, which this version does not know: "
                "update TokenReel"
            ) from error
        raise Damaged(f"{path}: recipe.json is damaged: {wrong_fields(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path}: recipe.json or zarr.json is damaged: {error}") from error
    kinds = {"fingerprint": str, "made_with": dict}
    if not all(isinstance(attributes.get(name), kind) for name, kind in kinds.items()):
        raise Damaged(f"{path / 'zarr.json'}: lacks a fingerprint, or what made the store")
    if identity.fingerprint != attributes["fingerprint"]:
        raise Damaged(
            f"{path}: recipe.json has fingerprint {identity.fingerprint[:12]}, "
            f"zarr.json was written for {attributes['fingerprint'][:12]}"
        )
    return identity, attributes


def _require_known_version(data: bytes, path: Path) -> None:
    version = parse_object(data, where=path / "recipe.json").get("format_version")
    if isinstance(version, int) and version > max(KNOWN_VERSIONS):
        known = " and ".join(map(str, KNOWN_VERSIONS))
        raise WrongIdentity(
            f"{path}: format {version}, this version reads {known}: update TokenReel"
        )


def record_failure(
    path: str | Path, clip_id: str, *, stage: str, reason: str, details: Mapping[str, Any]
) -> None:
    """Record that a clip failed, in failed/<key>.json, with the number of attempts so far."""
    file = store_path(path) / "failed" / f"{clip_key(clip_id)}.json"
    old = _read_failure(store_path(path), file)
    attempts = 1 + (int(old["attempts"]) if old is not None and old["clip_id"] == clip_id else 0)
    record: dict[str, Any] = {"clip_id": clip_id, "stage": stage, "reason": reason}
    record |= {"details": dict(details), "attempts": attempts}
    if is_bucket(file):
        _put_failure(file, record)
        return
    make_directory(file.parent)
    write_whole(file, canonical_json(seal(record)))


def forget_failure(path: str | Path, clip_id: str) -> None:
    """Remove the record that a clip failed, if there is one."""
    (store_path(path) / "failed" / f"{clip_key(clip_id)}.json").unlink(missing_ok=True)


def _put_failure(file: Path, record: dict[str, Any]) -> None:
    """Put a record on a bucket; of two writers at once each counts the attempt of the other."""
    for _ in range(8):
        try:
            tag = object_state(file).tag if file.is_file() else None
            if tag is not None:
                old = open_seal(parse_json(read_file(file), where=file), where=file)
                record = {**record, "attempts": int(old["attempts"]) + 1}
            data = canonical_json(seal(record))
            if put_object(file, data, tag=tag) if tag is not None else put_new(file, data):
                return
        except (FileExistsError, FileNotFoundError):
            continue
    raise StoreError(f"{file}: other writers keep writing it; rerun")


def read_failures(path: str | Path) -> list[dict[str, Any]]:
    """The quarantine records, by clip_id.

    Raises:
        Damaged: one was altered; delete it, and the clip is tried again.
    """
    path = store_path(path)
    files = again_if_stale(lambda: [*path.glob("failed/*.json")])
    read = partial(_read_failure, path)
    found = in_parallel(read, files) if is_bucket(path) else map(read, files)
    records = [record for record in found if record is not None]
    return sorted(records, key=lambda record: str(record["clip_id"]))


def _read_failure(path: Path, file: Path) -> dict[str, Any] | None:
    """A quarantine record; None where a writer has committed the clip since it was listed."""
    try:
        data = read_file(file_inside(path, f"failed/{file.name}"))
    except Damaged as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    try:
        return open_seal(parse_json(data, where=file), where=file)
    except Damaged as error:
        raise Damaged(f"{error}: delete this file, and its clip is tried again") from error
