"""Two runs of actions side by side: what each class gains, clips that change, their features.

Source: Lu et al., Four-Tiered Prompts, Figures 5 and B1 to B5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings
from tokenreel.evaluate.methods.pairs import class_accuracy, gains
from tokenreel.evaluate.protocol import EvaluateConfig, settings_of
from tokenreel.evaluate.report.data.gather import ReportConfig, RunPage, evenly
from tokenreel.evaluate.report.page.html import (
    Html,
    absent,
    colour_class,
    join,
    number,
    svg,
    swatch,
    tag,
)
from tokenreel.evaluate.report.pictures.frames import ClipFrames, Pictures, frames_of_file
from tokenreel.evaluate.report.sections.projection import draw_cloud, project

FEATURES = "features.h5"  # beside the embeddings: what the last layer of a classifier sees
ENDS = 10  # classes with the largest gains and losses, in the table
CHANGED = 6  # clips
SHOWN = 4  # frames of each
FIRST = 3  # classes with a bar under a clip
WIDTH, BAR, HEIGHT = 720.0, 3.0, 200.0


@dataclass(frozen=True, eq=False)
class ActionPair:
    """Two runs with scores of the same actions of the same clips.

    Attributes:
        runs: the two.
        clips: of the split that is judged, of each run.
        scores: (2, n, K).
        classes: (n,).
        names: of the K classes.
        frames: gives the times of all frames of a clip.
    """

    runs: tuple[RunPage, RunPage]
    clips: tuple[list[EmbeddedClip], list[EmbeddedClip]]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    names: tuple[str, ...]
    frames: ClipFrames = frames_of_file

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class that each run says of each clip, (2, n)."""
        return np.asarray(self.scores.argmax(axis=2))

    def gains(self) -> list[tuple[int, float]]:
        """Classes by what the first run has more than the second, the largest first."""
        second, first = (
            class_accuracy(row == self.classes, self.classes, len(self.names))
            for row in self.predicted[::-1]
        )
        return gains(second, first)

    def changed(self) -> list[int]:
        """Clips that one run has right and the other wrong: in turn those won and those lost."""
        first, second = self.predicted == self.classes
        won, lost = (np.flatnonzero(rows).tolist() for rows in (first & ~second, second & ~first))
        most = max(len(won), len(lost))
        mixed = [clip for place in range(most) for clip in (*won[place:][:1], *lost[place:][:1])]
        return [int(clip) for clip in mixed[:CHANGED]]

    def want(self, pictures: Pictures) -> None:
        """Register the frames that are shown."""
        for place in self.changed():
            pictures.want(*self.shown(place))

    def shown(self, place: int) -> tuple[EmbeddedClip, list[int]]:
        """A clip and which of its frames are shown: the first, the last, and some between.

        A short clip may have a frame more than once: it is shown once.
        """
        clip = self.frames(self.clips[0][place])
        different = (
            np.unique(clip.frame_index, return_index=True)[1] if clip.frame_index.size else [0]
        )
        return clip, [int(different[number]) for number in evenly(len(different), SHOWN)]


def action_pair(
    runs: Sequence[RunPage],
    config: EvaluateConfig | None = None,
    *,
    frames: ClipFrames = frames_of_file,
) -> ActionPair | None:
    """The first two runs of actions with the same classes and clips; None without two."""
    found: list[tuple[RunPage, list[EmbeddedClip]]] = []
    for run in runs:
        settings = settings_of(run.file, config or EvaluateConfig())[0]
        if not run.file.is_of_tags or settings.protocol != "actions":
            continue
        own = [c for c in run.file.clips if c.split == settings.split and c.targets.any()]
        if not own or (found and not _alike((run, own), found[0])):
            continue
        found.append((run, own))
        if len(found) == 2:
            break
    if len(found) < 2:
        return None
    (one, first), (two, second) = found
    scores = np.stack([np.concatenate([c.embeddings for c in own]) for own in (first, second)])
    classes = np.stack([clip.targets for clip in first]).argmax(axis=1)
    return ActionPair((one, two), (first, second), scores, classes, one.file.class_names, frames)


def _alike(
    one: tuple[RunPage, list[EmbeddedClip]], two: tuple[RunPage, list[EmbeddedClip]]
) -> bool:
    names = [[clip.clip_id for clip in clips] for _, clips in (one, two)]
    return names[0] == names[1] and one[0].file.class_names == two[0].file.class_names


def action_articles(pair: ActionPair, pictures: Pictures, config: ReportConfig) -> Html:
    """Bars of gains with a table of the ends, changed clips, and the features of both runs."""
    one, two = pair.runs
    legend = tag(
        "p", swatch(one.colour), f"{one.recipe} against ", swatch(two.colour), f"{two.recipe}"
    )
    return join(
        legend,
        tag("article", tag("h3", "Gain of each class"), _bars(pair), _ends(pair)),
        tag("article", tag("h3", "Clips that change"), _changed(pair, pictures)),
        tag("article", tag("h3", "Features"), _clouds(pair, config)),
    )


