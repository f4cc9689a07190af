"""`fuse apply` without a movie against extraction alone, on the same new videos.

    python benchmarks/fuse_apply.py [--quick]

The ratio is the seconds of extraction by those of apply: at least 0.95 wanted.  Both decode, encode
and commit the same frames, into a new store each time; apply also reads the run, fits its probe,
embeds and writes its tables.
"""

import itertools
import sys
import tempfile
from pathlib import Path

from harness import make_row, measure, quick_flag, write_rows

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.extract.extraction import write_video
from tests.pipeline.small import SMALL
from tokenreel.cache.errors import ClipFailed
from tokenreel.cache.format.store_files import create_twin
from tokenreel.pipeline.apply.apply import apply_run
from tokenreel.pipeline.phases.library import extract_videos, train_model

EXTRACTION = {
    "backbone": "vit_small_patch16_224",
    "weights": "random:0",
    "image_size": 224,
    "blocks": (11,),
    "codec": "int8",
    "device": "cpu",
}


def main() -> None:
    """Measure and write the row."""
    videos, frames, repeats = (2, 8, 1) if quick_flag() else (6, 100, 3)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        labels = ["video,start_seconds,stop_seconds,phase"]
        (folder / "data").mkdir()
        (folder / "new").mkdir()
        for number in range(4):
            write_video(folder / "data" / f"{number}.mp4", 12, width=320, height=180)
            labels += [f"{number}.mp4,0,0.24,0", f"{number}.mp4,0.24,0.48,1"]
        (folder / "data" / "labels.csv").write_text("\n".join(labels))
        for number in range(videos):
            write_video(folder / "new" / f"{number}.mp4", frames, width=320, height=180)
        extract_videos(folder / "data", folder / "store", settings=EXTRACTION)
        words = dict(word.split("=") for word in SMALL)
        run = folder / "run"
        train_model(folder / "store", run, settings=words, device="cpu", progress=False)
        count = itertools.count()

        def extract() -> None:
            out = folder / f"extracted{next(count)}"
            create_twin(out, folder / "store")
            report = extract_videos(folder / "new", out, settings=EXTRACTION)
            if len(report.committed) != videos:
                raise RuntimeError(f"{len(report.committed)} of {videos} videos were extracted")

        def apply() -> None:
            out = folder / f"applied{next(count)}"
            options = {"movies": False, "device": "cpu", "progress": False}
            for found in apply_run(run, [folder / "new"], out=out, **options):
                if isinstance(found, ClipFailed):
                    raise found

        timings = measure({"extract": extract, "apply": apply}, repeats=repeats)
    write_rows(
        [
            make_row(
                "fuse_apply",
                "apply without a movie",
                timings["apply"],
                shape=f"{videos}x{frames} frames of 320x180",
                baseline="extraction alone",
                ratio=timings["extract"].median / timings["apply"].median,
            )
        ]
    )


if __name__ == "__main__":
    main()
