"""The frames that phase 3 shows in its pictures, decoded as phase 1 decodes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.report.pictures.frames import FrameSource, FramesUnreachable, Image
from tokenreel.extract.video.decode import VideoError, decode, probe

__all__ = ["frames_below"]

SAME_SECONDS = 1e-3  # a frame further from its time than this is of another video


def frames_below(*roots: Path) -> FrameSource:
    """A source of the frames of videos in folders, by the paths in the embedding file.

    The first folder that has the video of a clip is used.
    The source raises FramesUnreachable for a clip without a path, a video that is not there or
    cannot be decoded, and one whose frames are not at the times of the clip.
    """

    def source(clip: EmbeddedClip, positions: Sequence[int]) -> Iterator[Image]:
        if not clip.video:
            raise FramesUnreachable(f"the embedding file names no video of {clip.clip_id}")
        paths = [root / clip.video for root in roots]
        path = next((path for path in paths if path.exists()), paths[0])
        try:
            yield from _read(path, clip, positions)
        except VideoError as error:
            raise FramesUnreachable(f"{path}: {error}") from error

    return source


def _read(path: Path, clip: EmbeddedClip, positions: Sequence[int]) -> Iterator[Image]:
    base = probe(path).time_base
    index = clip.frame_index if len(clip.frame_index) else np.arange(clip.num_frames)
    left = iter(positions)
    wanted = next(left, None)
    if wanted is None:
        return
    start_seconds = max(0.0, float(clip.times_seconds[wanted]) - SAME_SECONDS)
    for frame in decode(path, from_seconds=start_seconds):
        if frame.index != index[wanted]:
            continue
        seconds, stated = float(frame.ticks * base), float(clip.times_seconds[wanted])
        if abs(seconds - stated) > SAME_SECONDS:
            raise FramesUnreachable(
                f"{path} is not the video of {clip.clip_id}: frame {frame.index} is at "
                f"{seconds:.3f} s, the embedding file has {stated:.3f} s"
            )
        yield frame.pixels
        wanted = next(left, None)
        if wanted is None:
            return
    raise FramesUnreachable(f"{path} has no frame {index[wanted]} of {clip.clip_id}")
