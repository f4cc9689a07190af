"""Extraction by Ray against the local engine: the same clips, two workers of one thread each.

    python benchmarks/ray_local.py [--quick]

Both start their workers anew for each repeat, and write a store of their own on the same disk.
Frames are counted from the moment that each worker has written its first segment to the last
commit.  Until then is the start, which is printed apart: of Ray and its actors, or of the processes
of the local engine, and of the decode processes of each.  The claim is 90 % of the frames a second;
the stores hold the same bytes.
"""

import logging
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from extract_fixture import render
from harness import Timing, make_row, quick_flag, write_rows

from tokenreel.cache.format.layout import SEGMENT
from tokenreel.extract.flow.gpus import extract_on_gpus
from tokenreel.pipeline.launch.base import Extraction, Placement
from tokenreel.pipeline.launch.ray_engine import launch
from tokenreel.pipeline.phases.extraction import read_words

BLOCKS = (3, 7, 11)
WORDS = ("backbone=vit_tiny_patch16_224", "weights=random:0", "image_size=112")
WORDS += (f"blocks={','.join(map(str, BLOCKS))}", "device=cpu", "batch_frames=16", "workers=1")
WORKERS = 2
LOOK_SECONDS = 0.01


class Watch:
    """Waits beside a call until each worker has written a segment of the store that the call makes.

    Attributes:
        begun: when that was seen, seconds since 1970; 0 before.
        num_frames: on the disk by then, in whole segments.
    """

    def __init__(self, store: Path) -> None:
        self._store, self._end = store, threading.Event()
        self.begun, self.num_frames = 0.0, 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        writers: set[str] = set()
        while not self._end.wait(LOOK_SECONDS):
            shards = [*self._store.glob(f"clips/*/.tmp-*/views/0/crc32c/{BLOCKS[-1]}/c/*")]
            writers |= {path.relative_to(self._store).parts[2][-8:] for path in shards}
            if len(writers) == WORKERS:
                self.begun = time.time()
                whole = self._store.glob(f"clips/*/*/views/0/crc32c/{BLOCKS[-1]}/c/*")
                self.num_frames = SEGMENT * len([*whole])
                return


def extract(call: Callable[[Path], object], store: Path, num_frames: int) -> tuple[float, float]:
    """Seconds until each worker has written a segment, and frames a second from then on."""
    started = time.time()
    with Watch(store) as watch:
        call(store)
    ended = max(log.stat().st_mtime for log in store.glob("manifest/*.jsonl"))
    assert watch.begun, "a worker had nothing to do"
    return watch.begun - started, (num_frames - watch.num_frames) / (ended - watch.begun)


def contents(store: Path) -> dict[str, bytes]:
    """Every file of the clips of a store, and what it is."""
    files = [store / "recipe.json", *(path for path in store.glob("clips/**/*") if path.is_file())]
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def main() -> None:
    """Interleaved repeats; one row."""
    logging.getLogger().setLevel(logging.ERROR)
    quick = quick_flag()
    clips, frames, repeats = (4, 150, 1) if quick else (24, 150, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        root = folder / "videos"
        root.mkdir()
        data = render(root / "0.mp4", num_frames=frames, width=640, height=360).read_bytes()
        for number in range(1, clips):
            (root / f"{number}.mp4").write_bytes(data)
        manifest, config = read_words("folder", WORDS, root=root)
        assert len(manifest.clips) == clips

        def by_ray(store: Path) -> None:
            launch(Extraction("folder", WORDS, root, store), Placement(nodes=WORKERS, cpus=1))

        def here(store: Path) -> None:
            extract_on_gpus(["cpu"] * WORKERS, manifest, config, store, progress=False)

        engines = {"ray": by_ray, "local": here}
        rates: dict[str, list[float]] = {name: [] for name in engines}
        order = random.Random(0)
        for number in range(repeats):
            for engine in order.sample(sorted(engines), len(engines)):
                store = folder / f"{engine}{number}"
                start, rate = extract(engines[engine], store, clips * frames)
                rates[engine].append(rate)
                print(f"{engine}: {start:.1f} s to start, {rate:.1f} frames/s", flush=True)
            assert contents(folder / f"ray{number}") == contents(folder / f"local{number}")
    ray, local = (Timing(tuple(rates[engine])) for engine in ("ray", "local"))
    row = make_row(
        "ray_local",
        "Ray: frames a second over those of the local engine, after the start",
        ray,
        shape=f"{clips} clips x {frames} frames 640x360, ViT-tiny at 112, {WORKERS} workers",
        baseline=f"{WORKERS} processes of one thread here, {local.median:.4g} frames/s",
        ratio=ray.median / local.median,
        unit="frames/s",
    )
    write_rows([row])


if __name__ == "__main__":
    main()
