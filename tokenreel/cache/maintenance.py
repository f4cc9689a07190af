"""Looking after stores: info, differences, merging, cleaning.  Functions that return data."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from tokenreel.cache.claims import ClaimHeld
from tokenreel.cache.codec import Encoded
from tokenreel.cache.codec.base import Array
from tokenreel.cache.files import sweep_temporary, sync_directory
from tokenreel.cache.integrity import VerifyReport
from tokenreel.cache.layout import segments
from tokenreel.cache.manifest import Clip
from tokenreel.cache.reader import Store, open_store
from tokenreel.cache.records import ClipRecord, SourceInfo, clip_key, folder_of
from tokenreel.cache.store import load_recipe, read_failures
from tokenreel.cache.writer import StoreWriter

__all__ = [
    "StoreInfo",
    "collect_garbage",
    "diff_stores",
    "merge_store",
    "remove_damaged",
    "store_info",
]


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What is in a store.

    Attributes:
        name: of its directory; fingerprint: of its recipe; codec: name of the codec.
        blocks: kept blocks; num_views: V.
        num_clips, num_frames: committed, frames of one view.
        num_token_bytes: of the tokens of every view and block.
        num_failed: clips in quarantine.
    """

    name: str
    fingerprint: str
    codec: str
    blocks: tuple[int, ...]
    num_views: int
    num_clips: int
    num_frames: int
    num_token_bytes: int
    num_failed: int

    def table(self) -> str:
        """One line a field."""
        return "\n".join(f"{name:<16}{getattr(self, name)}" for name in self.__slots__)


def store_info(path: str | Path) -> StoreInfo:
    """Summarise a store."""
    store = open_store(path)
    recipe = store.recipe
    return StoreInfo(
        store.path.name, store.fingerprint, store.codec.name, recipe.blocks, recipe.num_views,
        len(store.records), sum(record.num_frames for record in store.records.values()),
        store.num_bytes, len(read_failures(path)),
    )  # fmt: skip


def diff_stores(here: str | Path, there: str | Path) -> list[str]:
    """How two stores differ, one line each: recipe fields, clips, then tokens of common clips."""
    one, two = open_store(here), open_store(there)
    rows = one.recipe.differences(two.recipe)
    lines = [f"recipe {name}: {left!r} | {right!r}" for name, left, right in rows]
    lines += [f"only in {here}: {name}" for name in sorted(one.records.keys() - two.records.keys())]
    lines += [
        f"only in {there}: {name}" for name in sorted(two.records.keys() - one.records.keys())
    ]
    for name in one.records if not rows else []:
        if name in two.records and not _same_clip(one, two, name):
            lines.append(f"differs: {name}")
    return lines


def _same_clip(one: Store, two: Store, name: str) -> bool:
    record = one.record(name)
    if record != two.record(name) or (one.labels(name) != two.labels(name)).any():
        return False
    for view in range(record.num_views):
        for part in segments(record.num_frames):
            rows = slice(part.start, part.stop)
            left, right = one.read(name, rows, view=view), two.read(name, rows, view=view)
            for block, codes in left.codes.items():
                if codes.tobytes() != right.codes[block].tobytes():
                    return False
            for block, scales in left.scales.items():
                if scales.tobytes() != right.scales[block].tobytes():
                    return False
    return True


def merge_store(source: str | Path, into: str | Path, *, writer_id: str = "merge") -> list[str]:
    """Copy the clips that `into` lacks, through the writer, so each is checked and whole.

    Returns:
        The clips copied.

    Raises:
        WrongRecipe: the stores have different recipes.
    """
    store, copied = open_store(source), []
    load_recipe(Path(into))[0].require(store.recipe, path=into)
    with StoreWriter(into, writer_id=writer_id) as writer:
        for record in store.records.values():
            if not writer.is_committed(record.clip_id):
                try:
                    _copy_clip(store, writer, record)
                    copied.append(record.clip_id)
                except ClaimHeld:
                    continue
    return copied


def _copy_clip(store: Store, writer: StoreWriter, record: ClipRecord) -> None:
    name = record.clip_id
    clip = writer.begin(
        Clip(name, record.video, record.start_seconds, record.stop_seconds, record.split,
             record.action, record.group),
        dataset=record.dataset, phases=record.phases, source=SourceInfo(**record.source),
        time_base=Fraction(*record.time_base),
    )  # fmt: skip
    try:
        for view in range(record.num_views):
            for part in segments(record.num_frames)[clip.resume_frames // 64 :]:
                rows = slice(part.start, part.stop)
                tokens = store.read(name, rows, view=view)
                encoded = {b: Encoded(c, tokens.scales.get(b)) for b, c in tokens.codes.items()}
                cls: dict[int, Array] = {}
                normed = None
                if store.recipe.cls != "none":
                    cls = {b: store.read_cls(name, rows, block=b, view=view) for b in encoded}
                    normed = store.read_cls(name, rows, view=view)
                clip.append(view, encoded, cls, normed)
        pts = store.pts(name)
        clip.commit(pts, store.frame_index(name), store.labels(name), store.flags(name))
    except BaseException:
        clip.abort()
        raise


def collect_garbage(
    path: str | Path, *, older_than_seconds: float = 86400, delete: bool = False
) -> list[tuple[str, int]]:
    """Leftovers of killed writers: (path, bytes) of each `.tmp-*`; removed only when told to."""
    path, found = Path(path), []
    load_recipe(path)
    for folder in [path / "claims", path / "failed", *sorted((path / "clips").glob("??"))]:
        if delete:
            before = {entry: _size(entry) for entry in folder.glob(".tmp-*")}
            removed = sweep_temporary(folder, older_than_seconds=older_than_seconds)
            found += [(str(entry), before.get(entry, 0)) for entry in removed]
        else:
            found += [
                (str(entry), _size(entry)) for entry in sorted(folder.glob(".tmp-*"))
                if _age(entry) >= older_than_seconds
            ]  # fmt: skip
    return found


def _size(entry: Path) -> int:
    files = entry.rglob("*") if entry.is_dir() else [entry]
    return sum(file.stat().st_size for file in files if file.is_file())


def _age(entry: Path) -> float:
    return time.time() - entry.stat().st_mtime


def remove_damaged(
    path: str | Path, report: VerifyReport, *, clips: Sequence[str] = ()
) -> list[str]:
    """Take the damaged clips of a report out of the store, so that the next extraction makes them.

    Args:
        path: the store.
        report: of verify_store.
        clips: only these; empty for all of report.repair.

    Returns:
        Clips removed or missing: what to extract again.
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
