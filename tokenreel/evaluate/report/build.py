"""`evaluate report`: one self-contained page of runs and their scores.

The same inputs give the same bytes: no clock, no path of this machine, no order of a set.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from threadpoolctl import threadpool_limits

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.cache.progress import Progress
from tokenreel.evaluate.data.results import MEAN, Score
from tokenreel.evaluate.report.data.gather import (
    ReportConfig,
    RunPage,
    gather_runs,
    shown_groups,
    shown_runs,
)
from tokenreel.evaluate.report.data.scores import ScoreTable
from tokenreel.evaluate.report.page.html import Html, Section, absent, join, make_page, number, tag
from tokenreel.evaluate.report.pictures.frames import (
    ClipFrames,
    FrameSource,
    Pictures,
    frames_of_file,
)
from tokenreel.evaluate.report.sections.actions import action_articles, action_pair
from tokenreel.evaluate.report.sections.alignment import align_group
from tokenreel.evaluate.report.sections.attention import attention_article, read_attention
from tokenreel.evaluate.report.sections.confusion import confusion_article
from tokenreel.evaluate.report.sections.curves import training_curves
from tokenreel.evaluate.report.sections.explanations import explanation_article, read_explanations
from tokenreel.evaluate.report.sections.projection import projection_article
from tokenreel.evaluate.report.sections.provenance import provenance_section
from tokenreel.evaluate.report.sections.retrieval import retrieve_group
from tokenreel.evaluate.report.sections.scores import (
    action_bars,
    all_rows,
    metric_link,
    metric_list,
    summary_table,
)
from tokenreel.evaluate.report.sections.tags import tag_articles, tag_pages
from tokenreel.evaluate.tables.printed import Published
from tokenreel.evaluate.tables.summary import is_clearly_above, summarise
from tokenreel.evaluate.tasks.task import is_error, is_of_class

log = logging.getLogger(__name__)


def write_report(page: bytes, out: Path) -> Path:
    """Write a page as OUT/index.html, whole or not at all."""
    make_directory(out)
    path = out / "index.html"
    write_whole(path, page)
    log.info("%s: %.1f MB", path, len(page) / 1e6)
    return path


def make_report(
    files: Sequence[EmbeddingFile],
    scores: Sequence[Score],
    *,
    frames: FrameSource,
    clip_frames: ClipFrames = frames_of_file,
    config: ReportConfig | None = None,
    published: Mapping[str, Published] | None = None,
    problems: Sequence[str] = (),
    progress: bool = False,
) -> bytes:
    """The page.

    Args:
        files: embedding files, at least one; the first of each recipe is shown in pictures.
        scores: rows of results.csv for them.
        frames: where real frames come from.
        clip_frames: gives the times of all frames of a clip whose file has one row of it.
        config: what is shown.
        published: recipe -> published numbers.
        problems: problems of the data, a sentence each, shown above everything.
        progress: show a bar.

    Raises:
        ValueError: no file.
    """
    if not files:
        raise ValueError("a report is of at least one embedding file, got none")
    config = config or ReportConfig()
    runs = gather_runs(files)
    with threadpool_limits(1):  # more make small fits slower, and change the last digits
        pictures = _pictures(runs, frames, clip_frames, config, progress=progress)
    table = ScoreTable(scores)
    colours = {run.recipe: run.colour for run in runs}
    sections = [
        Section(
            "summary",
            "Summary",
            "Mean over actions, \u00b1 two standard deviations over seeds. "
            "The best of a column is bold, the second of three or more underlined, where it is "
            "above the clock by more than that; the clock, a control that knows only the position "
            "of a frame in its clip, takes no part.",
            summary_table(summarise(scores, published), colours),
        ),
        Section(
            "actions",
            "By action",
            "The same numbers for each action; whiskers are two standard deviations over seeds.",
            action_bars(table, colours),
        ),
        *_tags(runs, config),
        *pictures,
        _attention(runs, config),
        Section(
            "training",
            "Training",
            "Quantities logged by epoch. Colour is the recipe, the dash of a line its seed.",
            training_curves(runs),
        ),
        Section(
            "scores",
            "All scores",
            "Every number with its counts. A heading sorts, the fields filter.",
            all_rows(scores),
        ),
        Section(
            "metrics",
            "Metrics",
            "What each metric is, its range, and what it rewards.",
            metric_list(table.tasks),
        ),
        Section(
            "provenance",
            "Provenance",
            "Each run, and how its tokens were extracted.",
            provenance_section(runs),
        ),
    ]
    return make_page(config.title, _lead(runs, table, problems, config.note), sections)


def _pictures(
    runs: Sequence[RunPage],
    frames: FrameSource,
    clip_frames: ClipFrames,
    config: ReportConfig,
    *,
    progress: bool,
) -> list[Section]:
    """The sections of single clips: all say which frames they show, which are then decoded once."""
    shown = shown_runs(runs, config)
    groups = shown_groups(shown, config)
    pair = action_pair(shown, frames=clip_frames)
    aligned = [align_group(group, shown, config) for group in groups]
    retrieved = [retrieve_group(group, shown, config) for group in groups]
    pictures = Pictures(frames, height=config.height)
    for alignment in aligned:
        alignment.want(pictures)
    for retrieval in retrieved:
        retrieval.want(pictures)
    if pair is not None:
        pair.want(pictures)
    pictures.fetch()
    notice = pictures.notice()
    none = absent("No action or group has two clips to compare.")
    actions = []
    if pair is not None:
        note = (
            "Two runs with scores of the same clips: the accuracy that each class gains, clips "
            "that one has right and the other wrong (\u2713: its class), and their features."
        )
        body = join(notice, action_articles(pair, pictures, config))
        actions = [Section("gains", "Gains", note, body)]
    counted = Progress(groups, desc="report", unit="action", enabled=progress)
    return [
        *actions,
        Section(
            "alignment",
            "Alignment",
            "Distances between the frames of two clips (near is bright), "
            "the cheapest warping path (line), and each query frame's nearest neighbour "
            "(dots). Bands beside the axes are phases, light to dark in their order.",
            join(notice, *([part.render(pictures) for part in aligned] or [none])),
        ),
        Section(
            "retrieval",
            "Retrieval",
            "The nearest frames of other clips of the action: \u2713 is the "
            "query's phase, \u2717 another.",
            join(notice, *([part.render(pictures) for part in retrieved] or [none])),
        ),
        Section(
            "confusion",
            "Confusion",
            "Linear classifier on all labelled training frames of the "
            "action: percent of a phase's frames, the more the darker; framed cells are right.",
            join(*([confusion_article(group, shown) for group in counted] or [none])),
        ),
        Section(
            "projection",
            "Embeddings",
            "Frames of the held-out clips in two dimensions; colour and shape are the phase.",
            join(*([projection_article(group, shown, config) for group in groups] or [none])),
        ),
    ]


def _tags(runs: Sequence[RunPage], config: ReportConfig) -> list[Section]:
    """Scores of tags and their explanations, where there are any."""
    pages = tag_pages(shown_runs(runs, config))
    if not pages:
        return []
    note = (
        "Scores of the tags of clips: precision at each recall, for the clips that have a tag the "
        "share for which each is decided, and single clips (\u2717: decided, and not so)."
    )
    why = (
        "Why a run decides the tags of a clip: its frames, where each stream looks (red adds most "
        "to the decided tags), the attention over time; `fuse explain RUN --clips CLIP` makes them."
    )
    found = [explanation_article(clip) for clip in read_explanations(runs, config)]
    shown = join(*found) if found else absent("No run has explanations in its folder.")
    return [
        Section("tags", "Tags", note, tag_articles(pages)),
        Section("explanations", "Explanations", why, shown),
    ]


def _attention(runs: Sequence[RunPage], config: ReportConfig) -> Section:
    """Attention of LSTP, or the command that computes it."""
    note = "Attention of each entity of LSTP, over the frames as the backbone saw them."
    found = [attention_article(clip) for clip in read_attention(runs, config)]
    hint = "No run has attention in its folder; `fuse attend RUN --clips CLIP` computes it."
    body = join(*found) if found else absent(hint)
    return Section("attention", "Attention", note, body)


def _lead(runs: Sequence[RunPage], table: ScoreTable, problems: Sequence[str], note: str) -> Html:
    """What was evaluated in a sentence, warnings, the best numbers."""
    names = sorted({str(run.file.provenance.get("dataset", "")) for run in runs} - {""})
    recipes = len({run.recipe for run in runs})
    data = f" on {', '.join(names)}" if names else ""
    lead = tag(
        "p",
        f"{_count(len(runs), 'run')} of {_count(recipes, 'recipe')}{data}, "
        f"{_count(len(table.actions), 'action')}.",
        class_="lead",
    )
    weights = sorted({str(run.file.provenance.get("weights", "")) for run in runs})
    random = ", ".join(words for words in weights if words.startswith("random"))
    words = f"The backbone has random weights ({random}): compare the rows with one another, "
    warning = absent(words + "never with a paper.") if random else None
    cards = []
    for task in [t for t in table.tasks if not (is_of_class(t) or is_error(t))]:
        if (card := _card(task, table)) is not None:
            cards.append(card)
    wrong = tag("ul", *(tag("li", problem) for problem in problems), class_="absent")
    return join(
        lead,
        tag("p", note) if note else None,
        warning,
        wrong if problems else None,
        tag("ul", *cards, class_="cards", aria_label="Highest of each metric"),
    )


def _card(task: str, table: ScoreTable) -> Html | None:
    """The highest value of a metric, called best where it is above the clock by its spread."""
    known = {row: table.cell(row, MEAN, task) for row in table.rows}
    known = {row: cell for row, cell in known.items() if cell.known}
    rows = {row: cell.mean for row, cell in known.items() if not table.is_control(row)}
    if not rows:
        return None
    row = max(rows, key=lambda name: rows[name])
    clock = max((cell.mean for name, cell in known.items() if name not in rows), default=math.nan)
    words = f"best: {row}" if len(rows) > 1 else row
    if not is_clearly_above(rows[row], known[row].spread, clock=clock):
        level = "within its spread of" if rows[row] > clock else "not above"
        first = f"highest: {row}" if len(rows) > 1 else row
        words = f"{first}, {level} the clock: {number(clock)}"
    elif not math.isnan(clock):
        words += f"; the clock: {number(clock)}"
    title = tag("span", metric_link(task))
    return tag("li", title, tag("b", number(rows[row])), tag("span", words))


def _count(number_of: int, what: str) -> str:
    return f"{number_of} {what}" + ("" if number_of == 1 else "s")
