"""`fuse explain`: why a run scores clips as it does, as pictures and numbers.

Each clip gets a PNG (the centre frames of its scenes, under them where each stream looks, and the
attention over time) and the numbers as npz.  The report of a run shows them.
"""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import ClipFailed, UsageError
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.cache.manifest import path_below
from tokenreel.cache.read.pictures import ARCHITECTURE, read_pictures
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.extract.video.types import VideoError
from tokenreel.fuse.runs.provenance import read_provenance, stores_of
from tokenreel.pipeline.defaults import STORES, require_store_of_run, store_of_run, videos_of_store
from tokenreel.pipeline.phases.attention import file_name, find_clips
from tokenreel.pipeline.phases.training import Stores, joined

if TYPE_CHECKING:  # torch: imported once every word is known to be right
    from tokenreel.fuse.embed.explain import ClipExplanation

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]

FOLDER = "explanations"
MOST_SCENES = 8  # with their frames, evenly chosen
SIDE = 224  # pixels of a picture
PANEL_INCHES, DOTS_PER_INCH = 1.3, 120
CHARACTERS = 16  # of the title above a panel
STRONGEST = 0.75  # share of the colours where a map is highest


@dataclass(frozen=True)
class ExplanationFiles:
    """What was written for a clip.

    Attributes:
        clip_id: the clip.
        decided: its decided tags with their scores, in words.
        picture, numbers: the PNG and npz.
        without_maps: streams that have no map: their units are one vector each.
        unseen_reason: why the frames are not in the picture, "" where they are.
    """

    clip_id: str
    decided: str
    picture: Path
    numbers: Path
    without_maps: tuple[str, ...]
    unseen_reason: str


def explain_clips(
    run: Path,
    clips: Sequence[str],
    *,
    store: Stores | None = None,
    root: Path | None = None,
    out: Path | None = None,
    threshold: float = 0.3,
    device: str = "auto",
) -> Iterator[ExplanationFiles | ClipFailed]:
    """Explain the scores of clips, one after another; a damaged clip is reported instead.

    Args:
        run: folder of a run that scores the tags of clips.
        clips: ids of clips, or parts of ids that are unique in the store.
        store: the store, or several by name; those that the run was trained on, where they were or
            in stores/, when None.
        root: folder of the videos; where they were when the store was made, or data/<dataset>, when
            None.  Where a video is out of reach the pictures have the maps alone.
        out: folder of the files; RUN/explanations when None.
        threshold: a score above it is decided.
        device: "auto", "cpu" or "cuda".

    Raises:
        UsageError: no such clip, a run that explains nothing, or a store that has to be named.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"--threshold {threshold:g}: a score is from 0 to 1")
    stores = joined(store or stores_of_run(run))
    chosen = find_clips(stores.first, clips)
    from tokenreel.fuse.distributed.join import find_device
    from tokenreel.fuse.embed.explain import ClipExplanation, explain

    folder = out or run / FOLDER
    where = find_device(device)
    for found in explain(run, stores, chosen, device=where, threshold=threshold):
        if isinstance(found, ClipExplanation):
            make_directory(folder)
            yield _write(found, stores, root, folder)
        else:
            yield found


def stores_of_run(run: Path) -> Stores:
    """The stores that a run was trained on: in stores/, or where they were.

    Raises:
        UsageError: one is not found.
    """
    provenance = read_provenance(run)
    several = stores_of(provenance)
    if not several:
        return require_store_of_run(run, provenance)
    found = {name: store_of_run(run, held) for name, held in several.items()}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        words = " ".join(f"--store {name}=PATH" for name in several)
        raise UsageError(
            f"{run} was trained on {several[missing[0]].get('store_name')}: its store is not in "
            f"./{STORES} (you are in {Path.cwd()}): add {words}"
        )
    return {name: path for name, path in found.items() if path is not None}


def _write(
    found: "ClipExplanation", stores: StoreSet, root: Path | None, folder: Path
) -> ExplanationFiles:
    record, explained = found.record, found.explained
    name = file_name(record.clip_id)
    numbers: dict[str, Any] = {
        "clip_id": record.clip_id,
        "class_names": np.array(explained.class_names),
        "scores": explained.scores,
        "decided": np.array(explained.decided, np.int64),
        "targets": np.array([tag in record.tags for tag in explained.class_names], np.int64),
        "units": explained.units,
        "seconds": found.seconds,
        **{f"map_{stream}": values for stream, values in explained.maps.items()},
        **{f"attention_{stream}": values for stream, values in explained.attention.items()},
    }
    data = io.BytesIO()
    np.savez_compressed(data, **numbers)
    files = {kind: folder / f"{name}.{kind}" for kind in ("png", "npz")}
    write_whole(files["npz"], data.getvalue())
    count = len(explained.units)
    shown = np.unique(np.linspace(0, count - 1, min(count, MOST_SCENES)).round().astype(np.int64))
    pictures, reason = _pictures(found, stores, root, shown)
    write_whole(files["png"], _draw(found, shown, pictures))
    return ExplanationFiles(
        record.clip_id,
        ", ".join(tags_in_words(explained.class_names, explained.scores, explained.decided)),
        files["png"],
        files["npz"],
        tuple(stream for stream in explained.stores if stream not in explained.maps),
        reason,
    )


def tags_in_words(
    names: Sequence[str], scores: NDArray[np.float32], decided: Sequence[int]
) -> list[str]:
    """Decided tags with their scores, the highest first.

    >>> tags_in_words(["war", "drama"], np.array([0.4, 0.9]), [0, 1])
    ['drama 0.90', 'war 0.40']
    """
    order = sorted(decided, key=lambda place: -float(scores[place]))
    return [f"{names[place]} {scores[place]:.2f}" for place in order]


def _pictures(
    found: "ClipExplanation", stores: StoreSet, root: Path | None, shown: NDArray[np.int64]
) -> tuple[list[Image | None], str]:
    """A picture of each shown unit as the model saw it, and why there are none.

    They are of the first store that has a map and one picture a unit, else of one with one.
    """
    by_map = [found.explained.stores[stream] for stream in found.explained.maps]
    names = [*by_map, *stores]
    names.sort(key=lambda name: stores[name].identity.frames_per_window > 1)
    store = stores[names[0]]
    units = found.explained.units[shown]
    if store.identity.architecture.startswith(ARCHITECTURE):
        several = read_pictures(store, found.record.clip_id, units.tolist())
        return [_centre(pictures[len(pictures) // 2]) for pictures in several], ""
    from tokenreel.extract.preview.show import frames_as_seen

    video = path_below(videos_of_store(store, root), found.record.video)
    try:
        return list(frames_as_seen(store, found.record, units, video)), ""
    except VideoError as error:
        reason = f"{video}: {error}"
        log.warning("%s: maps alone, no frames: %s", found.record.clip_id, reason)
        return [None] * len(units), reason


def _centre(picture: Image) -> Image:
    """The centre square, which a CNN sees in an evaluation."""
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def _draw(
    found: "ClipExplanation", shown: NDArray[np.int64], pictures: Sequence[Image | None]
) -> bytes:
    """The PNG: frames, a row of maps a stream, and the attention over time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    explained, record = found.explained, found.record
    rows = 1 + len(explained.maps)
    figure = Figure(
        figsize=(max(4, len(shown)) * PANEL_INCHES + 0.6, (rows + 1.2) * PANEL_INCHES + 0.6),
        layout="constrained",
    )
    decided = tags_in_words(explained.class_names, explained.scores, explained.decided)
    title = (
        f"{record.clip_id} ({record.split}): {', '.join(decided)}; "
        f"has {', '.join(record.tags) or 'no tag'}"
    )
    figure.suptitle(fill(title, CHARACTERS * max(4, len(shown))), fontsize=9)
    grid = figure.add_gridspec(rows + 1, len(shown), height_ratios=[*[1.0] * rows, 1.2])
    strongest = {name: max(float(values.max()), 1e-12) for name, values in explained.maps.items()}
    for column, (place, picture) in enumerate(zip(shown.tolist(), pictures, strict=True)):
        start = found.seconds[place][0]
        layers: list[tuple[str, Image]] = [
            ("frame", np.full((2, 2, 3), 255, np.uint8) if picture is None else picture)
        ]
        for name, values in explained.maps.items():
            layers.append((name, _overlay(values[place] / strongest[name], picture)))
        for row, (name, image) in enumerate(layers):
            panel = figure.add_subplot(grid[row, column])
            panel.imshow(image)
            panel.set(xticks=[], yticks=[])
            if not column:
                panel.set_ylabel(name, fontsize=8)
            if not row:
                panel.set_title(f"{start:.1f} s", fontsize=7)
    _draw_time_line(figure.add_subplot(grid[rows, :]), found.seconds, explained.attention)
    FigureCanvasAgg(figure)
    data = io.BytesIO()
    figure.savefig(data, dpi=DOTS_PER_INCH, format="png")
    return data.getvalue()


