"""Videos that a data set renders itself: encoded alike everywhere, by several processes."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from pathlib import Path
from typing import Protocol, TypeVar

import av
import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.files import whole_file

log = logging.getLogger(__name__)


class HasVideo(Protocol):
    """What is rendered.

    Attributes:
        video: its path below the root, the first folder its split.
    """

    @property
    def video(self) -> str:
        """See above."""


Script = TypeVar("Script", bound=HasVideo)


def write_video(path: Path, images: Iterable[NDArray[np.uint8]], *, fps: int) -> None:
    """Encode images as H.264 in MP4, whole or absent.

    Args:
        path: the file.
        images: (H, W, 3) each.
        fps: images a second.
    """
    with whole_file(path) as partial:
        container = av.open(str(partial), "w", format="mp4")
        stream = container.add_stream("libx264", rate=fps)
        stream.pix_fmt = "yuv420p"
        # Without mbtree, whose AVX-512 form gives other bytes each time.
        stream.options = {"crf": "20", "preset": "veryfast", "threads": "1", "mbtree": "0"}
        stream.time_base = Fraction(1, fps)
        for index, image in enumerate(images):
            if not index:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        container.close()


def render_missing(
    root: Path, scripts: Sequence[Script], render: Callable[[Path, Script], None]
) -> None:
    """Render the videos that are not there yet, in several processes where these can be started.

    Args:
        root: folder of the videos.
        scripts: of all of them.
        render: writes the video of a script below the root; a function of a module.
    """
    missing = [script for script in scripts if not (root / script.video).exists()]
    if not missing:
        return
    log.info("rendering %d clips in %s", len(missing), root)
    for folder in {(root / script.video).parent for script in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    workers = min(os.cpu_count() or 1, 8, len(missing))
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            for future in [pool.submit(render, root, script) for script in missing]:
                future.result()
    except BrokenProcessPool:  # no process can be started from a notebook or from standard input
        log.warning("rendering in one process: no other could be started")
        for script in missing:
            if not (root / script.video).exists():
                render(root, script)
