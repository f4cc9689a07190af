"""Maintain stores: summary, differences, garbage collection, repair."""

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tokenreel.cache.bucket.path import is_bucket, store_path
from tokenreel.cache.errors import Damaged
from tokenreel.cache.files import newest_change, sync_directory, write_whole
from tokenreel.cache.format.clip import SourceInfo, clip_key, folder_of
from tokenreel.cache.format.index import logged_lines
from tokenreel.cache.format.layout import segments
from tokenreel.cache.format.source_notes import NOTES, load_notes
from tokenreel.cache.format.store_files import load_identity, read_failures
from tokenreel.cache.read.store_reader import Store, open_store
from tokenreel.cache.tools.bucket_garbage import collect_on_bucket, remove_clip
from tokenreel.cache.tools.verify import VerifyReport
from tokenreel.cache.write.bucket_claims import claim_clip
from tokenreel.cache.write.claims import (
    ClaimHeld,
    clip_of_temporary,
    damaged_claim,
    is_in_work,
    is_live,
    is_of_dead_writer,
)


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """Summary of a store.

    Attributes:
        name: of its directory; fingerprint: of its identity; codec: name of the codec.
        uncalibrated: fingerprint before calibration, whose first digits are in a default name.
        blocks: kept blocks; num_views: V.
        num_clips, num_frames: committed, frames of one view.
        num_token_bytes: of the tokens of every view and block.
        num_failed: clips with a failure record.
        format_version: of the store; unit: what a row is.
    """

    name: str
    fingerprint: str
    uncalibrated: str
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


@dataclass(frozen=True)
class StoreDifference:
    """Result of compare_stores.

    Attributes:
        identity: the fields of the identity that differ, one line each.
        clips: what of the clips differs ("only in PATH", "differs") -> their ids.
    """

    identity: tuple[str, ...]
    clips: Mapping[str, Sequence[str]]

    @property
    def lines(self) -> list[str]:
        """Every difference, one a line."""
        each = [f"{what}: {name}" for what, names in self.clips.items() for name in names]
        return [*self.identity, *each]

    @property
    def exit_status(self) -> int:
        """0, or 1 when the stores differ."""
        return 1 if self.lines else 0

    def table(self, *, clips: bool = False) -> str:
        """The differences for people: clips are counted, and named where `clips` says so."""
        if not self.lines:
            return "no difference"
        if clips:
            return "\n".join(self.lines)
        counts = [
            f"{what}: {len(names)} clip{'s' * (len(names) > 1)}, the first {names[0]} (--clips "
            "names all)"
            for what, names in self.clips.items()
            if names
        ]
        return "\n".join([*self.identity, *counts])


def diff_stores(here: str | Path, there: str | Path) -> list[str]:
    """Differences of two stores, one line each: identity, clips, tokens of common clips."""
    return compare_stores(here, there).lines


