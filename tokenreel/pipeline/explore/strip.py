"""`tokenreel similar`: a patch and the patches of other clips that are most similar to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenreel.cache.errors import UsageError, machine_error
from tokenreel.cache.files import write_whole
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.search.query import Click, patch_numbers, stored_grid
from tokenreel.cache.search.search import Found, SimilarPatch, search_store
from tokenreel.evaluate.report.pictures.frames import Image, png_bytes, resize
from tokenreel.pipeline.defaults import videos_of_store
from tokenreel.pipeline.explore.frames import ClipFrames, FramesUnseen, blank_frame
from tokenreel.pipeline.text import format_table, on_one_line

MOST_CLIPS = 8  # in the picture
HEIGHT, MARGIN, LINE = 224, 8, 17
PAPER, INK, QUERY, LIKE = (255, 255, 255), (40, 40, 40), (213, 94, 0), (0, 114, 178)


@dataclass(frozen=True)
class Similar:
    """What `tokenreel similar` found.

    Attributes:
        found: of the search.
        table: the best patches, for people.
        unseen_reason: why frames are missing from the picture, "" where none are.
    """

    found: Found
    table: str
    unseen_reason: str = ""


def find_similar(
    store: Store,
    clicks: Sequence[Click],
    *,
    out: Path | None = None,
    root: Path | None = None,
    block: int | None = None,
    view: int = 0,
    count: int = 10,
) -> Similar:
    """Search a store, and draw the first click beside the best patch of each other clip.

    Args:
        store: that is searched.
        clicks: patches, the first of them positive.
        out: PNG file, None for no picture.
        root: folder of the videos; as `extract show` finds it when None.
        block: as in similar_patches.
        view: as in similar_patches.
        count: as in similar_patches.

    Raises:
        UsageError, ClipNotFound, MachineError: as similar_patches; the file cannot be written.
    """
    found = search_store(store, clicks, block=block, view=view, count=count)
    _, columns = stored_grid(store)
    table = format_table(
        ["score", "clip", "frame", "seconds", "row", "column"],
        [
            [
                round(one.score, 4),
                one.clip_id,
                one.frame,
                round(float(store.times_seconds(one.clip_id)[one.frame]), 3),
                one.patch // columns,
                one.patch % columns,
            ]
            for one in found.patches
        ],
    )
    if out is None:
        return Similar(found, table)
    others = [one for one in found.of_clips if one.clip_id != clicks[0].clip_id][:MOST_CLIPS]
    frames = ClipFrames(store, videos_of_store(store, root))
    picture, reason = draw_similar(store, clicks[0], others, frames, view=view)
    try:
        write_whole(out, png_bytes(picture))
    except OSError as error:
        what = f"{out}: the picture cannot be written"
        raise machine_error(error, what) or UsageError(f"{what}: {error.strerror}") from error
    return Similar(found, table, reason)


def draw_similar(
    store: Store,
    click: Click,
    others: Sequence[SimilarPatch],
    frames: ClipFrames,
    *,
    view: int = 0,
) -> tuple[Image, str]:
    """A row of frames with their patch framed, and why frames are missing, "" where none are."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    grid, font = stored_grid(store), ImageFont.load_default(size=13)
    numbers = patch_numbers(click.patch, grid)
    cells = [(click.clip_id, click.frame, int(numbers[0]), int(numbers[-1]), "query", QUERY)]
    cells += [
        (one.clip_id, one.frame, one.patch, one.patch, f"{one.score:.3f}", LIKE) for one in others
    ]
    side = HEIGHT // max(grid) * max(grid) or HEIGHT
    size = ((side + MARGIN) * len(cells) + MARGIN, side + 2 * MARGIN + 3 * LINE)
    sheet = Pillow.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    reason = ""
    for place, (clip_id, frame, first, last, words, colour) in enumerate(cells):
        x = MARGIN + (side + MARGIN) * place
        try:
            image = frames.read(clip_id, [frame], view=view)[frame]
            image = resize(image, height=side)[:, :side]
        except FramesUnseen as error:
            image, reason = blank_frame(side, grid), reason or str(error)
        sheet.paste(Pillow.fromarray(image), (x, MARGIN))
        top, left = first // grid[1], first % grid[1]
        bottom, right = last // grid[1] + 1, last % grid[1] + 1
        box = (
            x + left * side // grid[1],
            MARGIN + top * side // grid[0],
            x + right * side // grid[1] - 1,
            MARGIN + bottom * side // grid[0] - 1,
        )
        draw.rectangle(box, outline=colour, width=3)
        seconds = float(store.times_seconds(clip_id)[frame])
        lines = [
            words,
            _shorten(on_one_line(clip_id), side, font),
            f"{seconds:.2f} s, frame {frame}",
        ]
        for row, text in enumerate(lines):
            y = MARGIN + side + 2 + row * LINE
            draw.text((x, y), text, fill=colour if row == 0 else INK, font=font)
    return np.asarray(sheet), reason


def _shorten(text: str, width: int, font: object) -> str:
    length = font.getlength  # type: ignore[attr-defined]
    if length(text) <= width:
        return text
    while len(text) > 1 and length("..." + text) > width:
        text = text[1:]
    return "..." + text
