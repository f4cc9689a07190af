"""A second run of an extraction: 10,000 unchanged videos are compared in under 2 s.

    python benchmarks/extract_rerun.py [--quick]

Rows: size and time of each video on a warm disk; the same where each stat takes 1 ms, as on a
network file system; and all that a rerun compares, the index of the store and the labels of every
frame too.  The ratio is seconds of one thread / seconds with threads; of the last row, of the
whole / of the videos alone.
"""

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from harness import Row, Timing, make_row, measure, quick_flag, write_rows
from store_fixture import make_many_clips

from tokenreel.cache.format.clip import ClipRecord, clip_key, folder_of
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.source_state import SourceState, source_state
from tokenreel.cache.tools import sources
from tokenreel.extract.flow.relabel import LabelTable, compare_labels

MTIME_NS = 10**18
SLOW_SECONDS = 1e-3
TARGET_SECONDS = 2.0


def slow_state(path: Path) -> SourceState:
    """The state of a file on a file system where a stat takes 1 ms."""
    time.sleep(SLOW_SECONDS)
    return source_state(path)


def make_videos(root: Path, records: list[ClipRecord]) -> list[ClipRecord]:
    """A small file for each clip, and the records as they would be of them."""
    for record in records:
        path = root / record.video
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
        os.utime(path, ns=(MTIME_NS, MTIME_NS))
    seen = {"num_bytes": 5, "mtime_ns": MTIME_NS}
    return [replace(record, source=record.source | seen) for record in records]


def compare(store: Path, records: list[ClipRecord], root: Path, *, threads: int) -> None:
    """Compare the videos of clips, none of which has changed."""
    sources.STAT_THREADS = threads
    found = sources.check_sources(store, records, root, progress=False)
    assert (found.num_hashed, found.changed, found.missing) == (0, (), ())


def compare_all(store: Path, records: list[ClipRecord], root: Path, manifest: Manifest) -> None:
    """All that a rerun compares: the index is read, then videos, then labels."""
    table = LabelTable(store)
    compare(store, records, root, threads=32)
    changes, _ = compare_labels(table, manifest, manifest.clips)
    assert not changes.misfits


def main() -> None:
    """Measure and write the rows."""
    clips = 300 if quick_flag() else 10_000
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        store, root = make_many_clips(Path(folder) / "s", clips), Path(folder) / "videos"
        held = list(open_store(store).records.values())
        times = store / folder_of(clip_key("c0")) / "pts/c/0"
        for record in held:
            target = store / folder_of(record.key) / "pts/c/0"
            if not target.exists():
                target.parent.mkdir(parents=True)
                target.hardlink_to(times)
        records = make_videos(root, held)
        spans = tuple(LabelSpan(0.4 * n, 0.4 * n + 0.4, n) for n in range(6))
        listed = tuple(Clip(r.clip_id, r.video, action=r.action, spans=spans) for r in held)
        manifest = Manifest("random", root, listed, {r.action: r.phases for r in held})
        for case, state in (("warm disk", source_state), ("stat of 1 ms", slow_state)):
            sources.source_state = state
            found = measure(
                {
                    threads: lambda threads=threads: compare(store, records, root, threads=threads)
                    for threads in (32, 1)
                },
                repeats=5,
            )
            rows.append(_row(f"{clips} videos, {case}", clips, found[32], found[1], "one thread"))
            if state is source_state:
                whole = measure(
                    {"all": lambda: compare_all(store, records, root, manifest)}, repeats=5
                )["all"]
                rows.append(
                    _row(f"{clips} clips, labels too", clips, whole, found[32], "videos alone")
                )
    write_rows(rows)
    for row in rows:
        print(f"{row.case}: {row.median:.2f} s (wanted: under {TARGET_SECONDS} s for the videos)")


def _row(case: str, clips: int, ours: Timing, other: Timing, baseline: str) -> Row:
    ratio = max(ours.median, other.median) / min(ours.median, other.median)
    return make_row("extract_rerun", case, ours, shape=str(clips), baseline=baseline, ratio=ratio)


if __name__ == "__main__":
    main()
