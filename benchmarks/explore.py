"""How soon the page of `tokenreel explore` is there, and its frames.

    python benchmarks/explore.py [--quick]

`page`: until it lists clips and takes clicks, in headless Chromium, on a store of 10,000 clips (the
records of 20 clips, repeated); at most 1 s wanted.  `frame`: one of a clip of 320x180, resized for
the backbone, as a request gets it while somebody jumps about in it; at most 0.15 s wanted.  `frame
of 1280x720, first visits` and `once warm`: in a long clip whose key frames are 250 frames apart,
the rest of which is decoded while nobody asks.
"""

import http.client
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
from harness import Timing, make_row, quick_flag, write_rows

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.evaluate.report.browser import Page, find_chromium
from tests.extract.extraction import write_video
from tokenreel.pipeline.explore import command
from tokenreel.pipeline.phases.library import extract_videos

CLIPS, FRAMES = 20, 60
LARGE = "large.mp4"


def main() -> None:
    """Measure and write the rows."""
    repeats = 2 if quick_flag() else 7
    frames = 8 if quick_flag() else FRAMES
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        (folder / "videos").mkdir()
        for number in range(3 if quick_flag() else CLIPS):
            write_video(folder / "videos" / f"{number:02}.mp4", frames, width=320, height=180)
        large = 40 if quick_flag() else 300
        write_video(folder / "videos" / LARGE, large, width=1280, height=720)
        settings = {"backbone": "test_vit", "weights": "random:0", "blocks": (5,)}
        extract_videos(folder / "videos", folder / "store", settings=settings)
        open_small = command.open_store

        def open_many(path: Path) -> object:
            store = open_small(path)
            own = list(store.records.values())
            for number in range(10_000 - len(own)):
                record = own[number % len(own)]
                clip_id = f"{number:05}/{record.clip_id}"
                store.records[clip_id] = replace(record, clip_id=clip_id)
            return store

        command.open_store = open_many
        serving = command.serve_store(folder / "store", root=folder / "videos", port=0)
        thread = threading.Thread(target=serving.run)
        thread.start()
        try:
            clip = next(iter(open_small(folder / "store").records))
            timings = {"frame": measure_frames(serving.url, clip, frames)}
            for visit in ("first visits", "once warm"):
                found = measure_frames(serving.url, LARGE, large)
                timings[f"frame of 1280x720, {visit}"] = found
            if find_chromium() is not None:
                timings["page"] = measure_page(serving.url, folder, repeats)
        finally:
            serving.stop()
            thread.join()
    write_rows(
        [
            make_row(
                "explore",
                what,
                timing,
                shape="10000 clips",
                baseline=f"{wanted:g} s",
                ratio=timing.median / wanted,
            )
            for what, timing in timings.items()
            for wanted in [1.0 if what == "page" else 0.15]
        ]
    )


def measure_page(url: str, folder: Path, repeats: int) -> Timing:
    """Seconds from navigation until the page is ready, in browsers that just started."""
    seconds = []
    for number in range(repeats + 1):
        with Page(url, folder / f"profile{number}") as page:
            seconds.append(float(page.wait("document.body.dataset.ready")) / 1000)
    return Timing(tuple(seconds[1:]))


def measure_frames(url: str, clip: str, count: int) -> Timing:
    """Seconds of each frame but the first two, one after another in an order that jumps."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    seconds = []
    for frame in [0, 1, *np.random.default_rng(0).permutation(count).tolist()]:
        start = time.perf_counter()
        connection.request("GET", f"{address.path}frame?clip={quote(clip)}&frame={frame}")
        answer = connection.getresponse()
        data = answer.read()
        seconds.append(time.perf_counter() - start)
        if answer.status != 200:
            raise RuntimeError(data)
        time.sleep(0.02)
    return Timing(tuple(seconds[2:]))


if __name__ == "__main__":
    main()
