"""`fuse attend`: pictures of where each entity looks, as in MV-Former, Figures 3 and 4.

Each clip gets a PNG grid (columns are moments; the frame, then each entity's attention over it), an
MP4 of every frame, and the numbers as npz.
"""

import hashlib
import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import ClipFailed, UsageError
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.cache.manifest import path_below
from tokenreel.cache.plugins import nearest
from tokenreel.cache.read.store_reader import Store, open_store
from tokenreel.evaluate.report.pictures.movie import write_movie
from tokenreel.extract.video.types import VideoError
from tokenreel.fuse.runs.provenance import read_provenance
from tokenreel.pipeline.defaults import require_store_of_run, videos_of_store

if TYPE_CHECKING:  # torch: imported once every word is known to be right
    from tokenreel.fuse.embed.attend import ClipAttention

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]

NUM_COLUMNS = 8  # moments in the grid, as in the figures
SIDE = 224  # pixels of a panel of the movie
LONGEST_NAME = 60  # characters of a file's name, of up to four bytes; file systems take 255 bytes
PANEL_INCHES, DOTS_PER_INCH = 1.3, 120
CHARACTERS = 12  # of the title above a panel
DIMMED = 0.7  # brightness of a frame where nobody looks
STRONGEST = 0.75  # share of the colours where an entity looks most
FEW = 99.5  # percentile of an entity's weights over the clip that is drawn brightest


@dataclass(frozen=True)
class AttentionFiles:
    """What was written for a clip.

    Attributes:
        clip_id: the clip.
        grid, movie, numbers: the PNG, MP4 and npz.
        unseen_reason: why the frames are not in the pictures, "" where they are.
    """

    clip_id: str
    grid: Path
    movie: Path
    numbers: Path
    unseen_reason: str


def attend_clips(
    run: Path,
    clips: Sequence[str],
    *,
    store: Path | None = None,
    root: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
) -> Iterator[AttentionFiles | ClipFailed]:
    """Draw the attention of a run over clips, one after another; a damaged one is reported instead.

    Args:
        run: folder of a run with pooling.kind=lstp.
        clips: ids of clips, or parts of ids that are unique in the store.
        store: the one that the run was trained on, where it was or in stores/, when None.
        root: folder of the videos; where they were when the store was made, or data/<dataset>, when
            None.  Where a video is out of reach the pictures have the attention alone.
        out: folder of the files; RUN/attention when None.
        device: "auto", "cpu" or "cuda".

    Raises:
        UsageError: no such clip, a run without attention, or a store that has to be named.
    """
    provenance = read_provenance(run)
    opened = open_store(store or require_store_of_run(run, provenance))
    videos = videos_of_store(opened, root)
    chosen = find_clips(opened, clips)
    from tokenreel.fuse.distributed.join import find_device
    from tokenreel.fuse.embed.attend import ClipAttention, attend

    where = find_device(device)
    folder = out or run / "attention"
    make_directory(folder)
    for found in attend(run, opened, chosen, device=where):
        if isinstance(found, ClipAttention):
            yield _write(found, opened, videos, folder)
        else:
            yield found


def find_clips(store: Store, words: Sequence[str]) -> list[str]:
    """The clips of words that are ids, or parts of an id that only one clip has.

    Raises:
        UsageError: a word that no clip or more than one has, or no word.
    """
    if not words:
        raise UsageError("no clip is named: --clips takes comma-separated ids")
    names, clips = list(store.records), []
    for word in words:
        found = [word] if word in names else [name for name in names if word in name]
        if len(found) != 1:
            some = found or names
            listed = f"{', '.join(some[:5])}{', ...' if len(some) > 5 else ''}"
            what = f"{len(found)} clips match" if found else "no such clip"
            near = "" if found else nearest(word, names, count=3)
            raise UsageError(f"{word!r}: {what} in {store.path}{near or f', name one of {listed}'}")
        clips += found
    return list(dict.fromkeys(clips))


def file_name(clip_id: str) -> str:
    """Stem of the files of a clip: its id where possible, else a unique name.

    >>> file_name("dance.mp4")
    'dance.mp4'
    >>> file_name("val/dance.mp4"), file_name("val_dance.mp4")
    ('val_dance.mp4-5a7a44e0', 'val_dance.mp4')
    """
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in clip_id)[:LONGEST_NAME]
    return name if name == clip_id else f"{name}-{hashlib.sha256(clip_id.encode()).hexdigest()[:8]}"


