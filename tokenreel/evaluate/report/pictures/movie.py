"""A video of two aligned clips side by side: H.264 in MP4, a frame a step of the path."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.cache.errors import TokenReelError
from tokenreel.cache.files import make_directory, whole_file
from tokenreel.evaluate.methods.alignment import AlignedClips, phase_name
from tokenreel.evaluate.report.pictures.frames import FrameSource, Image, resize

CAPTION_HEIGHT = 28
GAP = 8
TICKS = 90_000  # of a second, as MPEG counts
INK, PAPER, DIFFERENT = (235, 235, 235), (24, 26, 30), (230, 159, 0)


def playback_rate(clip: EmbeddedClip) -> Fraction:
    """Frames a second at which a clip plays in its own time, from 1 to 60; 25 for one frame.

    >>> one = np.zeros((3, 2), np.float32)
    >>> clip = EmbeddedClip("a", "val", "", "", one, np.zeros(3, np.int16), np.arange(3) / 30)
    >>> playback_rate(clip)
    Fraction(30, 1)
    """
    if clip.num_frames < 2 or not clip.is_timed:
        return Fraction(25)
    step = float(np.median(np.diff(clip.times_seconds)))
    rate = 1 / step if step > 0 else 25.0
    return Fraction(min(60.0, max(1.0, rate))).limit_denominator(1001)


def side_by_side(pair: AlignedClips, source: FrameSource, *, height: int = 240) -> Iterator[Image]:
    """The pictures of the video: query left, reference right, time and phase below each.

    Where the phases of both are known and differ, the caption says so and has a bar across it.
    Memory holds two frames, whatever the length.

    Raises:
        FramesUnreachable: from the source.
    """
    rows, columns = pair.path.steps.T
    left = _held(source(pair.query, np.unique(rows).tolist()), rows, height)
    right = _held(source(pair.reference, np.unique(columns).tolist()), columns, height)
    for row, column, one, other in zip(rows, columns, left, right, strict=True):
        yield _compose(pair, (int(row), int(column)), (one, other))


def write_movie(
    path: Path,
    images: Iterator[Image],
    *,
    rate: Fraction,
    times_seconds: NDArray[np.float64] | None = None,
) -> int:
    """Encode pictures of one size, even in both directions; the file is whole or absent.

    Args:
        path: of the file.
        images: the pictures.
        rate: pictures a second.
        times_seconds: of each picture, where they are not evenly spaced; the first counts as 0.
            Where two times are equal, or fall, the pictures follow at the rate.

    Returns:
        The number of frames.

    Raises:
        TokenReelError: there is no encoder.
    """
    import av

    first = next(images)  # an error of the source comes before any file
    make_directory(path.parent)
    count = 0
    flags = {"movflags": "faststart"}
    with (
        whole_file(path) as partial,
        av.open(str(partial), "w", format="mp4", options=flags) as container,
    ):
        try:
            stream = container.add_stream("libx264", rate=rate)
        except ValueError as error:
            raise TokenReelError(
                f"{path}: this build of PyAV has no encoder libx264: pip install --force-reinstall "
                "--only-binary av av"
            ) from error
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "21", "preset": "fast", "threads": "1"}
        ticks = _ticks_of(times_seconds)
        base = 1 / rate if ticks is None else Fraction(1, TICKS)
        stream.codec_context.time_base = base
        for count, image in enumerate(chain([first], images), start=1):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = count - 1 if ticks is None else int(ticks[count - 1])
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return count


def _ticks_of(times_seconds: NDArray[np.float64] | None) -> NDArray[np.int64] | None:
    """Times from the first on in ticks; None where they do not rise."""
    if times_seconds is None or len(times_seconds) < 2:
        return None
    ticks = ((times_seconds - times_seconds[0]) * TICKS).round().astype(np.int64)
    return ticks if (np.diff(ticks) > 0).all() else None


def _held(images: Iterator[Image], positions: NDArray[np.int64], height: int) -> Iterator[Image]:
    """The frame at each position of the path, which rises; a repeated one is kept, not decoded."""
    now = -1
    image: Image | None = None
    for position in positions.tolist():
        if position != now:
            image, now = resize(next(images), height=height), position
        assert image is not None
        yield image


def _compose(pair: AlignedClips, frames: tuple[int, int], images: tuple[Image, Image]) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    clips = (pair.query, pair.reference)
    labels = [int(clip.labels[frame]) for clip, frame in zip(clips, frames, strict=True)]
    differ = min(labels) >= 0 and labels[0] != labels[1]
    height = images[0].shape[0]
    offsets = (0, images[0].shape[1] + GAP)
    width = offsets[1] + images[1].shape[1]
    total = (height + CAPTION_HEIGHT + 1) // 2 * 2
    sheet = Pillow.new("RGB", (width, total), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for clip, frame, image, x in zip(clips, frames, images, offsets, strict=True):
        sheet.paste(Pillow.fromarray(image), (x, 0))
        name = phase_name(clip, frame)
        text = f"{clip.moment(frame)}  {name}"
        draw.text((x + 6, height + 5), text, fill=DIFFERENT if differ else INK, font=font)
    if differ:
        draw.rectangle((0, height, width, height + 2), fill=DIFFERENT)
        draw.text((offsets[1] - GAP - 26, height + 5), "=/=", fill=DIFFERENT, font=font)
    return np.asarray(sheet)
