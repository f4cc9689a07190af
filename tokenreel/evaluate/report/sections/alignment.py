"""Alignments on the page: for an action one pair of clips, aligned by every run shown."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.methods.alignment import AlignedClips, align_pair, phase_name
from tokenreel.evaluate.report.data.config import ReportConfig
from tokenreel.evaluate.report.data.gather import Group, RunPage, evenly
from tokenreel.evaluate.report.page.html import Html, join, script_data, tag
from tokenreel.evaluate.report.pictures.matrix import PLOT, matrix_figure, plot_height
from tokenreel.evaluate.report.pictures.thumbnails import Pictures

__all__ = ["AlignedGroup", "align_group"]

SHEET_COLUMNS = 8
MARKS = {True: "\u2713", False: "\u2717", None: "?"}  # a tick, a cross
VERDICTS = {True: "right", False: "wrong", None: "unlabelled"}


@dataclass(frozen=True, eq=False)
class AlignedGroup:
    """A pair of clips of a group and its alignment by each run that has both."""

    group: Group
    pairs: tuple[tuple[RunPage, AlignedClips], ...]
    config: ReportConfig

    def want(self, pictures: Pictures) -> None:
        """Ask for the frames of the strip and of the slider."""
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
            "warping path of each run lays beside it.",
        )
        return tag(
            "div",
            tag("table", caption, tag("tbody", *rows), class_="strip"),
            class_="scroll",
            tabindex="0",
            role="region",
            aria_label=f"Alignment strip, {self.group.title}",
        )

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
                "seconds": [round(float(t), 3) for t in clip.times_seconds],
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
    lengths = [pair.distances.shape for _, pair in pairs]
    same = [item for item, shape in zip(pairs, lengths, strict=True) if shape == lengths[0]]
    return AlignedGroup(group, tuple(same), config)


def run_title(run: RunPage) -> Html:
    """A recipe with its colour."""
    return join(tag("span", class_=f"swatch c{run.colour % 8}", aria_hidden="true"), run.recipe)


def _screen(side: str, clip: EmbeddedClip, sheet: Html | None) -> Html:
    picture = tag("div", sheet, class_="screen") if sheet is not None else None
    caption = tag("figcaption", side, tag("span", class_="now"))
    return tag("figure", picture, caption, data_side=side)


def _cell(pictures: Pictures, clip: EmbeddedClip, frame: int, same: bool | None) -> Html:
    name = phase_name(clip, frame)
    seconds = f"{clip.times_seconds[frame]:.2f} s"
    image = pictures.frame(clip, frame, words=f"{clip.clip_id} at {seconds}, {name}")
    label = name or "no label"
    if same is None:
        return join(image, tag("span", label, class_="phase"), tag("small", seconds))
    verdict = tag(
        "span",
        MARKS[same],
        f" {label}",
        class_=f"phase {VERDICTS[same]}",
        title="same phase" if same else "another phase",
    )
    return join(image, verdict, tag("small", seconds))


def _same_phase(pair: AlignedClips, row: int, column: int) -> bool | None:
    one, other = int(pair.query.labels[row]), int(pair.reference.labels[column])
    return None if min(one, other) < 0 else one == other


def _length(clip: EmbeddedClip) -> str:
    step = float(np.median(np.diff(clip.times_seconds))) if clip.num_frames > 1 else 0.0
    seconds = float(clip.times_seconds[-1] - clip.times_seconds[0]) + step
    return f"{clip.num_frames} frames, {seconds:.1f} s"