def compare_stores(here: str | Path, there: str | Path) -> StoreDifference:
    """Differences of two stores: identity, clips, and tokens of common clips of one identity."""
    first, second = open_store(here), open_store(there)
    rows = first.identity.differences(second.identity)
    names, others = first.records.keys(), second.records.keys()
    common = [] if rows else sorted(names & others)
    return StoreDifference(
        tuple(f"identity {name}: {left!r} | {right!r}" for name, left, right in rows),
        {
            f"only in {here}": sorted(names - others),
            f"only in {there}": sorted(others - names),
            "differs": [name for name in common if not _same_clip(first, second, name)],
        },
    )


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
    blocks: tuple[int | str, ...] = ("normed", *first.identity.blocks)
    for view in range(record.num_views):
        for part in segments(record.num_frames):
            rows = slice(part.start, part.stop)
            left, right = (store.read(name, rows, view=view) for store in (first, second))
            for ours, theirs in ((left.codes, right.codes), (left.scales, right.scales)):
                if any(ours[block].tobytes() != theirs[block].tobytes() for block in ours):
                    return False
            if first.identity.cls != "none" and any(
                first.read_cls(name, rows, block=block, view=view).tobytes()
                != second.read_cls(name, rows, block=block, view=view).tobytes()
                for block in blocks
            ):
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

    They are `.tmp-*` entries in the store and next to it (stores never completed), and claims of
    writers that have ended.  What a live writer works on stays, whatever the age: its claim is
    asked, see claims.is_live.  The age of a directory is that of the newest file in it.  A clock
    that went backwards makes leftovers look recent: they stay.

    Args:
        path: the store.
        older_than_seconds: a more recent one may belong to a running writer.
        delete: remove them; otherwise they are only listed.

    Returns:
        (path, bytes) of each.
    """
    path = store_path(path)
    load_identity(path)
    if is_bucket(path):
        return collect_on_bucket(path, older_than_seconds=older_than_seconds, delete=delete)
    found, kept = [], []
    for entry, key in _leftovers(path):
        with suppress(FileNotFoundError):  # its writer is alive after all, or another gc runs
            if time.time() - newest_change(entry) >= older_than_seconds:
                found.append((entry, key, _size(entry)))
    for entry, key, _ in found if delete else ():
        try:
            _delete(entry, path, key)
        except (FileNotFoundError, ClaimHeld):
            kept.append(entry)
    return [(str(entry), num_bytes) for entry, _, num_bytes in found if entry not in kept]


def _leftovers(path: Path) -> Iterator[tuple[Path, str]]:
    """Entries that no live writer works on, each with the key of its clip where it has one."""
    claims = path / "claims"
    for folder in sorted((path / "clips").glob("??")):
        for entry in sorted(folder.glob(".tmp-*")):
            final = entry.with_name(entry.name.removeprefix(".tmp-+"))
            if final != entry and (is_live(claims / f"{final.name}.json") or not final.exists()):
                continue  # a clip that a kill left aside: the next writer brings it back
            if not is_in_work(entry, claims):
                yield entry, clip_of_temporary(entry)
    if not any(is_live(claim) for claim in sorted(claims.glob("*.json"))):
        for folder in (path, claims, path / "failed"):  # files that a writer is about to rename
            yield from ((entry, "") for entry in sorted(folder.glob(".tmp-*")))
    else:
        dead = (entry for entry in sorted(claims.glob(".tmp-*")) if is_of_dead_writer(entry))
        yield from ((entry, "") for entry in dead)
    beside = re.compile(rf"\.tmp-{re.escape(path.absolute().name)}-[0-9a-f]+")
    for entry in sorted(path.absolute().parent.iterdir()):
        if beside.fullmatch(entry.name):
            yield entry, ""
    for claim in sorted(claims.glob("*.json")):
        if not is_live(claim):
            yield claim, claim.stem


def _delete(entry: Path, path: Path, key: str) -> None:
    """Delete a leftover, under the claim of its clip: no writer takes it over meanwhile."""
    if key:
        claim = claim_clip(path, key, owner="gc")
    try:
        if entry.parent == path / "claims" and key:
            return  # the dead claim: taking it has removed it
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    finally:
        if key:
            claim.release()


def _size(entry: Path) -> int:
    files = entry.rglob("*") if entry.is_dir() and not entry.is_symlink() else [entry]
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())


def mend_logs(path: str | Path) -> list[str]:
    """Drop damaged lines of the logs, which only index the clips, damaged claims and notes.

    Returns:
        Names of the files that were changed or removed.
    """
    path, mended = store_path(path), []
    for claim in sorted((path / "claims").glob("*.json")):
        if damaged_claim(claim):
            claim.unlink(missing_ok=True)
            mended.append(claim.name)
    for file, lines, problems in logged_lines(path):
        if problems:
            write_whole(file, b"".join(line + b"\n" for line in lines))
            mended.append(file.name)
    try:
        load_notes(path)
    except Damaged:  # they only save hashing
        (path / NOTES).unlink()
        mended.append(NOTES)
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
    path, gone = store_path(path), []
    for name in report.repair:
        key = name if (path / folder_of(name)).exists() else clip_key(name)
        if clips and name not in clips:
            continue
        folder = path / folder_of(key)
        if is_bucket(folder):
            remove_clip(folder)
        elif folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            aside = folder.with_name(f".tmp-damaged-{key}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            sync_directory(folder.parent)
            shutil.rmtree(aside)
        gone.append(name)
    return gone
