"""Data sets that are rendered: the note in their root, and videos encoded alike everywhere."""

import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from fractions import Fraction
from pathlib import Path
from typing import Protocol, TypeVar

import av
import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.canonical import is_whole_number, read_json
from tokenreel.cache.errors import UsageError
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


def counts_of(
    note: Path, options: Mapping[str, str], defaults: Mapping[str, int]
) -> dict[str, int]:
    """Clips of each split: as the options say, else as rendered before, else the defaults.

    Args:
        note: of the root, which need not exist.
        options: split -> number of clips, as given; of known splits.
        defaults: split -> number of clips.

    Raises:
        UsageError: an option that is no number from 1.
    """
    counts = dict(defaults)
    try:
        held = read_json(note.read_bytes())
        counts = {split: int(held[split]) for split in counts}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass  # a note of another kind is reported by `note_text`
    for split, text in options.items():
        if not (is_whole_number(text) and int(text)):
            raise UsageError(f"data.{split} is a number of clips from 1, got {text!r}")
        counts[split] = int(text)
    return counts


def note_text(note: Path, version: int, counts: Mapping[str, int]) -> str:
    """What the note of a root says when all is rendered.

    Args:
        note: of the root, which need not exist.
        version: of scripts and pictures.
        counts: split -> number of clips.

    Raises:
        UsageError: the root holds another version, other numbers of clips or another data set.
    """
    root = note.parent
    text = json.dumps({"version": version, **counts}, sort_keys=True)
    if note.exists():
        if note.read_text() != text:
            raise UsageError(f"{root} holds {note.read_text()}, wanted {text}: use another --root")
    elif root.is_dir() and any(root.glob("*.csv")):
        raise UsageError(f"{root} holds another data set: use another --root")
    return text


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
