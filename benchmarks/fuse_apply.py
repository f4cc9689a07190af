"""`fuse apply` without a movie against extraction alone, on the same new videos.

    python benchmarks/fuse_apply.py [--quick]

Ratios are seconds of extraction by those of apply, on the clock and of the processor (that of the
decoding processes too), the middle one of the rounds: at least 0.95 wanted.  Both decode, encode
and commit the same frames into a new store each time, one after the other in random order; apply
also reads the run, fits its probe, embeds, writes its tables and drops the tokens.  `start-up`: the
same on one video of two frames, which is in the other rows too.  The model is that of the recipe
`sample`.
"""

import itertools
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness import Timing, make_row, measure, quick_flag, write_rows

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.extract.extraction import write_video
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
TRAINING = {"optim.epochs": 1, "optim.warmup_epochs": 0}
TRAINED_FRAMES = 40  # of each of the run's own clips


def main() -> None:
    """Measure and write the rows."""
    videos, frames, repeats = (2, 8, 1) if quick_flag() else (3, 160, 5)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        make_run(folder)
        make_videos(folder / "new", videos, frames)
        make_videos(folder / "tiny", 1, 2)
        processor: dict[str, list[float]] = {}
        subjects = {
            f"{what}{of}": counted(f"{what}{of}", work, processor)
            for of, where in (("", folder / "new"), (", start-up", folder / "tiny"))
            for what, work in subjects_of(folder, where).items()
        }
        timings = measure(subjects, repeats=repeats)
    rows = []
    for of, shape in (("", f"{videos}x{frames} frames of 320x180"), (", start-up", "2 frames")):
        apply, alone = (f"{what}{of}" for what in ("apply", "extraction"))
        spent = {key: Timing(tuple(processor[key][1:])) for key in (apply, alone)}
        for clock, found in (("", timings), (", seconds of the processor", spent)):
            rows.append(
                make_row(
                    "fuse_apply",
                    f"apply without a movie{of}{clock}",
                    found[apply],
                    shape=shape,
                    baseline="extraction alone",
                    ratio=statistics.median(
                        one / other
                        for one, other in zip(
                            found[alone].seconds, found[apply].seconds, strict=True
                        )
                    ),
                )
            )
    write_rows(rows)


def make_run(folder: Path) -> None:
    """A store of four labelled clips, and a run on it."""
    labels = ["video,start_seconds,stop_seconds,phase"]
    (folder / "data").mkdir()
    half, end = TRAINED_FRAMES / 50, TRAINED_FRAMES / 25
    for number in range(4):
        write_video(folder / "data" / f"{number}.mp4", TRAINED_FRAMES, width=320, height=180)
        labels += [f"{number}.mp4,0,{half},0", f"{number}.mp4,{half},{end},1"]
    (folder / "data" / "labels.csv").write_text("\n".join(labels))
    extract_videos(folder / "data", folder / "store", settings=EXTRACTION)
    train_model(folder / "store", folder / "run", settings=TRAINING, device="cpu", progress=False)


def make_videos(folder: Path, count: int, frames: int) -> None:
    """New videos."""
    folder.mkdir()
    for number in range(count):
        write_video(folder / f"{number}.mp4", frames, width=320, height=180)


def subjects_of(folder: Path, videos: Path) -> dict[str, Callable[[], None]]:
    """Extraction alone, and apply, of the videos of a folder."""
    numbers = itertools.count()
    want = len(list(videos.iterdir()))

    def extract() -> None:
        out = folder / f"extracted-{videos.name}-{next(numbers)}"
        create_twin(out, folder / "store")
        report = extract_videos(videos, out, settings=EXTRACTION)
        if len(report.committed) != want:
            raise RuntimeError(f"{len(report.committed)} of {want} videos were extracted")

    def apply() -> None:
        out = folder / f"applied-{videos.name}-{next(numbers)}"
        options = {"movies": False, "device": "cpu", "progress": False}
        found = list(apply_run(folder / "run", [videos], out=out, **options))
        if len(found) != want or any(isinstance(each, ClipFailed) for each in found):
            raise RuntimeError(f"of {want} videos: {found}")

    return {"extraction": extract, "apply": apply}


def counted(
    name: str, work: Callable[[], None], processor: dict[str, list[float]]
) -> Callable[[], None]:
    """Work whose seconds of the processor are noted, those of its processes that ended too."""

    def count() -> None:
        before = processor_seconds()
        work()
        processor.setdefault(name, []).append(processor_seconds() - before)

    return count


def processor_seconds() -> float:
    """Seconds of the processor that this process and its ended children have had."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    main()
