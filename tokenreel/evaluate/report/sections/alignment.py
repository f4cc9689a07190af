"""Alignments on the page: one pair of clips of an action, aligned by each shown run."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.methods.alignment import AlignedClips, align_pair, phase_name
from tokenreel.evaluate.report.data.gather import Group, ReportConfig, RunPage, evenly
from tokenreel.evaluate.report.page.html import (
    Html,
    join,
    number,
    phase_class,
    script_data,
    scroll,
    svg,
    swatch,
    tag,
)
from tokenreel.evaluate.report.pictures.frames import Pictures, to_uri
from tokenreel.evaluate.report.sections.explore import explore_line

SHEET_COLUMNS = 8
MARKS = {True: "\u2713", False: "\u2717", None: "?"}  # a tick, a cross
PLOT = 220.0  # units across; the reference runs along it
AXIS, BAND = 20.0, 9.0  # space for times, and the band of phases
MOST_CELLS = 160
# Cividis: even in lightness for all kinds of colour vision; 9 of its colours, from far to near.
CIVIDIS = np.frombuffer(
    bytes.fromhex("00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 fdea45"), np.uint8
).reshape(9, 3)


@dataclass(frozen=True, eq=False)
class AlignedGroup:
    """A pair of clips of a group and its alignment by each run that has both."""

    group: Group
    pairs: tuple[tuple[RunPage, AlignedClips], ...]
    config: ReportConfig

    def want(self, pictures: Pictures) -> None:
        """Register the frames of the strip and of the slider."""
        for _, pair in self.pairs:
            shown = self._strip_frames(pair)
            pictures.want(pair.query, shown)
            pictures.want(pair.reference, (int(pair.matches[frame]) for frame in shown))
            for clip in (pair.query, pair.reference):
                pictures.want(clip, evenly(clip.num_frames, self.config.slider_frames))

    def render(self, pictures: Pictures) -> Html:
        """The article of the group."""
        first = self.pairs[0][1]
        names = tag(
            "p",
            "Query ",
            tag("b", first.query.clip_id),
            f" ({_length(first.query)}), reference ",
            tag("b", first.reference.clip_id),
            f" ({_length(first.reference)}).",
        )
        matrices = [
            matrix_figure(pair, title=run_title(run), number_of_run=place)
            for place, (run, pair) in enumerate(self.pairs)
        ]
        return tag(
            "article",
            tag("h3", self.group.title),
            names,
            explore_line(self.pairs[0][0], first.query.clip_id),
            _legend(first),
            self._player(pictures),
            tag("div", *matrices, class_="matrices"),
            self._strip(pictures),
            class_="pair",
        )

    def _strip_frames(self, pair: AlignedClips) -> list[int]:
        return evenly(pair.query.num_frames, self.config.strip_frames)

    def _strip(self, pictures: Pictures) -> Html:
        """A row of query frames, and a row of matched frames for each run."""
        first = self.pairs[0][1]
        frames = self._strip_frames(first)
        top = [tag("td", _cell(pictures, first.query, frame, None)) for frame in frames]
        rows = [tag("tr", tag("th", "query", scope="row"), *top)]
        for run, pair in self.pairs:
            cells = []
            for frame in frames:
                match = int(pair.matches[frame])
                same = _same_phase(pair, frame, match)
                cells.append(tag("td", _cell(pictures, pair.reference, match, same)))
            rows.append(tag("tr", tag("th", run_title(run), scope="row"), *cells))
        caption = tag(
            "caption",
            "Query frames, and below each the frame of the reference that the "
            "warping path of each run matches to it.",
        )
        table = tag("table", caption, tag("tbody", *rows), class_="strip")
        return scroll(table, f"Alignment strip, {self.group.title}")

    def _player(self, pictures: Pictures) -> Html:
        """Two screens, a slider along the path and a choice of the run whose path it is."""
        first = self.pairs[0][1]
        sides = {}
        screens = []
        for side, clip in (("query", first.query), ("reference", first.reference)):
            shown = evenly(clip.num_frames, self.config.slider_frames)
            sheet = pictures.sheet(clip, shown, columns=SHEET_COLUMNS)
            sides[side] = {
                "frames": shown,
                "seconds": [round(float(t), 3) for t in clip.times_seconds]
                if clip.is_timed
                else None,
                "labels": clip.labels.tolist(),
                "phases": list(clip.phases),
                "rows": -(-len(shown) // SHEET_COLUMNS),
            }
            screens.append(_screen(side, clip, sheet))
        runs = [
            {"rows": pair.path.steps[:, 0].tolist(), "columns": pair.path.steps[:, 1].tolist()}
            for _, pair in self.pairs
        ]
        data = {
            "sides": sides,
            "runs": runs,
            "columns": SHEET_COLUMNS,
            "plot": PLOT,
            "height": plot_height(first),
        }
        options = [
            tag("option", run.recipe, value=place) for place, (run, _) in enumerate(self.pairs)
        ]
        last = len(first.path.steps) - 1
        controls = tag(
            "div",
            tag("button", "Play", type="button", class_="play"),
            tag(
                "label",
                "Step of the path ",
                tag("input", type="range", min=0, max=last, value=0, class_="step"),
            ),
            tag("label", "Path of ", tag("select", *options, class_="run")),
            tag("output", class_="verdict", aria_live="off"),
            class_="controls",
        )
        body = join(
            tag("div", *screens, class_="screens"), controls, script_data(data, name="pair")
        )
        return tag("div", body, class_="player needs-script")


def align_group(group: Group, runs: Sequence[RunPage], config: ReportConfig) -> AlignedGroup:
    """Align a pair of the group by the runs that have both clips with as many frames.

    The pair is the first two clips, in the first run, of those that show the most phases.
    """
    clips = group.clips(runs[0])
    by_phases = sorted(clips, key=lambda clip: -len(set(clip.labels.tolist()) - {-1}))
    query, reference = (clip.clip_id for clip in by_phases[:2])
    pairs = []
    for run in runs:
        one, other = run.clip(query), run.clip(reference)
        if one is not None and other is not None:
            pairs.append((run, align_pair(one, other)))
    lengths = [(pair.query.num_frames, pair.reference.num_frames) for _, pair in pairs]
    same = [item for item, shape in zip(pairs, lengths, strict=True) if shape == lengths[0]]
    return AlignedGroup(group, tuple(same), config)


def _legend(pair: AlignedClips) -> Html | None:
    """The phases of a pair, in the colours of the bands; None without labels."""
    clips = (pair.query, pair.reference)
    labels = sorted({int(label) for clip in clips for label in clip.labels} - {-1})
    items = []
    for label in labels:
        names = [clip.phases[label] for clip in clips if label < len(clip.phases)]
        square = tag("span", class_=f"swatch {phase_class(label)}", aria_hidden="true")
        items.append(tag("li", square, names[0] if names else str(label)))
    return tag("ul", *items, class_="legend", aria_label="Phases") if items else None


def run_title(run: RunPage) -> Html:
    """A recipe with its colour."""
    return join(swatch(run.colour), run.recipe)


def _screen(side: str, clip: EmbeddedClip, sheet: Html | None) -> Html:
    picture = tag("div", sheet, class_="screen") if sheet is not None else None
    caption = tag("figcaption", side, tag("span", class_="now"))
    return tag("figure", picture, caption, data_side=side)


def _cell(pictures: Pictures, clip: EmbeddedClip, frame: int, same: bool | None) -> Html:
    name = phase_name(clip, frame)
    seconds = clip.moment(frame)
    image = pictures.frame(clip, frame, words=f"{clip.clip_id} at {seconds}, {name}")
    label = name or "no label"
    if same is None:
        return join(image, tag("span", label, class_="phase"), tag("small", seconds))
    class_, title = ("phase right", "same phase") if same else ("phase wrong", "another phase")
    verdict = tag("span", MARKS[same], f" {label}", class_=class_, title=title)
    return join(image, verdict, tag("small", seconds))


def _same_phase(pair: AlignedClips, row: int, column: int) -> bool | None:
    one, other = int(pair.query.labels[row]), int(pair.reference.labels[column])
    return None if min(one, other) < 0 else one == other


def _length(clip: EmbeddedClip) -> str:
    if not clip.is_timed:
        return f"{clip.num_frames} frames"
    step = float(np.median(np.diff(clip.times_seconds))) if clip.num_frames > 1 else 0.0
    seconds = float(clip.times_seconds[-1] - clip.times_seconds[0]) + step
    return f"{clip.num_frames} frames, {seconds:.1f} s"


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
    rows, columns = pair.query.num_frames, pair.reference.num_frames
    uri = to_uri(heat_png(pair.distances), "png")
    left, top = AXIS + BAND, AXIS + BAND
    path = pair.path.steps + 0.5
    points = " ".join(f"{x / columns * PLOT:.1f},{y / rows * height:.1f}" for y, x in path.tolist())
    nearest = pair.nearest
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
    parts = (_times(pair, height), bands, group)
    drawing = svg(left + PLOT + 2, top + height + 2, *parts, label=words, data_run=number_of_run)
    facts = (
        f"path cost {number(pair.path.mean)} a step, "
        f"same phase on {_percent(pair.phase_agreement)} of it, tau {number(pair.tau)}"
    )
    return tag("figure", tag("figcaption", title, tag("small", facts)), drawing, class_="matrix")


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.0f} %"


def _times(pair: AlignedClips, height: float) -> Html:
    edge = AXIS + BAND
    texts = []
    for clip, name, length, along in (
        (pair.reference, "reference", PLOT, True),
        (pair.query, "query", height, False),
    ):
        first, last = (clip.moment(i, digits=1) for i in (0, clip.num_frames - 1))
        for words, place, side in ((f"{name} {first}", 0.0, not along), (last, length, along)):
            class_ = "axis end" if side else "axis"
            x, y = (edge + place, AXIS - 6) if along else (AXIS - 6, edge + place)
            turn = None if along else f"rotate(-90 {x:g} {y:g})"
            texts.append(tag("text", words, x=x, y=y, class_=class_, transform=turn))
    return join(*texts)


def _band(clip: EmbeddedClip, length: float, corner: tuple[float, float], *, across: bool) -> Html:
    """The phases of a clip along an axis: a colour each, their names to be hovered over."""
    edges = [0, *(np.flatnonzero(np.diff(clip.labels)) + 1).tolist(), clip.num_frames]
    parts = []
    for start, stop in pairwise(edges):
        label = int(clip.labels[start])
        if label < 0:
            continue
        offset, size = start / clip.num_frames * length, (stop - start) / clip.num_frames * length
        x, y = (corner[0] + offset, corner[1]) if across else (corner[0], corner[1] + offset)
        width, height = (size, BAND - 2) if across else (BAND - 2, size)
        corners = {"x": x, "y": y, "width": width, "height": height}
        box = {name: f"{value:.1f}" for name, value in corners.items()}
        title = tag("title", phase_name(clip, start))
        parts.append(tag("rect", title, class_=phase_class(label), **box))
    return join(*parts)
