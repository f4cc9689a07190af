"""What codecs cost on real features: of the sample, and of real clips without labels.

    python benchmarks/codecs_real.py --weights PATH --backbone NAME [--root VIDEOS] [--folder DIR]
                                     [--part sample | real] [--clips 54]

PATH has weights of a self-supervised ViT, such as DINOv2 ViT-S/14 (`--backbone
vit_small_patch14_dinov2`).  The sample is seen at 112 pixels; of each real clip, VIDEOS or
TOKENREEL_CLIPS/real, 16 frames at 224; blocks 3, 7 and 11, kept as fp16 in DIR, so that the same
command resumes.  Then `tokenreel fidelity` measures every codec: the error of tokens and of pooled
entities; which of the five nearest frames in other clips stay so, which needs no labels; and, with
labels, a linear probe, tau and AP@5 of frozen embeddings against fp16's.  A row's ratio is the
codec's share of fp16's bytes.  15 minutes on two cores, nearly all of it the backbone.
"""

import argparse
import math
import os
from pathlib import Path

from harness import RESULTS, Row, Timing, as_text, make_row, read_rows, save_rows

from tokenreel.pipeline.defaults import SAMPLE
from tokenreel.pipeline.phases.extraction import extract_dataset
from tokenreel.pipeline.tools.fidelity import (
    TASKS,
    FidelityReport,
    fidelity_table,
    measure_store,
)

SAMPLE_WORDS = ["image_size=112"]
REAL_WORDS = ["image_size=224", "frames=uniform:16"]


def main() -> None:
    """Extract, measure, print, write."""
    words = _arguments()
    about = [f"weights={words.weights}", f"backbone={words.backbone}", "blocks=3,7,11"]
    about.append("codec=fp16")
    parts = {}
    if words.part != "real":
        parts["sample"] = (SAMPLE, words.folder / SAMPLE, SAMPLE_WORDS)
    if words.part != "sample" and words.root:
        parts["folder"] = ("real clips", words.root, REAL_WORDS)
    for dataset, (title, root, more) in parts.items():
        store = words.folder / f"{title.replace(' ', '-')}-{words.backbone}"
        report, store = extract_dataset(dataset, [*about, *more], root=root, out=store)
        for failed in report.failed:
            print(f"left out: {failed}")
        found = measure_store(store, clips=words.clips)
        print(fidelity_table(found))
        size = more[0].partition("=")[2]
        write(rows_of(found, f"{title}, {words.backbone} at {size}"))


def rows_of(report: FidelityReport, title: str) -> list[Row]:
    """A row for each number of a codec."""
    rows = []
    for row in report.rows:
        values = {
            ("relative error", "of the tokens"): row.error.relative,
            ("pooled error", "of the entities"): row.error.pooled,
            ("worst 1 % cosine", "cosine"): row.error.cosine_worst,
            ("neighbours kept", "share"): row.neighbours,
        }
        for task in TASKS:
            values[f"change of {task}", "score"] = report.change(row, task)
        rows += [
            make_row(
                "codecs_real",
                f"{row.codec}, {what}",
                Timing((value,)),
                unit=unit,
                baseline="fp16",
                shape=f"{title}: {report.num_clips} clips, {report.num_frames} frames",
                ratio=row.share,
            )
            for (what, unit), value in values.items()
            if not math.isnan(value)
        ]
    return rows


def write(rows: list[Row]) -> None:
    """Replace the rows of the same part: the sample, whatever its version, or the real clips."""

    def part(shape: str) -> str:
        return shape[: len("sample")]

    path, fresh = RESULTS / "codecs_real.csv", {part(row.shape) for row in rows}
    kept = [row for row in read_rows(path) if part(row["shape"]) not in fresh]
    timeless = [as_text(row) | {"copy_gb_per_s": ""} for row in rows]  # no number is a time
    save_rows(path, [*kept, *timeless])


def _arguments() -> argparse.Namespace:
    clips = os.environ.get("TOKENREEL_CLIPS")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", required=True, help="file of the backbone's weights")
    parser.add_argument("--backbone", required=True, help="its name in timm")
    parser.add_argument(
        "--root", type=Path, default=Path(clips) / "real" if clips else None, help="real clips"
    )
    parser.add_argument("--part", choices=("sample", "real"), help="one of the two alone")
    parser.add_argument("--clips", type=int, default=54, help="of a part, spread over the splits")
    parser.add_argument("--folder", type=Path, default=Path("codecs"), help="of videos and stores")
    return parser.parse_args()


if __name__ == "__main__":
    main()
