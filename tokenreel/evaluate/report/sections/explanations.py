"""Explanations of the tags of clips, for runs with files of `fuse explain` in their folder.

RUN/explanations/NAME.npz holds clip_id, class_names, scores (K,), decided, targets (K,); NAME.png
beside it shows frames, maps and attention.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embedding_arrays import load_arrays
from tokenreel.cache.errors import EmbeddingFileError
from tokenreel.evaluate.report.data.gather import ReportConfig, RunPage
from tokenreel.evaluate.report.page.html import Html, tag
from tokenreel.evaluate.report.sections.alignment import run_title
from tokenreel.evaluate.report.sections.attention import saved_picture

log = logging.getLogger(__name__)

NAMES = ("clip_id", "class_names", "scores", "decided", "targets")


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a run scores a clip as it does.

    Attributes:
        run: of which it is.
        clip_id: the clip.
        class_names: of the K scores.
        scores: (K,).
        decided: columns of the decided tags.
        tags: of class_names, that the clip has.
        picture: the PNG beside the numbers; it may be missing.
    """

    run: RunPage
    clip_id: str
    class_names: tuple[str, ...]
    scores: NDArray[np.floating]
    decided: tuple[int, ...]
    tags: tuple[str, ...]
    picture: Path


def read_explanations(runs: Sequence[RunPage], config: ReportConfig) -> list[Explanation]:
    """The explanations of the runs; a file of another layout is left out and logged."""
    found = []
    for run in runs:
        paths = sorted((run.folder / "explanations").glob("*.npz"))[: config.attention_clips]
        for path in paths:
            try:
                arrays, _ = load_arrays(path, names=NAMES)
                names = tuple(map(str, arrays["class_names"]))
                decided = tuple(map(int, arrays["decided"]))
                scores = np.asarray(arrays["scores"], np.float64)
                if scores.shape != (len(names),) or not set(decided) <= set(range(len(names))):
                    raise LookupError(f"scores of shape {scores.shape} of {len(names)} tags")
                has = np.asarray(arrays["targets"]) > 0
                tags = tuple(name for name, is_so in zip(names, has, strict=True) if is_so)
                clip_id = str(arrays["clip_id"][0])
            except (EmbeddingFileError, LookupError, ValueError, TypeError) as error:
                log.warning("%s: not the explanation of a clip (%s): left out", path, error)
                continue
            png = path.with_suffix(".png")
            found.append(Explanation(run, clip_id, names, scores, decided, tags, png))
    return found


def explanation_article(found: Explanation) -> Html:
    """The picture of a clip, its decided tags with their scores, and those that it has."""
    order = sorted(found.decided, key=lambda place: -found.scores[place])
    decided = [
        f"{found.class_names[place]} {found.scores[place]:.2f}"
        + ("" if found.class_names[place] in found.tags else " \u2717")
        for place in order
    ]
    facts = f"{found.clip_id}: {', '.join(decided)}; has {', '.join(found.tags) or 'no tag'}"
    caption = tag("figcaption", run_title(found.run), tag("small", facts))
    words = f"Explanation of {found.run.recipe} for {found.clip_id}: frames of its scenes, maps of "
    picture = saved_picture(found.picture, words + "where each stream looks, attention over time")
    return tag("figure", caption, picture, class_="attention")