def _draw_time_line(
    panel: Any, seconds: NDArray[np.float64], attention: Mapping[str, NDArray[np.float32]]
) -> None:
    """The attention of each stream over time; a line where a scene begins."""
    for name, values in attention.items():
        starts, stops = seconds[:, 0], seconds[:, 1]
        times = np.stack([starts, stops, stops], axis=1).ravel()
        heights = np.stack([values, values, np.full_like(values, np.nan)], axis=1).ravel()
        panel.plot(times, heights, label=name, linewidth=2)
    for start in seconds[:, 0]:
        panel.axvline(start, color="0.85", linewidth=0.6, zorder=0)
    panel.set_xlabel("seconds", fontsize=7)
    panel.set_ylabel("attention of CLS" if attention else "no attention", fontsize=7)
    panel.tick_params(labelsize=6)
    panel.set_xlim(float(seconds[0, 0]), float(seconds[-1, 1]))
    panel.set_ylim(bottom=0)
    if attention:
        panel.legend(fontsize=6, loc="upper right")


def _overlay(strength: NDArray[np.float32], picture: Image | None) -> Image:
    """A map from 0 to 1 in colours, blue to red, over a grey picture, uint8 (SIDE, SIDE, 3)."""
    from matplotlib import colormaps
    from PIL import Image as Pillow

    smooth = Pillow.fromarray(strength.astype(np.float32), mode="F")
    large = np.asarray(smooth.resize((SIDE, SIDE), Pillow.Resampling.BILINEAR)).clip(0, 1)
    colours = colormaps["jet"](large)[..., :3] * 255
    if picture is not None:
        resized = Pillow.fromarray(picture).resize((SIDE, SIDE)).convert("L")
        grey = np.asarray(resized, np.float64)[..., None]
        share = STRONGEST * large[..., None]
        colours = share * colours + (1 - share) * grey
    drawn: Image = np.clip(colours.round(), 0, 255).astype(np.uint8)
    return drawn
