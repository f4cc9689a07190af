"""Picture of a clip to check its tokens by eye: `extract show`.

From the top: frames as the backbone saw them; the tokens of each block, their first three
principal components as red, green and blue; the cosine similarity of the CLS tokens of any two
frames; and that of consecutive frames.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tokenreel.cache.errors import UsageError, machine_error
from tokenreel.cache.files import write_whole
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.manifest import path_below
from tokenreel.cache.read.store_reader import Store
from tokenreel.extract.images.augment import view_transform
from tokenreel.extract.images.transforms import apply_transform
from tokenreel.extract.preview.colours import ColourAxes
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.types import VideoError

Array = NDArray[Any]

PANEL_INCHES = 1.4
DOTS_PER_INCH = 110


@dataclass(frozen=True, eq=False)
class ClipPicture:
    """Contents of the picture of a clip.

    Attributes:
        record: the clip.
        frames: indices into the clip of the frames shown, (K,).
        seconds: time of every frame of the clip, (T,).
        seen: images of the backbone, uint8 (K, S, S, 3), or None if the video is unavailable.
        unseen_reason: why `seen` is None, "" otherwise.
        blocks: block -> float32 (K, rows, columns, 3) in [0, 1].
        similarity: float32 (T, T), cosine of the frames' CLS tokens, or of their mean tokens if the
            backbone has no CLS.
    """

    record: ClipRecord
    frames: Array
    seconds: Array
    seen: Array | None
    unseen_reason: str
    blocks: Mapping[int, Array]
    similarity: Array


def look_at_clip(
    store: Store, clip_id: str, *, root: Path, num_frames: int = 8, view: int = 0
) -> ClipPicture:
    """Read the contents of the picture of a clip.

    Args:
        store: of the clip.
        clip_id: the clip.
        root: base folder of the store's video paths.
        num_frames: number of frames shown, spread evenly over the clip.
        view: stored augmentation to show; 0 is the clean view.

    Raises:
        UsageError: no such clip or view; num_frames < 1; a store without tokens.
    """
    record = store.record(clip_id)
    if not 0 <= view < record.num_views:
        raise UsageError(f"view {view}: {clip_id} has views 0 to {record.num_views - 1}")
    if not store.identity.blocks and store.identity.cls == "none":
        store.require_tokens()
    if num_frames < 1:
        raise UsageError(f"{num_frames} frames: show at least one")
    count = min(num_frames, record.num_frames)
    frames = np.unique(np.linspace(0, record.num_frames - 1, count).round().astype(np.int64))
    path = path_below(root, record.video)
    try:
        seen = np.stack(list(frames_as_seen(store, record, frames, path, view=view)))
        reason = ""
    except VideoError as error:
        seen, reason = None, str(error)
    tokens = store.read(clip_id, frames, view=view)
    identity = store.identity
    grid = store.codec.reduced_shape(identity.num_tokens, identity.dim, identity.grid)[2]
    blocks = {block: tokens_to_rgb(tokens.decode(block), grid) for block in tokens.codes}
    return ClipPicture(
        record,
        frames,
        store.times_seconds(clip_id),
        seen,
        reason,
        blocks,
        _similarity(store, record, view),
    )


def tokens_to_rgb(tokens: Array, grid: tuple[int, int]) -> Array:
    """The first three principal components of the tokens as colours.

    Args:
        tokens: float32 (K, N, D).
        grid: rows and columns of N.

    Returns:
        float32 (K, rows, columns, 3) in [0, 1]: projections on the first three principal
        directions of all tokens given, from their 1st to their 99th percentile.
    """
    colours = ColourAxes.fit(tokens).colours(tokens)
    return colours.reshape(len(tokens), *grid, 3)


def draw_clip(picture: ClipPicture, out: Path) -> Path:
    """Write the picture as a PNG file, atomically; returns its path.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    rows, columns = 1 + len(picture.blocks), len(picture.frames)
    width = max(columns * PANEL_INCHES + 1.2, 7.0)
    figure = Figure(figsize=(width, rows * PANEL_INCHES + 4.0), layout="constrained")
    areas: Any = figure.subfigures(2, 1, height_ratios=[rows * PANEL_INCHES, 3.2])
    upper, lower = areas
    record = picture.record
    figure.suptitle(
        f"{record.clip_id}  ({record.num_frames} frames, {record.split}, {record.action or '-'})",
        fontsize=10,
    )
    panels = upper.subplots(rows, columns, squeeze=False)
    _draw_frames(panels[0], picture)
    for row, (block, images) in zip(panels[1:], picture.blocks.items(), strict=True):
        for panel, image in zip(row, images, strict=True):
            panel.imshow(image, interpolation="nearest")
        row[0].set_ylabel(f"block {block}", fontsize=8)
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
    _draw_similarity(lower, picture)
    return save_figure(figure, out)


