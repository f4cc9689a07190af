"""Frames to keep of a clip: all, a number a second, a number a clip, or those at listed times."""

import bisect
import hashlib
import logging
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.csv_tables import read_table
from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.scene_list import Scene, SceneList, read_scenes

log = logging.getLogger(__name__)

SAMPLED = (
    "uniform",
    "listed",
    "scenes",
)  # policies that may take a frame twice, and end before the clip
TOLERATED_STEPS = 1.5  # a span or clip may end this many frames after the end of the last one
TOLERATED_SECONDS = 0.1  # rounding of annotations

TimesOfVideos = Mapping[str, tuple[float, ...]]


def uniform_count(config: ExtractConfig) -> int | None:
    """T of frames=uniform:T, None for another policy."""
    kind, _, value = config.frames.partition(":")
    return int(value) if kind == "uniform" else None


def listed_times(config: ExtractConfig) -> TimesOfVideos | None:
    """The times of frames=listed:FILE by video, ascending; None for another policy.

    Raises:
        UsageError: a file that cannot be read, a line that is wrong, or a time that is listed
            twice; file and line are named.
    """
    kind, _, value = config.frames.partition(":")
    if kind != "listed":
        return None
    try:
        status = Path(value).stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"frames={config.frames}: {value}: {reason}") from error
    return _read_list(Path(value).absolute(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _read_list(path: Path, num_bytes: int, mtime_ns: int) -> TimesOfVideos:
    """Times by video of a CSV file; read again where its size or time differs."""
    lines: dict[tuple[str, float], str] = {}
    for line in read_table(path, required=("video", "time_seconds")):
        key = line.cells["video"], line.seconds("time_seconds")
        if not key[0]:
            raise UsageError(f"{line.where}: video is empty")
        if key in lines:
            raise UsageError(
                f"{line.where}: {key[0]} at {key[1]:g} s is listed before, at {lines[key]}"
            )
        lines[key] = line.where
    if not lines:
        raise UsageError(f"{path.name}: lists no time")
    times: dict[str, list[float]] = {}
    for video, seconds in sorted(lines):
        times.setdefault(video, []).append(seconds)
    return {video: tuple(each) for video, each in times.items()}


def times_of(listed: TimesOfVideos, clip: Clip) -> tuple[float, ...]:
    """The listed times in [start, stop) of a clip."""
    times = listed.get(clip.video, ())
    first = bisect.bisect_left(times, clip.start_seconds or 0.0)
    stop = clip.stop_seconds
    return times[first : len(times) if stop is None else bisect.bisect_left(times, stop)]


def listed_scenes(config: ExtractConfig) -> SceneList | None:
    """The scenes of frames=scenes:FOLDER; None for another policy.

    Raises:
        UsageError: see scene_list.read_scenes.
        Damaged: likewise.
    """
    kind, _, value = config.frames.partition(":")
    return read_scenes(Path(value)) if kind == "scenes" else None


def scenes_of(listed: SceneList, clip: Clip) -> tuple[Scene, ...]:
    """The listed scenes of which a part lies in [start, stop) of a clip."""
    start, stop = clip.start_seconds or 0.0, clip.stop_seconds
    return tuple(
        scene
        for scene in listed.scenes.get(clip.video, ())
        if scene.stop_seconds > start and (stop is None or scene.start_seconds < stop)
    )


class FrameList:
    """The list that a policy reads from a file, if it reads one.

    Args:
        config: of the extraction.

    Raises:
        UsageError: see listed_times and listed_scenes.
    """

    def __init__(self, config: ExtractConfig) -> None:
        self.times, self.scenes = listed_times(config), listed_scenes(config)

    @property
    def videos(self) -> set[str] | None:
        """The videos listed; None where nothing is."""
        listed = self.times if self.scenes is None else self.scenes.scenes
        return None if listed is None else set(listed)

    def count(self, clip: Clip) -> int | None:
        """The times or scenes that are listed of a clip; None where nothing is listed."""
        if self.scenes is not None:
            return len(scenes_of(self.scenes, clip))
        return None if self.times is None else len(times_of(self.times, clip))

    def has(self, clip: Clip) -> bool:
        """Whether frames of a clip are kept."""
        return self.count(clip) != 0


def check_list(config: ExtractConfig, manifest: Manifest) -> None:
    """Warn of listed videos that no clip is of.

    Raises:
        UsageError: no clip of the data set has a listed time or scene; see also FrameList.
    """
    listed = FrameList(config)
    if listed.videos is None:
        return
    videos = {clip.video for clip in manifest.clips}
    unknown = sorted(listed.videos - videos)
    if unknown:
        log.warning(
            "frames=%s has %d video(s) of which %s has no clip, such as %s",
            config.frames,
            len(unknown),
            manifest.dataset,
            unknown[0],
        )
    if not any(listed.has(clip) for clip in manifest.clips):
        what = "time" if listed.scenes is None else "scene"
        raise UsageError(
            f"frames={config.frames}: no listed {what} is in a clip of {manifest.dataset}, whose "
            f"videos have names like {min(videos, default='')!r}"
        )


def frames_identity(config: ExtractConfig) -> dict[str, Any]:
    """The `frames` field of the identity of a store.

    The hash of a list is that of its times or scenes by video: not of the file, of which a
    spreadsheet changes separators and the order of lines.

    Raises:
        UsageError: see FrameList.
    """
    count, listed = uniform_count(config), listed_times(config)
    scenes = listed_scenes(config)
    if scenes is not None:
        return {"policy": "scenes", "sha256": scenes.sha256}
    if count is not None:
        return {"policy": "uniform", "count": count}
    if listed is not None:
        return {"policy": "listed", "sha256": hashlib.sha256(canonical_json(listed)).hexdigest()}
    return {"policy": "all"} if config.fps is None else {"policy": "fps", "fps": config.fps}


def frames_word(frames: Mapping[str, Any], file: str = "FILE") -> str:
    """The value of frames= that gives the `frames` field of an identity.

    >>> frames_word({"policy": "uniform", "count": 8}), frames_word({"policy": "fps", "fps": 5.0})
    ('uniform:8', 'all')
    """
    policy = frames.get("policy")
    if policy == "uniform":
        return f"uniform:{frames['count']}"
    return f"{policy}:{file}" if policy in ("listed", "scenes") else "all"


def uniform_frames(
    ticks: Sequence[int], stop: Fraction | None, count: int, shown_until: int | None = None
) -> list[int]:
    """The frames that are shown at the centres of equal parts of a clip.

    Args:
        ticks: times of the clip's frames, ascending.
        stop: at which the clip ends at the latest, in ticks.
        count: number of parts.
        shown_until: tick until which the last frame is shown; None: as long as the one before.

    Returns:
        Positions in `ticks`, ascending; in a short clip some repeat.

    >>> uniform_frames(range(10), None, 3), uniform_frames(range(2), None, 4)
    ([1, 5, 8], [0, 0, 1, 1])
    """
    first = Fraction(ticks[0])
    end = Fraction(ticks[-1] + _last_step(ticks) if shown_until is None else shown_until)
    end = end if stop is None else min(end, stop)
    part = (end - first) / count
    centres = (first + part * (index + Fraction(1, 2)) for index in range(count))
    return [max(bisect.bisect_right(ticks, centre) - 1, 0) for centre in centres]


def nearest_frames(
    ticks: Sequence[int], times: Sequence[Fraction], shown_until: int | None = None
) -> list[int]:
    """The frames nearest to times in ticks, the earlier of two that are as near.

    Args:
        ticks: times of the clip's frames, ascending.
        times: wanted.
        shown_until: tick until which the last frame is shown; None: as long as the one before.

    Returns:
        Positions in `ticks`.

    Raises:
        ValueError: a time that is further than a frame's duration before the first frame or after
            the last, which is no longer shown; its only argument is the position of the time.

    >>> nearest_frames([0, 10, 20], [Fraction(4), Fraction(15), Fraction(29)])
    [0, 1, 2]
    """
    step = _last_step(ticks)
    last = max(ticks[-1] + step, shown_until or ticks[-1])
    found = []
    for place, time in enumerate(times):
        if not ticks[0] - step <= time <= last:
            raise ValueError(place)
        after = bisect.bisect_left(ticks, time)
        near = [index for index in (after - 1, after) if 0 <= index < len(ticks)]
        found.append(min(near, key=lambda index: abs(ticks[index] - time)))
    return found


def scene_frames(
    ticks: Sequence[int],
    scene: tuple[int, int, int],
    count: int,
    shown_until: int | None = None,
) -> list[int]:
    """The frames to keep of a scene: those shown at the centres of equal parts of it.

    Args:
        ticks: times of the clip's frames, ascending.
        scene: start, stop and centre in ticks; of one frame, it is the one shown at the centre.
        count: number of frames.
        shown_until: tick until which the last frame is shown; None: as long as the one before.

    Returns:
        Positions in `ticks`, ascending; in a short scene some repeat.  None of them where no frame
        begins in the scene.

    >>> ticks = [0, 10, 20, 30, 40]
    >>> scene_frames(ticks, (10, 40, 20), 1), scene_frames(ticks, (10, 40, 20), 4)
    ([2], [1, 2, 2, 3])
    >>> scene_frames(ticks, (41, 45, 43), 1)
    []
    """
    start, stop, centre = scene
    first, last = bisect.bisect_left(ticks, start), bisect.bisect_left(ticks, stop)
    if first == last:
        return []
    if count == 1:
        return [max(bisect.bisect_right(ticks, centre) - 1, first)]
    inside = ticks[first:last]
    end = ticks[last] if last < len(ticks) else shown_until
    return [first + place for place in uniform_frames(inside, Fraction(stop), count, end)]


def missing_end(
    stop_seconds: float | None,
    times_seconds: NDArray[np.float64],
    shown_until: float | None = None,
) -> float | None:
    """The end of a clip's frames where it is before the clip's stop, in seconds; else None.

    Args:
        stop_seconds: of the clip, None for the end of its video.
        times_seconds: of all frames of the clip, (T,), ascending.
        shown_until: seconds until which the last frame is shown; None: by rules 1.
    """
    if stop_seconds is None:
        return None
    step, end_seconds = step_and_end(times_seconds, shown_until)
    tolerated = max(TOLERATED_STEPS * step, TOLERATED_SECONDS)
    return end_seconds if end_seconds < stop_seconds - tolerated else None


def step_and_end(
    times_seconds: NDArray[np.float64], shown_until: float | None = None
) -> tuple[float, float]:
    """Median seconds between frames, and the seconds at which the last is no longer shown.

    Args:
        times_seconds: of the frames, (T,), ascending.
        shown_until: as the video says; None, as in rules 1: one more step.
    """
    last = float(times_seconds[-1])
    if len(times_seconds) > 1:
        step = float(np.median(np.diff(times_seconds)))
    else:
        step = 0.0 if shown_until is None else shown_until - last
    return step, max(last + step, shown_until or last)


def _last_step(ticks: Sequence[int]) -> int:
    return ticks[-1] - ticks[-2] if len(ticks) > 1 else 1
