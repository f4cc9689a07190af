"""A matrix of distances as a picture, the warping path and the nearest neighbours on it."""

import io
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.methods.alignment import AlignedClips
from tokenreel.evaluate.report.page.html import Html, join, number, svg, tag
from tokenreel.evaluate.report.pictures.frames import to_uri

__all__ = ["PLOT", "heat_png", "matrix_figure", "plot_height"]

PLOT = 220.0  # units across; the reference runs along it
AXIS, BAND = 20.0, 9.0  # space for times, and the band of phases
MOST_CELLS = 160
# Cividis: even in lightness for all kinds of colour vision; 9 of its colours, from far to near.
CIVIDIS = np.array(
    [
        (0, 34, 78),
        (18, 53, 112),
        (59, 73, 108),
        (87, 93, 109),
        (112, 113, 115),
        (138, 134, 120),
        (165, 156, 116),
        (195, 179, 105),
        (253, 234, 69),
    ],
    np.float64,
)


def heat_png(distances: NDArray[np.float64]) -> bytes:
    """Distances as a small PNG: near is bright, the 98th percentile and further is dark."""
    from PIL import Image as Pillow

    top = float(np.percentile(distances, 98)) or 1.0
    near = 1 - np.clip(distances / top, 0, 1)
    values = Pillow.fromarray((255 * near).round().astype(np.uint8))
    rows, columns = distances.shape
    size = (min(columns, MOST_CELLS), min(rows, MOST_CELLS))
    if size != (columns, rows):
        values = values.resize(size, Pillow.Resampling.BOX)
    shares = np.linspace(0, len(CIVIDIS) - 1, 256)
    table = np.stack([np.interp(shares, range(len(CIVIDIS)), CIVIDIS[:, i]) for i in range(3)], 1)
    values.putpalette(table.round().astype(np.uint8).tobytes())
    data = io.BytesIO()
    values.save(data, format="PNG", optimize=True)
    return data.getvalue()


def plot_height(pair: AlignedClips) -> float:
    """Units of the query's axis: in proportion to its length, within bounds."""
    share = pair.query.num_frames / pair.reference.num_frames
    return float(round(PLOT * min(1.5, max(0.6, share))))


def matrix_figure(pair: AlignedClips, *, title: Html, number_of_run: int) -> Html:
    """One matrix with its caption; the script moves the circle over it."""
    height = plot_height(pair)
    rows, columns = pair.distances.shape
    uri = to_uri(heat_png(pair.distances), "png")
    left, top = AXIS + BAND, AXIS + BAND
    path = pair.path.steps + 0.5
    points = " ".join(f"{x / columns * PLOT:.1f},{y / rows * height:.1f}" for y, x in path.tolist())
    nearest = pair.distances.argmin(axis=1)
    dots = "".join(
        f"M{(x + 0.5) / columns * PLOT:.1f} {(y + 0.5) / rows * height:.1f}h.01"
        for y, x in enumerate(nearest.tolist())
    )
    plot = join(
        Html(
            f'<image href="{uri}" width="{PLOT:g}" height="{height:g}" class="heat" '
            'preserveAspectRatio="none"/>'
        ),
        Html(f'<path class="nearest" d="{dots}"/>'),
        Html(
            f'<polyline class="casing" points="{points}"/><polyline class="path" '
            f'points="{points}"/>'
        ),
        Html('<circle class="cursor" r="5" cx="0" cy="0" hidden="hidden"/>'),
    )
    group = tag("g", plot, transform=f"translate({left:g} {top:g})")
    bands = join(
        _band(pair.reference, PLOT, (left, AXIS), across=True),
        _band(pair.query, height, (AXIS, top), across=False),
    )
    words = (
        f"Distances of {rows} query and {columns} reference frames, near is bright. "
        f"Warping path: mean cost {number(pair.path.mean)}."
    )
    drawing = svg(
        left + PLOT + 2,
        top + height + 2,
        _times(pair, height),
        bands,
        group,
        label=words,
        data_run=number_of_run,
    )
    facts = (
        f"path cost {number(pair.path.mean)} a step, "
        f"same phase on {_percent(pair.phase_agreement)} of it, tau {number(pair.tau)}"
    )
    return tag("figure", tag("figcaption", title, tag("small", facts)), drawing, class_="matrix")


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.0f} %"


def _times(pair: AlignedClips, height: float) -> Html:
    left = top = AXIS + BAND
    first, last = (f"{pair.reference.times_seconds[i]:.1f} s" for i in (0, -1))
    start, stop = (f"{pair.query.times_seconds[i]:.1f} s" for i in (0, -1))
    along = f"rotate(-90 {AXIS - 6:g} {{0:g}})"
    return join(
        tag("text", f"reference {first}", x=left, y=AXIS - 6, class_="axis"),
        tag("text", last, x=left + PLOT, y=AXIS - 6, class_="axis end"),
        tag(
            "text",
            f"query {start}",
            x=AXIS - 6,
            y=top,
            class_="axis end",
            transform=along.format(top),
        ),
        tag(
            "text",
            stop,
            x=AXIS - 6,
            y=top + height,
            class_="axis",
            transform=along.format(top + height),
        ),
    )


def _band(clip: EmbeddedClip, length: float, corner: tuple[float, float], *, across: bool) -> Html:
    """The phases of a clip along an axis: a colour each, their names to be hovered over."""
    edges = [0, *(np.flatnonzero(np.diff(clip.labels)) + 1).tolist(), clip.num_frames]
    parts = []
    for start, stop in pairwise(edges):
        label = int(clip.labels[start])
        if label < 0:
            continue
        name = clip.phases[label] if label < len(clip.phases) else str(label)
        offset, size = start / clip.num_frames * length, (stop - start) / clip.num_frames * length
        x, y = (corner[0] + offset, corner[1]) if across else (corner[0], corner[1] + offset)
        width, height = (size, BAND - 2) if across else (BAND - 2, size)
        parts.append(
            tag(
                "rect",
                tag("title", name),
                class_=f"p{label % 8}",
                x=f"{x:.1f}",
                y=f"{y:.1f}",
                width=f"{width:.1f}",
                height=f"{height:.1f}",
            )
        )
    return join(*parts)
