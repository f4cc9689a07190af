"""Extraction with its stages overlapped against the same stages one after the other.

    python benchmarks/extract_overlap.py [--quick]

Both decode, resize, run a small backbone, quantise, checksum and write the same clips to a store on
the same disk.  The claim is 1.3 times the frames a second on two cores.  Starting decode processes
is not counted: the overlapped run is timed from when its first chunk of frames was begun.
"""

import logging
import tempfile
import time
from pathlib import Path

import torch
from extract_fixture import render
from harness import Timing, make_row, quick_flag, write_rows

from tokenreel.cache.codec import codec_from_identity
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode.quantiser import Quantiser
from tokenreel.extract.flow.devices import machine_for
from tokenreel.extract.flow.runner import extract_clips, prepare_store
from tokenreel.extract.images.transforms import apply_transform
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.source import SourceFiles

CONFIG = ExtractConfig(
    backbone="vit_tiny_patch16_224",
    weights="random:0",
    image_size=112,
    blocks=(3, 7, 11),
    device="cpu",
    batch_frames=16,
)


def in_sequence(manifest: Manifest, store: Path) -> float:
    """Seconds of the stages one after the other, batch by batch."""
    backbone, recipe, calibration, device = prepare_store(manifest, CONFIG, store)
    quantiser = Quantiser(codec_from_identity(recipe.codec, calibration), recipe, device)
    sources = SourceFiles(manifest.root)
    start = time.perf_counter()
    with StoreWriter(store, writer_id="sequence") as writer:
        for clip in manifest.clips:
            source, info = sources.examine(clip.video, "pyav")
            begun = writer.begin(
                clip, dataset="bench", phases=(), source=source, time_base=info.time_base
            )
            images, times = [], []

            def flush(begun=begun, images=images):
                found = backbone(torch.stack(images))
                outputs = {n: v.numpy() for n, v in quantiser.on_device(found).items()}
                view = quantiser.on_host(outputs, slice(0, len(images)))
                begun.append(0, view.encoded, view.cls, view.cls_normed)
                images.clear()

            for frame in decode(manifest.root / clip.video):
                images.append(apply_transform(frame.pixels, recipe.transform))
                times.append(frame.ticks)
                if len(images) == CONFIG.batch_frames:
                    flush()
            if images:
                flush()
            count = len(times)
            pts = torch.tensor(times).numpy()
            index = torch.arange(count).numpy()
            zeros = torch.zeros(count, dtype=torch.int16).numpy()
            begun.commit(pts, index, zeros, zeros.astype("uint8"))
    return time.perf_counter() - start


def overlapped(manifest: Manifest, store: Path) -> tuple[float, ExtractReport]:
    """Seconds of an extraction, the decoding of its first frames included."""
    prepare_store(manifest, CONFIG, store)
    workers = machine_for(CONFIG).workers
    first = []

    def tick(report: ExtractReport) -> None:
        if not first:  # one chunk has come; the report has its seconds over all workers
            first.append(time.perf_counter() - report.seconds["decode"] * workers)

    report = extract_clips(manifest, CONFIG, store, progress=False, tick=tick)
    return time.perf_counter() - first[0], report


def main() -> None:
    """Interleaved repeats; one row."""
    logging.getLogger().setLevel(logging.ERROR)
    quick = quick_flag()
    clips, frames, repeats = (2, 30, 1) if quick else (4, 120, 3)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        render(root / "a.mp4", num_frames=frames, width=1280, height=720)
        manifest = Manifest("bench", root, tuple(Clip(f"c{i}", "a.mp4") for i in range(clips)))
        one, other, report = [], [], ExtractReport()
        for number in range(repeats):
            one.append(in_sequence(manifest, root / f"s{number}"))
            seconds, report = overlapped(manifest, root / f"o{number}")
            other.append(seconds)
            assert report.num_frames == clips * frames
    print(report.table())
    sequence, overlap = Timing(tuple(one)), Timing(tuple(other))
    shape = f"{clips} clips x {frames} frames 1280x720, ViT-tiny at 112, int8 x 3 blocks"
    shape += f", {machine_for(CONFIG).workers} decode processes, {torch.get_num_threads()} threads"
    ratio = sequence.median / overlap.median
    case = "stages overlapped: seconds of the sequence over its own"
    baseline = f"the stages in sequence, {sequence.median:.3g} s"
    row = make_row("extract_overlap", case, overlap, shape=shape, baseline=baseline, ratio=ratio)
    write_rows([row])


if __name__ == "__main__":
    main()
