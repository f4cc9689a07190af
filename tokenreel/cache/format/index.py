"""Which clips a store holds: the directories decide, the writers' logs are an index of them."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from tokenreel.cache.bucket.objects import in_parallel
from tokenreel.cache.bucket.path import bucket_path, is_bucket, store_path
from tokenreel.cache.canonical import canonical_json, open_seal, parse_json, seal
from tokenreel.cache.errors import Damaged
from tokenreel.cache.files import again_if_stale, file_inside, flush, sync_directory, write_all
from tokenreel.cache.format.clip import ClipRecord, clip_key, folder_of, load_clip

BESIDE = ".tmp-+"  # before the key of a clip; no key begins with "+"


def is_committed(path: Path, clip_id: str) -> bool:
    """Whether the store at `path` holds a clip, whole."""
    return again_if_stale((store_path(path) / folder_of(clip_key(clip_id)) / "zarr.json").is_file)


def log_commit(path: Path, record: ClipRecord, *, writer_name: str, format_version: int) -> None:
    """Append the record of a clip to a writer's log, and flush it.

    After its commit; of a clip that replaces another before it, so that a kill between the two
    leaves two records, of which the clip's own counts (see logged_records).
    """
    log = path / "manifest" / f"{writer_name}.jsonl"
    new = not again_if_stale(log.exists)
    line = canonical_json(seal({"record": record.to_dict(format_version=format_version)})) + b"\n"
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        num_bytes = os.fstat(handle).st_size
        try:
            write_all(handle, line)
            flush(handle, log)
        except OSError:  # a full disk: no half of a line may stay before the next one
            with suppress(OSError):
                os.ftruncate(handle, num_bytes)
            raise
    finally:
        os.close(handle)
    if new:
        sync_directory(log.parent)


def committed_keys(path: Path) -> set[str]:
    """Keys of the committed clips: names of the directories below clips/<hh>/."""
    path, keys = store_path(path), set[str]()
    if is_bucket(path):
        return set(committed_folders(path))
    clips = file_inside(path, "clips")
    for folder in _entries(clips) if again_if_stale(clips.is_dir) else []:
        if folder.is_symlink():
            raise Damaged(f"{folder.path} is a symbolic link; refused")
        if folder.is_dir():
            for entry in _entries(folder.path):
                if entry.name.startswith(".tmp-"):
                    continue
                if (
                    entry.is_symlink()
                    or folder_of(entry.name) != f"clips/{folder.name}/{entry.name}"
                ):
                    raise Damaged(f"{entry.path}: not a clip of this store; refused")
                keys.add(entry.name)
    return keys


def committed_folders(path: Path) -> dict[str, Path]:
    """Where each committed clip is, by key: on a bucket perhaps beside its place, see find_clip."""
    path = store_path(path)
    if not is_bucket(path):
        return {key: file_inside(path, folder_of(key)) for key in committed_keys(path)}
    found, beside = groups_on_bucket(path)
    return beside | found


def groups_on_bucket(path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Folders of the clips of a store on a bucket, by key: at their places, and beside these."""
    store = bucket_path(path)
    found, beside = dict[str, Path](), dict[str, Path]()
    depth = len(store.parts) + 4  # clips/<hh>/<key>/zarr.json
    for folder in in_parallel(lambda entry: entry.objects(), list((store / "clips").iterdir())):
        for entry, _ in folder:
            if entry.name == "zarr.json" and len(entry.parts) == depth:
                key = entry.parent.name.removeprefix(BESIDE)
                final = path / folder_of(key)
                if entry.parent == final:
                    found[key] = final
                elif entry.parent == beside_of(final):
                    beside[key] = beside_of(final)
    return found, beside


def folders_listed(path: Path) -> set[str]:
    """Names of the folders of clips of a store on a bucket, whether or not these are committed.

    One page of a listing has a thousand of them, but only some thirty clips' objects.
    """
    folders = list((bucket_path(path) / "clips").iterdir())
    found = in_parallel(lambda folder: folder.bucket.level(folder.key)[0], folders)
    return {name for names in found for name in names if not name.startswith(".tmp-")}


