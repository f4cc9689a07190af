"""The pictures of a training step from a store, against decoding them from the videos.

    python benchmarks/scene_pixels.py [--quick]

A step takes 12 frames of every scene of some clips.  The ratio is seconds of decoding / seconds of
`read_pictures`, one thread each, seconds on the processor.  Decoding seeks to each scene, decodes
to its last frame, and makes the same 128x171 pictures; no model runs.  The claim is 3 at least.
"""

import tempfile
import time
from pathlib import Path

from extract_scenes import SIZES, render
from harness import make_row, measure, quick_flag, write_rows

from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.read.pictures import read_pictures
from tokenreel.cache.read.store_reader import open_store
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.images.transforms import apply_transform
from tokenreel.extract.scene_list import read_scenes
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.run import extract_scenes
from tokenreel.extract.video.decode import decode

FRAMES = 12  # of a scene


def main() -> None:
    """Measure both sizes."""
    count, repeats = (100, 1) if quick_flag() else (650, 3)
    rows = []
    for name, (height, width) in SIZES.items():
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            render(folder / "film.mp4", height, width, count)
            manifest = Manifest("films", folder, (Clip("film", "film.mp4"),))
            extract_scenes(manifest, ScenesConfig(), folder / "scenes", progress=False)
            config = ExtractConfig(frames=f"scenes:{folder / 'scenes'}", pixels="all", device="cpu")
            extract_clips(manifest, config, folder / "store", progress=False)
            store = open_store(folder / "store")
            scenes = read_scenes(folder / "scenes").scenes["film.mp4"]

            def decoding(path=folder / "film.mp4", scenes=scenes, store=store) -> None:
                for scene in scenes:
                    start, stop = scene.start_seconds, scene.stop_seconds
                    kept = {int((k + 0.5) * scene.num_frames / FRAMES) for k in range(FRAMES)}
                    frames = decode(path, from_seconds=start, until_seconds=stop)
                    for number, frame in enumerate(frames):
                        if number in kept:
                            apply_transform(frame.pixels, store.identity.transform)

            def reading(store=store, scenes=scenes) -> None:
                assert len(read_pictures(store, "film")) == len(scenes)

            subjects = {"decode": decoding, "read": reading}
            times = measure(subjects, repeats=repeats, clock=time.process_time)
        rows.append(
            make_row(
                "scene_pixels",
                f"pictures of {name}: seconds of decoding / seconds of reading",
                times["read"],
                shape=f"{len(scenes)} scenes of {width}x{height}",
                baseline="decoding from the video",
                ratio=times["decode"].median / times["read"].median,
            )
        )
    write_rows(rows)


if __name__ == "__main__":
    main()