def _bars(pair: ActionPair) -> Html:
    """A bar a class, sorted, above the line where the first run is better."""
    found = pair.gains()
    most = max((abs(gain) for _, gain in found), default=0.0) or 1.0
    step = min(24.0, WIDTH / max(1, len(found)))
    middle = HEIGHT / 2
    parts = [Html(f'<path class="zero" d="M0 {middle:.1f}H{WIDTH:g}"/>')]
    for place, (number_of, gain) in enumerate(found):
        height = abs(gain) / most * (middle - 6)
        top = middle - height if gain > 0 else middle
        run = pair.runs[0 if gain >= 0 else 1]
        words = f"{pair.names[number_of]}: {100 * gain:+.1f}"
        parts.append(
            tag(
                "rect",
                tag("title", words),
                x=f"{place * step:.1f}",
                y=f"{top:.1f}",
                width=f"{max(1.0, step - 1):.1f}",
                height=f"{max(0.5, height):.1f}",
                class_=f"bar {colour_class(run.colour)}",
            )
        )
    better = sum(gain > 0 for _, gain in found)
    worse = sum(gain < 0 for _, gain in found)
    text = (
        f"{better} of {len(found)} classes gain, {worse} lose; the largest change is "
        f"{100 * most:.1f} points"
    )
    drawing = svg(WIDTH, HEIGHT, *parts, label=f"Gain of accuracy by class. {text}")
    return tag("figure", tag("figcaption", text), drawing, class_="chart")


def _ends(pair: ActionPair) -> Html:
    """The classes with the largest gains, and with the largest losses."""
    found = pair.gains()
    support = np.bincount(pair.classes, minlength=len(pair.names))
    first, last = found[:ENDS], [item for item in found[-ENDS:] if item not in found[:ENDS]]
    tables = []
    for title, some in (("most gained", first), ("least gained", last[::-1])):
        rows = [
            tag(
                "tr",
                tag("th", pair.names[place], scope="row"),
                tag("td", f"{100 * gain:+.1f}"),
                tag("td", str(int(support[place]))),
            )
            for place, gain in some
        ]
        head = tag("tr", *(tag("th", w, scope="col") for w in ("class", "points", "clips")))
        if rows:
            tables.append(
                tag("table", tag("caption", title), tag("thead", head), tag("tbody", *rows))
            )
    return tag("div", *tables, class_="confusions")


def _changed(pair: ActionPair, pictures: Pictures) -> Html:
    """Clips that one run has right and the other wrong, with the shares that each gives."""
    items = []
    for place in pair.changed():
        clip, own = pair.clips[0][place], int(pair.classes[place])
        words = f"{clip.clip_id}, {pair.names[own]}"
        figures = [
            _softmax(pair, run, pair.scores[number_of, place], own)
            for number_of, run in enumerate(pair.runs)
        ]
        items.append(
            tag(
                "figure",
                _strip(pair, place, pictures, words),
                tag("figcaption", words),
                *figures,
            )
        )
    if not items:
        return absent("No clip that one run has right and the other wrong.")
    return tag("div", *items, class_="charts")


def _strip(pair: ActionPair, place: int, pictures: Pictures, words: str) -> Html | None:
    """Frames of a clip in a row, in their order; None where they are out of reach."""
    clip, positions = pair.shown(place)
    images = [
        pictures.frame(clip, position, words=f"{words}, {clip.moment(position)}")
        for position in positions
    ]
    found = [image for image in images if image is not None]
    return tag("div", *found, class_="frames") if found else None


def _softmax(pair: ActionPair, run: RunPage, scores: NDArray[np.float32], own: int) -> Html:
    """Bars of the first classes of a run, its own class marked."""
    order = np.argsort(-scores, kind="stable")[:FIRST].tolist()
    parts: list[Html] = []
    for row, place in enumerate(order):
        share, y = float(scores[place]), 18 * row
        mark = "\u2713" if place == own else "\u2717"
        parts.append(
            Html(
                f'<rect class="bar {colour_class(run.colour)}" x="0" y="{y + 2}" height="12" '
                f'width="{max(0.0, min(1.0, share)) * 80:.1f}"/>'
            )
        )
        text = f"{mark} {pair.names[place]} {share:.2f}"
        parts.append(tag("text", text, x="84", y=f"{y + 12}", class_="axis"))
    told = "; ".join(f"{pair.names[place]} {number(float(scores[place]), 2)}" for place in order)
    return svg(260, 18 * len(order), *parts, label=f"{run.recipe}: {told}")


def _clouds(pair: ActionPair, config: ReportConfig) -> Html:
    """The features of both runs in two dimensions, side by side, started from one seed."""
    figures = [
        _cloud(pair, run, clips, config) for run, clips in zip(pair.runs, pair.clips, strict=True)
    ]
    return tag("div", *figures, class_="projections")


def _cloud(
    pair: ActionPair, run: RunPage, clips: Sequence[EmbeddedClip], config: ReportConfig
) -> Html:
    path = run.folder / FEATURES
    if path.is_file():
        features = {clip.clip_id: clip.embeddings[0] for clip in read_embeddings(path).clips}
        what = "the input of the last layer"
    else:
        features = {clip.clip_id: np.log(clip.embeddings[0] + 1e-6) for clip in clips}
        what = "logarithms of the scores"
    places = [place for place, clip in enumerate(clips) if clip.clip_id in features]
    chosen = [places[place] for place in evenly(len(places), config.points)] if places else []
    if not chosen:
        return absent(f"{run.recipe}: no features")
    rows = np.stack([features[clips[place].clip_id] for place in chosen]).astype(np.float32)
    points, words = project(rows, method="tsne")
    text = f"{words} of {what}; {len(chosen)} of {len(clips)} clips, colour and shape: the class"
    return draw_cloud(run, points, pair.classes[chosen], text)
