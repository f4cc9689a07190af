"""A frame with what is predicted: the name of its phase, and the phases of the whole video."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.methods.alignment import phase_name
from tokenreel.evaluate.report.pictures.frames import Image, resize

HEIGHT = 320  # of the picture
CAPTION, BAND = 30, 12  # heights of the text and of the phases below it
INK, PAPER, CURSOR = (235, 235, 235), (24, 26, 30), (255, 255, 255)


def caption(image: Image, clip: EmbeddedClip, frame: int, share: float) -> Image:
    """A frame, its time, phase and probability, and a band of all phases with a cursor.

    Args:
        image: the frame, uint8 (H, W, 3).
        clip: with the predicted phases as its labels.
        frame: its number.
        share: probability of its phase.

    Returns:
        uint8 (H', W', 3), both sides even.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    picture = resize(image, height=HEIGHT)
    width = picture.shape[1]
    sheet = Pillow.new("RGB", (width, HEIGHT + CAPTION + BAND), PAPER)
    sheet.paste(Pillow.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(sheet)
    text = f"{clip.moment(frame)}  {phase_name(clip, frame)}  {100 * share:.0f} %"
    draw.text((6, HEIGHT + 6), text, fill=INK, font=ImageFont.load_default(size=15))
    sheet.paste(Pillow.fromarray(_band(clip.labels, width)), (0, HEIGHT + CAPTION))
    place = round((width - 2) * frame / max(clip.num_frames - 1, 1))
    draw.rectangle((place, HEIGHT + CAPTION, place + 1, HEIGHT + CAPTION + BAND), fill=CURSOR)
    return np.asarray(sheet)


def _band(labels: NDArray[Any], width: int) -> Image:
    """The phases of all frames from left to right, uint8 (BAND, width, 3)."""
    from matplotlib import colormaps

    colours = np.array([colormaps["tab10"](number)[:3] for number in range(10)])
    frames = np.arange(width) * len(labels) // width
    row = (colours[labels[frames] % 10] * 255).round().astype(np.uint8)
    return np.broadcast_to(row, (BAND, width, 3)).copy()