def beside_of(final: Path) -> Path:
    """Where a clip is put on a bucket that is to take the place of a committed one, `final`.

    The new one counts once its group is there, whole, as the old one has to be gone before any
    object takes the place of another: readers find it there, and the next writer of the store
    finishes what a killed one began.
    """
    return final.with_name(f"{BESIDE}{final.name}")


def place_of(path: Path, key: str) -> Path:
    """Folder of a committed clip; see find_clip."""
    return find_clip(path, key)[0] if is_bucket(path) else path / folder_of(key)


def find_clip(
    path: Path, key: str, *, fingerprint: str | None = None
) -> tuple[Path, ClipRecord, dict[str, list[int]]]:
    """Folder, record and checksums of a committed clip; see load_clip.

    On a bucket a clip that replaces another is beside its place, where the writer was killed.
    """
    final = file_inside(path, folder_of(key))
    try:
        return final, *load_clip(final, key, fingerprint=fingerprint)
    except Damaged as error:
        beside = beside_of(final)
        is_gone = isinstance(error.__cause__, FileNotFoundError)
        if not (is_bucket(path) and is_gone and (beside / "zarr.json").is_file()):
            raise
    return beside, *load_clip(beside, key, fingerprint=fingerprint)


def logged_records(path: Path) -> tuple[dict[str, ClipRecord], list[str]]:
    """Records of the logs by key, and the problems of the logs; a torn last line is none.

    A clip that was replaced has several records in the logs: the one in its directory counts.
    """
    records: dict[str, ClipRecord] = {}
    problems: list[str] = []
    replaced: set[str] = set()
    for _, lines, wrong in logged_lines(path):
        problems += wrong
        for record in lines.values():
            if records.setdefault(record.key, record) != record:
                replaced.add(record.key)
    for key in sorted(replaced):
        with suppress(Damaged):  # reported when the clip itself is read
            records[key] = find_clip(path, key)[1]
    return records, problems


def logged_lines(path: Path) -> Iterator[tuple[Path, dict[bytes, ClipRecord], list[str]]]:
    """Each writer's log: its intact lines with their records, and the problems of the others."""
    folder = file_inside(path, "manifest")
    files = again_if_stale(lambda: sorted(folder.glob("*.jsonl")))
    read: dict[Path, bytes] = {}
    if is_bucket(path):
        read = dict(zip(files, in_parallel(lambda file: file.read_bytes(), files), strict=True))
    for file in files:
        good, problems = {}, []
        data = read[file] if read else _read_log(path, file.name)
        lines = data.split(b"\n")
        for number, line in enumerate(lines[:-1], 1):
            try:
                values = open_seal(parse_json(line, where=file), where=f"{file}:{number}")
                good[line] = ClipRecord.from_dict(values["record"])
            except (Damaged, KeyError, TypeError, ValueError, AttributeError) as error:
                problems.append(f"{file}:{number}: {error}")
        yield file, good, problems


def _read_log(path: Path, name: str) -> bytes:
    return again_if_stale(file_inside(path, f"manifest/{name}").read_bytes)


def load_records(path: Path) -> dict[str, ClipRecord]:
    """Records of the committed clips, sorted by clip_id; those in no log are read from the clips.

    Raises:
        Damaged: a clip whose group cannot be read, or a path that leaves the store.
    """
    path, found = store_path(path), {}
    logged, _ = logged_records(path)
    keys = committed_keys(path)
    unlogged = [key for key in keys if key not in logged]
    read: dict[str, ClipRecord | None] = {}
    if is_bucket(path):
        read |= zip(unlogged, in_parallel(partial(_load, path), unlogged), strict=True)
    for key in keys:
        record = logged.get(key) or (read[key] if key in read else _load(path, key))
        if record is not None:
            found[record.clip_id] = record
    return dict(sorted(found.items()))


def _load(path: Path, key: str) -> ClipRecord | None:
    """The record of a listed clip; None where it is gone from a bucket since it was listed."""
    try:
        return find_clip(path, key)[1]
    except Damaged as error:
        if is_bucket(path) and isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    def look() -> list[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            return list(entries)

    return again_if_stale(look)
