"""One picture of a query frame and the frames retrieved for it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.evaluate.methods.alignment import phase_name
from tokenreel.evaluate.methods.retrieval import Neighbour
from tokenreel.evaluate.report.pictures.frames import FrameSource, Image, png_bytes, thumbnails

LINE, MARGIN, BORDER = 17, 8, 4
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (95, 95, 95)
RIGHT, WRONG, QUERY = (0, 114, 178), (213, 94, 0), (70, 70, 70)


def write_strip(
    path: Path,
    clip: EmbeddedClip,
    frame: int,
    neighbours: Sequence[Neighbour],
    source: FrameSource,
    *,
    height: int = 180,
) -> None:
    """Write the query and its neighbours, nearest first, as a PNG, whole or not at all.

    Raises:
        FramesUnreachable: from the source.
    """
    wanted: dict[str, tuple[EmbeddedClip, set[int]]] = {clip.clip_id: (clip, {frame})}
    for other in neighbours:
        wanted.setdefault(other.clip.clip_id, (other.clip, set()))[1].add(other.frame)
    images = {
        name: thumbnails(source, of, positions, height=height)
        for name, (of, positions) in wanted.items()
    }
    query = (images[clip.clip_id][frame], "query", clip, frame)
    found = [
        (images[other.clip.clip_id][other.frame], other.verdict, other.clip, other.frame)
        for other in neighbours
    ]
    make_directory(path.parent)
    write_whole(path, png_bytes(draw_strip([query, *found])))


def draw_strip(cells: Sequence[tuple[Image, str, EmbeddedClip, int]]) -> Image:
    """Pictures in a row; right ones have a whole frame and a tick, wrong ones a crossed corner.

    Args:
        cells: picture (all of one height), "query", "right", "wrong" or "unlabelled", and what it
            shows.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(size=13)
    height = cells[0][0].shape[0]
    widths = [max(image.shape[1], 120) + 2 * BORDER for image, *_ in cells]
    size = (sum(widths) + MARGIN * (len(cells) + 1), height + 2 * (BORDER + MARGIN) + 3 * LINE + 4)
    sheet = Pillow.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    x = MARGIN
    for (image, verdict, clip, frame), width in zip(cells, widths, strict=True):
        colour = {"right": RIGHT, "wrong": WRONG}.get(verdict, QUERY)
        box = (x, MARGIN, x + image.shape[1] + 2 * BORDER - 1, MARGIN + height + 2 * BORDER - 1)
        draw.rectangle(box, fill=colour)
        sheet.paste(Pillow.fromarray(image), (x + BORDER, MARGIN + BORDER))
        if verdict == "wrong":
            draw.line((box[2] - 26, box[1], box[2], box[1] + 26), fill=colour, width=4)
            draw.line((box[2], box[1], box[2] - 26, box[1] + 26), fill=colour, width=4)
        name = phase_name(clip, frame) or "no label"
        lines = [
            f"{verdict}: {name}",
            _shorten(clip.clip_id, width, font),
            f"{clip.moment(frame)}, frame {frame}" if clip.is_timed else clip.moment(frame),
        ]
        for row, text in enumerate(lines):
            y = box[3] + 4 + row * LINE
            draw.text((x, y), text, fill=colour if row == 0 else FAINT, font=font)
        x += width + MARGIN
    return np.asarray(sheet)


def _shorten(text: str, width: int, font: object) -> str:
    length = font.getlength  # type: ignore[attr-defined]
    if length(text) <= width:
        return text
    while len(text) > 1 and length("..." + text) > width:
        text = text[1:]
    return "..." + text
