"""Opening a store of many clips: seconds with the writers' log, and rebuilt without it.

    python benchmarks/store_open.py [--quick]

The ratio is seconds without the log / seconds with it; the wanted value is under 1 s with it.
"""

import shutil
import tempfile
from pathlib import Path

from harness import make_row, measure, quick_flag, write_rows
from store_fixture import empty_store, make_codes, write_clip

from tokenreel.cache.clipfiles import load_clip
from tokenreel.cache.layout import group_json
from tokenreel.cache.reader import open_store
from tokenreel.cache.records import ClipRecord, clip_key, folder_of, seal
from tokenreel.cache.writer import StoreWriter


def main() -> None:
    """Measure and write the row.  Clips are copies of one record: opening reads no tokens."""
    clips = 500 if quick_flag() else 10_000
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = empty_store(Path(folder) / "s", grid=(2, 2), dim=8)
        with StoreWriter(path, writer_id="bench") as writer:
            write_clip(writer, "c0", make_codes((2, 2), 8), 64)
            record, seals = load_clip(path / folder_of(clip_key("c0")), clip_key("c0"))
            lines = []
            for i in range(1, clips):
                name = {"clip_id": f"c{i}", "key": clip_key(f"c{i}")}
                copy = ClipRecord.from_dict(record.to_dict() | name)
                target = path / folder_of(copy.key)
                target.mkdir(parents=True)
                values = {"record": copy.to_dict(), "seals": seals}
                (target / "zarr.json").write_bytes(group_json({"tokenreel": seal(values)}))
                lines.append(copy)
            for copy in lines:
                writer.log_commit(copy)
        bare = Path(folder) / "bare"
        shutil.copytree(path, bare)
        shutil.rmtree(bare / "manifest")
        times = measure(
            {"log": lambda: open_store(path), "bare": lambda: open_store(bare)}, repeats=5
        )
        ratio = times["bare"].median / times["log"].median
        write_rows([make_row("store_open", f"open {clips} clips", times["log"], shape=str(clips),
                             baseline="rebuilt without the log", ratio=ratio)])  # fmt: skip


if __name__ == "__main__":
    main()
