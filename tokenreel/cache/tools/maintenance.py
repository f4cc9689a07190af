"""Maintain stores: summary, differences, garbage collection, repair."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenreel.cache.files import sync_directory, write_whole
from tokenreel.cache.format.clip import SourceInfo, clip_key, folder_of
from tokenreel.cache.format.index import logged_lines
from tokenreel.cache.format.layout import segments
from tokenreel.cache.format.store_files import load_identity, read_failures
from tokenreel.cache.read.store_reader import Store, open_store
from tokenreel.cache.tools.verify import VerifyReport


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """Summary of a store.

    Attributes:
        name: of its directory; fingerprint: of its identity; codec: name of the codec.
        asked_for: fingerprint before calibration, whose first digits are in a default name.
        blocks: kept blocks; num_views: V.
        num_clips, num_frames: committed, frames of one view.
        num_token_bytes: of the tokens of every view and block.
        num_failed: clips with a failure record.
        format_version: of the store; unit: what a row is.
    """

    name: str
    fingerprint: str
    asked_for: str
    codec: str
    blocks: tuple[int, ...]
    num_views: int
    num_clips: int
    num_frames: int
    num_token_bytes: int
    num_failed: int
    format_version: int
    unit: str

    def table(self) -> str:
        """One line a field."""
        return "\n".join(f"{name:<16}{getattr(self, name)}" for name in self.__slots__)


def store_info(path: str | Path) -> StoreInfo:
    """Summarise a store."""
    store = open_store(path)
    identity = store.identity
    return StoreInfo(
        store.path.name,
        store.fingerprint,
        identity.before_calibration.fingerprint,
        store.codec.name,
        identity.blocks,
        identity.num_views,
        len(store.records),
        sum(record.num_frames for record in store.records.values()),
        store.num_bytes,
        len(read_failures(path)),
        identity.format_version,
        identity.unit,
    )


def diff_stores(here: str | Path, there: str | Path) -> list[str]:
    """Differences of two stores, one line each: identity, clips, tokens of common clips."""
    first, second = open_store(here), open_store(there)
    rows = first.identity.differences(second.identity)
    lines = [f"identity {name}: {left!r} | {right!r}" for name, left, right in rows]
    names, others = first.records.keys(), second.records.keys()
    lines += [f"only in {here}: {name}" for name in sorted(names - others)]
    lines += [f"only in {there}: {name}" for name in sorted(others - names)]
    common = [] if rows else sorted(names & others)
    return lines + [f"differs: {name}" for name in common if not _same_clip(first, second, name)]


def _same_clip(first: Store, second: Store, name: str) -> bool:
    record = first.record(name)
    if not _same_record(first, second, name):
        return False
    for read in (Store.labels, Store.units, Store.frame_index, Store.flags):
        if (read(first, name) != read(second, name)).any():
            return False
    for array in record.byte_arrays:
        if first.read_bytes(name, array) != second.read_bytes(name, array):
            return False
    for view in range(record.num_views):
        for part in segments(record.num_frames):
            rows = slice(part.start, part.stop)
            left, right = (store.read(name, rows, view=view) for store in (first, second))
            for ours, theirs in ((left.codes, right.codes), (left.scales, right.scales)):
                if any(ours[block].tobytes() != theirs[block].tobytes() for block in ours):
                    return False
    return True


def _same_record(first: Store, second: Store, name: str) -> bool:
    """Whether two stores say the same of a clip, as far as the lower of their formats says it.

    The time of the last change of the video is not compared: copies differ in it.
    """
    version = min(first.identity.format_version, second.identity.format_version)
    ours, theirs = (
        {
            **record.to_dict(format_version=version),
            "source": replace(SourceInfo.from_dict(record.source), mtime_ns=None).to_dict(
                format_version=version
            ),
        }
        for record in (first.record(name), second.record(name))
    )
    return ours == theirs


def collect_garbage(
    path: str | Path, *, older_than_seconds: float = 86400, delete: bool = False
) -> list[tuple[str, int]]:
    """Find, and optionally delete, the leftovers of killed writers.

    They are `.tmp-*` entries in the store and next to it (stores never completed), and claims
    without a heartbeat.  A clock that went backwards makes them look recent: they stay.

    Args:
        path: the store.
        older_than_seconds: a more recent one may belong to a running writer.
        delete: remove them; otherwise they are only listed.

    Returns:
        (path, bytes) of each.
    """
    path = Path(path)
    load_identity(path)
    folders = [path / "claims", path / "failed", *sorted((path / "clips").glob("??"))]
    entries = [entry for folder in folders for entry in sorted(folder.glob(".tmp-*"))]
    entries += sorted(path.absolute().parent.glob(f".tmp-{path.absolute().name}-*"))
    entries += sorted((path / "claims").glob("*.json"))
    found = []
    for entry in entries:
        try:
            if time.time() - entry.lstat().st_mtime < older_than_seconds:
                continue
            found.append((str(entry), _size(entry)))
        except FileNotFoundError:  # its writer is alive after all, or another gc runs
            continue
        if delete and entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif delete:
            entry.unlink(missing_ok=True)
    return found


def _size(entry: Path) -> int:
    files = entry.rglob("*") if entry.is_dir() else [entry]
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())


def mend_logs(path: str | Path) -> list[str]:
    """Drop damaged lines from the writers' logs, which are only an index of the clips.

    Returns:
        Names of the logs that were changed.
    """
    mended = []
    for file, lines, problems in logged_lines(Path(path)):
        if problems:
            write_whole(file, b"".join(line + b"\n" for line in lines))
            mended.append(file.name)
    return mended


def remove_damaged(
    path: str | Path, report: VerifyReport, *, clips: Sequence[str] = ()
) -> list[str]:
    """Remove the damaged clips of a report, so that the next extraction makes them again.

    Args:
        path: the store.
        report: of verify_store.
        clips: only these; empty for all of report.repair.

    Returns:
        Clips to extract again: removed or missing.
    """
    path, gone = Path(path), []
    for name in report.repair:
        key = name if (path / folder_of(name)).exists() else clip_key(name)
        if clips and name not in clips:
            continue
        folder = path / folder_of(key)
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            aside = folder.with_name(f".tmp-damaged-{key}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            sync_directory(folder.parent)
            shutil.rmtree(aside)
        gone.append(name)
    return gone