def save_figure(figure: Any, out: Path) -> Path:
    """Write a figure of matplotlib as a PNG file, atomically; returns its path.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    data = io.BytesIO()
    figure.savefig(data, dpi=DOTS_PER_INCH, format="png")
    try:
        write_whole(out, data.getvalue())
    except OSError as error:
        what = f"{out}: the picture cannot be written"
        raise machine_error(error, what) or UsageError(f"{what}: {error.strerror}") from error
    return out


def frames_as_seen(
    store: Store, record: ClipRecord, frames: Array, path: Path, *, view: int = 0
) -> Iterator[Array]:
    """Frames of a clip through the identity's preprocessing, uint8 (S, S, 3) each.

    Args:
        store: of the clip.
        record: the clip.
        frames: indices into the clip, ascending.
        path: the video.
        view: stored augmentation.

    Raises:
        VideoError: the video does not exist, or is not the one that was extracted.
    """
    identity = store.identity
    wanted = store.frame_index(record.clip_id)[frames].tolist()
    stored_ticks = store.pts(record.clip_id)[frames].tolist()
    prepare: Callable[[Array], Tensor] = partial(apply_transform, parameters=identity.transform)
    if view:
        prepare = view_transform(identity.views[view], record.clip_id, identity.transform)
    # A row may start between frames where a window gives several, or a scene is cut.
    has_times = identity.rows_per_window == 1 and identity.unit != "scene"
    start = max(float(store.times_seconds(record.clip_id)[frames[0]]) - 1e-3, 0.0)
    count = 0
    frames_of_video = decode(
        path,
        decoder=record.source["decoder"],
        from_seconds=start,
        pixel_aspect=identity.pixel_aspect if record.rules > 1 else "ignore",
        picture_fps=record.source["container"].get("picture_fps"),
        least_frames=1,
    )
    for frame in frames_of_video:
        if frame.rules > record.rules:
            raise VideoError(
                f"{path} has other times or another geometry by rules {frame.rules} than by rules "
                f"{record.rules}, by which {record.clip_id} was extracted: extract it with another "
                "--out"
            )
        while frame.index == wanted[count]:
            if has_times and frame.ticks != stored_ticks[count]:
                raise VideoError(
                    f"{path} is not the video of the store: frame {frame.index} is at tick "
                    f"{frame.ticks}, the store has {stored_ticks[count]}"
                )
            yield prepare(frame.pixels).permute(1, 2, 0).numpy()
            count += 1
            if count == len(wanted):
                return
    raise VideoError(f"{path} has no frame {wanted[count]}, but the store holds its tokens")


def _similarity(store: Store, record: ClipRecord, view: int) -> Array:
    """Cosine similarity of any two frames, float32 (T, T)."""
    if store.identity.cls == "none":
        block = store.identity.blocks[-1]
        vectors = store.read(record.clip_id, blocks=[block], view=view).decode(block).mean(axis=1)
    else:
        vectors = store.read_cls(record.clip_id, block="normed", view=view)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return (unit @ unit.T).astype(np.float32)


def _draw_frames(row: Array, picture: ClipPicture) -> None:
    for place, (panel, frame) in enumerate(zip(row, picture.frames, strict=True)):
        panel.set_title(f"{picture.seconds[frame]:.2f} s", fontsize=7)
        if picture.seen is not None:
            panel.imshow(picture.seen[place])
    row[0].set_ylabel("input", fontsize=8)
    if picture.seen is None:
        text = f"no frames: {picture.unseen_reason}"
        label = row[0].text(0.05, 0.5, text, fontsize=7, transform=row[0].transAxes, zorder=9)
        label.set_in_layout(False)  # it may overlap its neighbours


def _draw_similarity(area: Any, picture: ClipPicture) -> None:
    matrix, curve = area.subplots(1, 2, width_ratios=[1, 1.8])
    last = float(picture.seconds[-1])
    first = float(picture.seconds[0])
    image = matrix.imshow(
        picture.similarity, cmap="viridis", extent=(first, last, last, first), aspect="auto"
    )
    matrix.set(xlabel="time (s)", ylabel="time (s)")
    matrix.set_title("cosine of the CLS tokens", fontsize=8)
    area.colorbar(image, ax=matrix)
    curve.plot(picture.seconds[1:], np.diagonal(picture.similarity, offset=1), linewidth=1)
    curve.set(xlabel="time (s)", ylabel="cosine")
    curve.set_title("each frame and the one before", fontsize=8)
    curve.grid(alpha=0.3)
