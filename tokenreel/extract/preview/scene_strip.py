"""Picture of the scenes of a video, to check a list by eye: `extract show VIDEO --scenes FOLDER`.

From the top: the centre frame of each scene; the mean of R, G and B of every frame, their running
mean and the cuts; the distance between the two, and its threshold.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import UsageError
from tokenreel.extract.preview.show import save_figure
from tokenreel.extract.scene_list import Scene
from tokenreel.extract.scenes.cutter import RunningMean
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe

Array = NDArray[Any]

MOST_SHOWN = 13  # scenes
THUMBNAIL_PIXELS = 120  # of the long side
COLOURS = ("#c0392b", "#27ae60", "#2b5fc0")


@dataclass(frozen=True, eq=False)
class ScenePicture:
    """Contents of the picture of a video.

    The running mean starts again at its own cuts, which are those of the list where that was made
    by `running-mean` and not edited.

    Attributes:
        title: of the picture.
        scenes: of the video.
        shown: numbers of the scenes whose centre frames are shown.
        frames: centre frames of these, uint8 (h, w, 3) each.
        seconds: time of every frame of the video, (T,).
        means: mean R, G and B of every frame, (T, 3).
        running: their running mean before each frame, NaN at the first, (T, 3).
        threshold: of the distance, None where another method found the scenes.
    """

    title: str
    scenes: Sequence[Scene]
    shown: Sequence[int]
    frames: Sequence[Array]
    seconds: Array
    means: Array
    running: Array
    threshold: float | None


def look_at_scenes(
    path: Path,
    video: str,
    scenes: Sequence[Scene],
    *,
    made: Mapping[str, Any],
    picture_fps: float | None = None,
    most: int = MOST_SHOWN,
) -> ScenePicture:
    """Read the contents of the picture of a video; it is decoded once.

    Args:
        path: of the video.
        video: its name in the list.
        scenes: of it, in order.
        made: how the scenes were found: `method` and `parameters` of scenes.json, or nothing.
        picture_fps: pictures a second of a folder of pictures.
        most: scenes shown, evenly chosen where there are more.

    Raises:
        VideoError: see `video.decode`.
        UsageError: the video ends before a scene of the list.
    """
    is_ours = made.get("method") == "running-mean"
    given = made["parameters"] if is_ours else {}
    cutter = RunningMean(
        threshold=given.get("threshold"),
        min_frames=given.get("min_frames"),
        window=given.get("window"),
    )
    shown = evenly(len(scenes), most)
    base = probe(path, picture_fps=picture_fps).time_base
    wanted = [scenes[number].centre_seconds for number in shown]
    seconds, means, running = array("d"), array("f"), array("f")
    frames: list[Array] = []
    for frame in decode(path, picture_fps=picture_fps, least_frames=1):
        last = cutter.running
        running.extend([np.nan] * 3 if last is None else last)
        mean = frame.mean_rgb
        cutter.add_mean(mean)
        means.extend(mean)
        seconds.append(float(frame.ticks * base))
        stop = frame.ticks + 1 if frame.stop is None else frame.stop
        while len(frames) < len(wanted) and wanted[len(frames)] < float(stop * base):
            frames.append(_thumbnail(frame.pixels))
    if len(frames) < len(wanted):
        raise UsageError(
            f"{video}: the list has a scene at {wanted[len(frames)]:g} s, its frames end at "
            f"{seconds[-1]:.3f} s: is it another version of the video?"
        )
    title = f"{video}  ({len(scenes)} scenes, {len(seconds)} frames"
    title += f", {made['method']})" if made else ")"
    return ScenePicture(
        title,
        scenes,
        shown,
        frames,
        np.array(seconds),
        np.array(means).reshape(-1, 3),
        np.array(running).reshape(-1, 3),
        cutter.threshold if is_ours else None,
    )


def _thumbnail(pixels: Array) -> Array:
    """Every n-th pixel of a frame."""
    step = max(max(pixels.shape[:2]) // THUMBNAIL_PIXELS, 1)
    return pixels[::step, ::step].copy()


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of `count` numbers from 0, evenly chosen.

    >>> evenly(3, 13), evenly(10, 4)
    ([0, 1, 2], [0, 3, 6, 9])
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def draw_scenes(picture: ScenePicture, out: Path) -> Path:
    """Write the picture as a PNG file, atomically; returns its path.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    columns = len(picture.shown)
    figure = Figure(figsize=(max(1.3 * columns, 9.0), 6.5), layout="constrained")
    figure.suptitle(picture.title, fontsize=10)
    areas: Any = figure.subfigures(2, 1, height_ratios=[1.5, 5.0])
    upper, lower = areas
    panels = upper.subplots(1, columns, squeeze=False)[0]
    for panel, number, image in zip(panels, picture.shown, picture.frames, strict=True):
        panel.imshow(image)
        centre = picture.scenes[number].centre_seconds
        panel.set_title(f"scene {number}\n{centre:.2f} s", fontsize=7)
        panel.set(xticks=[], yticks=[])
    colours, jumps = lower.subplots(2, 1, sharex=True)
    for channel, colour in enumerate(COLOURS):
        colours.plot(picture.seconds, picture.means[:, channel], color=colour, linewidth=0.9)
        colours.plot(
            picture.seconds, picture.running[:, channel], color=colour, linewidth=0.9, alpha=0.4
        )
    colours.set(ylabel="mean R, G, B and running mean", ylim=(0, 255))
    apart = np.sqrt(np.square(picture.means - picture.running).sum(axis=1))
    jumps.plot(picture.seconds, apart, color="black", linewidth=0.8)
    jumps.set(ylabel="distance", xlabel="time (s)")
    if picture.threshold is not None:
        jumps.axhline(picture.threshold, color="#c0392b", linewidth=0.8, linestyle="--")
    for axis in (colours, jumps):
        for scene in picture.scenes[1:]:
            axis.axvline(scene.start_seconds, color="grey", linewidth=0.6)
        axis.grid(alpha=0.3)
    kept = [picture.scenes[number].centre_seconds for number in picture.shown]
    colours.plot(kept, np.full(len(kept), 4.0), "k^", markersize=5)
    return save_figure(figure, out)
