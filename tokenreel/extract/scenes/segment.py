"""The scenes of one video, from one pass over its frames."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from tokenreel.cache.manifest import path_below
from tokenreel.extract.frame_policy import uniform_frames
from tokenreel.extract.scene_list import Scene, SceneSource
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.cutter import Cutter
from tokenreel.extract.scenes.methods import cutter_for
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.source import SourceFiles
from tokenreel.extract.video.types import VideoError

DECODER = "pyav"
TICK_SECONDS = 0.5

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SegmentJob:
    """A video whose scenes are wanted.

    Attributes:
        root: folder that the video's path is relative to.
        video: its path, as in a manifest.
        picture_fps: pictures a second of a folder of pictures, 25 when None.
        config: the method.
    """

    root: Path
    video: str
    picture_fps: float | None
    config: ScenesConfig


@dataclass(frozen=True, slots=True)
class Segmented:
    """The scenes of a video.

    Attributes:
        source: the file.
        scenes: in order of time; they cover the video without a gap.
    """

    source: SceneSource
    scenes: tuple[Scene, ...]


def segment(job: SegmentJob, alive: Callable[[], None] = lambda: None) -> Segmented:
    """Find the scenes of a video that does not change meanwhile.

    Raises:
        VideoError: see `video.decode`; or the file was written while it was read.
        UsageError: the method needs a package that is not installed.
    """
    files = SourceFiles(job.root)
    source, _, state = _while_alive(
        lambda: files.examine_settled(job.video, DECODER, picture_fps=job.picture_fps), alive
    )
    scenes = find_scenes(
        path_below(job.root, job.video),
        cutter_for(job.config),
        picture_fps=job.picture_fps,
        alive=alive,
    )
    if now := _while_alive(lambda: files.change_since(source, state), alive):
        raise VideoError(f"changed while its scenes were looked for: it is {now}")
    assert source.mtime_ns is not None
    return Segmented(SceneSource(source.num_bytes, source.mtime_ns, source.sha256), scenes)


def _while_alive(work: Callable[[], Result], alive: Callable[[], None]) -> Result:
    """The result of work that takes long, such as hashing a file; `alive` is called meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        while not future.done():
            alive()
            wait([future], timeout=TICK_SECONDS)
        return future.result()


def find_scenes(
    path: Path,
    cutter: Cutter,
    *,
    picture_fps: float | None = None,
    alive: Callable[[], None] = lambda: None,
) -> tuple[Scene, ...]:
    """The scenes of a video, in order of time; they cover it without a gap.

    Memory is that of the method, and 8 bytes a frame.

    Args:
        path: the video, or a folder of numbered pictures.
        cutter: the method, new.
        picture_fps: pictures a second of a folder, 25 when None.
        alive: called for each frame.

    Raises:
        VideoError: see `video.decode`.
    """
    info = probe(path, picture_fps=picture_fps)
    ticks, cuts, end = array("q"), [0], 0
    for frame in decode(path, decoder=DECODER, least_frames=1, info=info):
        alive()
        ticks.append(frame.ticks)
        cuts += cutter.add(frame)
        end = frame.stop or frame.ticks + 1
    cuts += cutter.end()
    return tuple(_scenes(ticks, sorted({*cuts}), end, info.time_base))


def _scenes(ticks: Sequence[int], cuts: list[int], end: int, base: Fraction) -> Iterator[Scene]:
    """Scenes that begin at the frames `cuts`; the last ends at the tick `end`."""
    for first, stop in pairwise([*cuts, len(ticks)]):
        until = ticks[stop] if stop < len(ticks) else end
        [centre] = uniform_frames(ticks[first:stop], None, 1, until)
        begin, after, middle = (
            float(tick * base) for tick in (ticks[first], until, ticks[first + centre])
        )
        yield Scene(begin, after, middle, stop - first)
