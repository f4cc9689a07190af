"""Scores of the tags of clips: precision by recall, what is decided, and single clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.protocol import EvaluateConfig, Settings, settings_of
from tokenreel.evaluate.report.data.gather import RunPage
from tokenreel.evaluate.report.page.html import (
    Html,
    colour_class,
    join,
    number,
    scroll,
    svg,
    swatch,
    tag,
)

MOST_TAGS = 8  # with a chart, those that most clips have first
MOST_CLIPS = 8  # with their scores
MOST_COLUMNS = 24  # of a table of what is decided
MOST_POINTS = 200  # of a curve
SIDE, LEFT, BOTTOM, TOP, RIGHT = 260, 36, 30, 10, 10


@dataclass(frozen=True, eq=False)
class TagPage:
    """A run with scores of tags.

    Attributes:
        run: the run.
        settings: split and threshold.
        clips: of the split.
        scores: (n, K).
        targets: bool (n, K).
    """

    run: RunPage
    settings: Settings
    clips: tuple[EmbeddedClip, ...]
    scores: NDArray[np.float32]
    targets: NDArray[np.bool_]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the K tags."""
        return self.run.file.class_names


def tag_pages(runs: Sequence[RunPage], config: EvaluateConfig | None = None) -> list[TagPage]:
    """The runs whose files hold scores of tags, and a clip of the split that is judged."""
    pages = []
    for run in runs:
        if not run.file.is_of_tags:
            continue
        settings = settings_of(run.file, config or EvaluateConfig())[0]
        clips = tuple(clip for clip in run.file.clips if clip.split == settings.split)
        if clips:
            scores = np.concatenate([clip.embeddings for clip in clips])
            targets = np.stack([clip.targets for clip in clips]) > 0
            pages.append(TagPage(run, settings, clips, scores, targets))
    return pages


def precision_by_recall(
    scores: NDArray[Any], targets: NDArray[np.bool_]
) -> list[tuple[float, float]]:
    """Recall and precision at each threshold, from the highest; [] without a positive.

    >>> precision_by_recall(np.array([3, 2, 2, 1]), np.array([True, False, True, False]))
    [(0.5, 1.0), (1.0, 0.6666666666666666), (1.0, 0.5)]
    """
    total = int(targets.sum())
    if not total:
        return []
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[:-1] != ranked[1:], True))  # equal scores: one threshold
    right = np.cumsum(targets[order])[ends]
    return [
        (float(share), float(value))
        for share, value in zip(right / total, right / (ends + 1), strict=True)
    ]


def tag_articles(pages: Sequence[TagPage]) -> Html:
    """Curves of the tags, then for each run what it decides and the scores of some clips."""
    legend = tag(
        "ul",
        *(tag("li", swatch(page.run.colour), page.run.name) for page in pages),
        class_="legend",
    )
    charts = [_chart("all tags", [(page, None) for page in pages])]
    names = dict.fromkeys(name for page in pages for name in _most_common(page))
    for name in list(names)[:MOST_TAGS]:
        having = [(page, page.names.index(name)) for page in pages if name in page.names]
        charts.append(_chart(name, having))
    tables = tag("div", *(_decided(page) for page in pages), class_="confusions")
    clips = tag("div", *(_clips(page) for page in pages))
    return join(legend, tag("div", *charts, class_="charts"), tables, clips)


def _most_common(page: TagPage) -> list[str]:
    support = page.targets.sum(axis=0)
    order = np.argsort(-support, kind="stable")
    return [page.names[place] for place in order if support[place]]


def _chart(title: str, lines: Sequence[tuple[TagPage, int | None]]) -> Html:
    """Precision by recall of a tag, or of all pairs of clip and tag, a line a run."""
    width, height = SIDE - LEFT - RIGHT, SIDE - TOP - BOTTOM
    parts: list[Html] = []
    for share in (0.0, 0.5, 1.0):
        y = TOP + (1 - share) * height
        parts.append(Html(f'<path class="grid" d="M{LEFT} {y:.1f}H{SIDE - RIGHT}"/>'))
        parts.append(tag("text", f"{share:g}", x=LEFT - 5, y=f"{y + 3.5:.1f}", class_="axis end"))
    middle = LEFT + width / 2
    parts.append(tag("text", "recall", x=f"{middle:.0f}", y=SIDE - 4, class_="axis middle"))
    ends = []
    for page, column in lines:
        scores, targets = page.scores, page.targets
        if column is not None:
            scores, targets = scores[:, column], targets[:, column]
        points = precision_by_recall(scores.ravel(), targets.ravel())
        step = max(1, -(-len(points) // MOST_POINTS))
        points = [*points[:-1:step], *points[-1:]]
        if not points:
            continue
        places = [
            f"{LEFT + recall * width:.1f} {TOP + (1 - precision) * height:.1f}"
            for recall, precision in points
        ]
        path = "M" + "L".join(places) + ("h.01" if len(places) == 1 else "")
        parts.append(Html(f'<path class="line {colour_class(page.run.colour)}" d="{path}"/>'))
        ends.append(f"{page.run.name}: precision {points[-1][1]:.3g} at full recall")
    drawing = svg(SIDE, SIDE, *parts, label=f"Precision by recall of {title}. {'; '.join(ends)}")
    return tag("figure", tag("figcaption", title), drawing, class_="chart")


def _decided(page: TagPage) -> Html:
    """For the clips that have a tag, the share for which each tag is decided."""
    names = page.names[:MOST_COLUMNS]
    decided = page.scores > page.settings.threshold
    head = tag(
        "tr",
        tag("td", "has \\ decided", class_="corner"),
        *(tag("th", tag("span", name), scope="col") for name in names),
    )
    rows = []
    for place, name in enumerate(names):
        having = decided[page.targets[:, place]]
        shares = having.mean(axis=0) if len(having) else np.zeros(len(page.names))
        cells = [
            tag(
                "td",
                f"{100 * share:.0f}",
                title=f"{100 * share:.0f} % of {len(having)} clips",
                class_="hit" if other == place else None,
                style=f"--share:{share:.3f}",
            )
            for other, share in enumerate(shares[: len(names)].tolist())
        ]
        rows.append(tag("tr", tag("th", name, scope="row"), *cells))
    more = f", {len(page.names) - len(names)} more tags" if len(names) < len(page.names) else ""
    caption = tag(
        "caption",
        page.run.name,
        tag("small", f" percent of the clips, above {page.settings.threshold:g}{more}"),
    )
    table = tag("table", caption, tag("thead", head), tag("tbody", *rows), class_="confusion")
    return scroll(table, f"Tags that are decided, {page.run.name}")


def _clips(page: TagPage) -> Html:
    """The scores of some clips: their own tags, and those that are decided."""
    head = tag("tr", *(tag("th", words, scope="col") for words in ("clip", "has", "decided")))
    rows = []
    for clip, scores, targets in list(zip(page.clips, page.scores, page.targets, strict=True))[
        :MOST_CLIPS
    ]:
        order = np.argsort(-scores, kind="stable")
        decided = [
            f"{page.names[place]} {number(float(scores[place]), 2)}"
            + ("" if targets[place] else " \u2717")
            for place in order
            if scores[place] > page.settings.threshold
        ]
        own = [name for name, has in zip(page.names, targets, strict=True) if has]
        cells = (tag("td", ", ".join(words) or "-") for words in (own, decided))
        rows.append(tag("tr", tag("th", clip.clip_id, scope="row"), *cells))
    table = tag("table", tag("caption", page.run.name), tag("thead", head), tag("tbody", *rows))
    return scroll(table, f"Scores of clips, {page.run.name}")