def _write(found: "ClipAttention", store: Store, root: Path, folder: Path) -> AttentionFiles:
    from tokenreel.extract.preview.show import frames_as_seen

    name = file_name(found.record.clip_id)
    files = {kind: folder / f"{name}.{kind}" for kind in ("png", "mp4", "npz")}
    numbers = io.BytesIO()
    np.savez_compressed(
        numbers,
        weights=found.weights,
        times_seconds=found.times_seconds,
        labels=found.labels,
        clip_id=found.record.clip_id,
        phases=np.array(found.record.phases),
    )
    write_whole(files["npz"], numbers.getvalue())
    columns = np.unique(
        np.linspace(0, len(found.weights) - 1, NUM_COLUMNS).round().astype(np.int64)
    )
    video = path_below(root, found.record.video)
    reason = ""
    try:
        seen: Sequence[Image | None] = list(frames_as_seen(store, found.record, columns, video))
    except VideoError as error:
        seen, reason = [None] * len(columns), f"{video}: {error}"
        log.warning("%s: attention alone, no frames: %s", found.record.clip_id, reason)
    write_whole(files["png"], _draw_grid(found, columns, seen))
    every = np.arange(len(found.weights))
    frames: Iterator[Image | None] = (
        iter([None] * len(every)) if reason else frames_as_seen(store, found.record, every, video)
    )
    step = float(np.median(np.diff(found.times_seconds))) if len(every) > 1 else 0.0
    rate = Fraction(min(60.0, max(1.0, 1 / step if step > 0 else 25.0))).limit_denominator(1001)
    write_movie(files["mp4"], _panels(found, frames), rate=rate, times_seconds=found.times_seconds)
    return AttentionFiles(found.record.clip_id, files["png"], files["mp4"], files["npz"], reason)


def _draw_grid(
    found: "ClipAttention", columns: NDArray[Any], seen: Sequence[Image | None]
) -> bytes:
    """The PNG: the frames, then a row an entity."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entities = found.weights.shape[1]
    figure = Figure(
        figsize=(len(columns) * PANEL_INCHES + 0.6, (1 + entities) * PANEL_INCHES + 0.6),
        layout="constrained",
    )
    record = found.record
    title = f"{record.clip_id}  ({record.split}, {record.action or '-'}): LSTP attention"
    figure.suptitle(fill(title, CHARACTERS * (1 + len(columns))), fontsize=9)
    panels = figure.subplots(1 + entities, len(columns), squeeze=False)
    maps, brightest = _scaled(found.weights), _brightest(found.weights).flatten()
    for place, (frame, image) in enumerate(zip(columns.tolist(), seen, strict=True)):
        label = int(found.labels[frame])
        phase = record.phases[label] if 0 <= label < len(record.phases) else ""
        panels[0][place].set_title(f"{found.times_seconds[frame]:.2f} s\n{phase}", fontsize=7)
        panels[0][place].imshow(np.full((2, 2, 3), 255, np.uint8) if image is None else image)
        for entity in range(entities):
            panels[1 + entity][place].imshow(_overlay(maps[frame, entity], image, SIDE))
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
    panels[0][0].set_ylabel("frame", fontsize=8)
    for entity in range(entities):
        title = f"entity {entity}\n0 to {brightest[entity]:.2g}"  # the weights of dark and bright
        panels[1 + entity][0].set_ylabel(title, fontsize=8)
    FigureCanvasAgg(figure)
    data = io.BytesIO()
    figure.savefig(data, dpi=DOTS_PER_INCH, format="png")
    return data.getvalue()


def _panels(found: "ClipAttention", frames: Iterator[Image | None]) -> Iterator[Image]:
    """The pictures of the movie: the frame where there is one, then each entity's attention."""
    for maps, image in zip(_scaled(found.weights), frames, strict=True):
        parts = [_overlay(strength, image, SIDE) for strength in maps]
        if image is not None:
            parts.insert(0, _enlarge(image, SIDE))
        yield np.concatenate(parts, axis=1)


def _scaled(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (T, E, rows, columns) from 0 to 1: of each entity alike over the whole clip."""
    scaled: NDArray[np.float32] = np.clip(weights / np.maximum(_brightest(weights), 1e-12), 0, 1)
    return scaled


def _brightest(weights: NDArray[np.float32]) -> NDArray[Any]:
    """The weight of each entity from which on a place is drawn brightest, (1, E, 1, 1)."""
    return np.asarray(np.percentile(weights, FEW, axis=(0, 2, 3), keepdims=True))


def _overlay(strength: NDArray[np.float32], image: Image | None, side: int) -> Image:
    """A map (rows, columns) in colours over a dimmed frame, uint8 (side, side, 3)."""
    from matplotlib import colormaps

    colours = _enlarge(colormaps["inferno"](strength)[..., :3] * 255, side)
    if image is not None:
        grey = _enlarge(image.mean(axis=-1, keepdims=True), side)
        share = STRONGEST * _enlarge(strength, side)[..., None]
        colours = share * colours + (1 - share) * DIMMED * grey
    drawn: Image = np.clip(colours.round(), 0, 255).astype(np.uint8)
    return drawn


def _enlarge(image: NDArray[Any], side: int) -> NDArray[Any]:
    """The nearest pixels, (side, side, ...)."""
    rows, columns = (np.arange(side) * size // side for size in image.shape[:2])
    large: NDArray[Any] = image[rows[:, None], columns]
    return large
