"""Runs of the report, the files beside their embeddings, and the choice of what is shown."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tokenreel.cache.canonical import read_json
from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile
from tokenreel.evaluate.data.clips import file_sha256
from tokenreel.evaluate.data.results import names_apart

log = logging.getLogger(__name__)


class ReportConfig(BaseModel):
    """Bounds of the page; tables and charts always hold everything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(default="TokenReel report", description="heading of the page")
    note: str = Field(default="", description="sentence below the heading")
    actions: int = Field(default=4, ge=0, description="most actions with pictures")
    recipes: int = Field(default=4, ge=1, description="most recipes with pictures")
    strip_frames: int = Field(default=7, ge=2, description="frames of an alignment strip")
    slider_frames: int = Field(default=48, ge=2, description="frames of a clip under the slider")
    queries: int = Field(default=2, ge=1, description="retrieval queries of an action")
    k: int = Field(default=5, ge=1, description="frames retrieved for each")
    attention_clips: int = Field(default=2, ge=0, description="clips of a run with attention")
    height: int = Field(default=84, ge=16, description="of a frame, pixels")
    points: int = Field(default=500, ge=10, description="frames drawn in a projection")
    projection: Literal["pca", "tsne"] = Field(default="pca", description="of the embeddings")


@dataclass(frozen=True, eq=False)
class RunPage:
    """A run of the report.

    Attributes:
        name: of the run, as in the tables.
        recipe: its recipe, or its name where it has none; with its data set and weights where the
            page has it of several.
        colour: number of the recipe's colour, the same all over the page.
        file: its embeddings.
        curves: the lines of metrics.jsonl, [] where there is none.
        digest: first 16 hex digits of the SHA-256 of the embedding file.
    """

    name: str
    recipe: str
    colour: int
    file: EmbeddingFile
    curves: list[dict[str, float]]
    digest: str

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.file.path.parent

    def clip(self, clip_id: str) -> EmbeddedClip | None:
        """Its clip of that name."""
        return next((clip for clip in self.file.clips if clip.clip_id == clip_id), None)


@dataclass(frozen=True, eq=False)
class Group:
    """Clips that pictures compare: those of an action, or of a group of the same video.

    Attributes:
        title: for people.
        clip_ids: of the validation split where there are two there, in the order of the file.
    """

    title: str
    clip_ids: tuple[str, ...]

    def clips(self, run: RunPage) -> list[EmbeddedClip]:
        """The clips of the group that a run has embedded."""
        wanted = set(self.clip_ids)
        return [clip for clip in run.file.clips if clip.clip_id in wanted]


def gather_runs(files: Sequence[EmbeddingFile]) -> list[RunPage]:
    """The runs of embedding files, in their order; colours by first appearance of the recipe.

    A recipe of several data sets or weights is one for each.
    """
    keys = [
        (
            str(file.provenance.get("recipe", "") or file.run_name),
            str(file.provenance.get("dataset", "")),
            str(file.provenance.get("weights", "")),
        )
        for file in files
    ]
    names = names_apart(keys)
    colours: dict[str, int] = {}
    runs: list[RunPage] = []
    for file, key in zip(files, keys, strict=True):
        name, recipe = file.run_name, names[key]
        colour = colours.setdefault(recipe, len(colours))
        digest = file_sha256(file.path)[:16]
        curves = _read_curves(file.path.parent / "metrics.jsonl")
        runs.append(RunPage(name, recipe, colour, file, curves, digest))
    return runs


def shown_runs(runs: Sequence[RunPage], config: ReportConfig) -> list[RunPage]:
    """One run a recipe, the first given, as many as the pictures show."""
    first: dict[str, RunPage] = {}
    for run in runs:
        first.setdefault(run.recipe, run)
    return list(first.values())[: config.recipes]


def shown_groups(runs: Sequence[RunPage], config: ReportConfig) -> list[Group]:
    """The actions, else the groups, of the first run that have at least two clips to compare.

    Labelled clips without an action are one, as in the tables.
    """
    clips = runs[0].file.clips
    words = [word for word in ("action", "group") if any(getattr(clip, word) for clip in clips)]
    word = words[0] if words else "action"
    values = sorted({getattr(clip, word) for clip in clips} - {""})
    if any(not clip.action and (clip.labels >= 0).any() for clip in clips) and word == "action":
        values.append("")
    found = []
    for value in values:
        own = [clip for clip in clips if getattr(clip, word) == value]
        splits = [[clip for clip in own if clip.split == split] for split in ("val", "test")]
        chosen = next((some for some in splits if len(some) > 1), own)
        if len(chosen) > 1:
            title = f"{word.capitalize()} {value}"
            if not value:
                title = "Clips without an action" if words else "All clips"
            found.append(Group(title, tuple(clip.clip_id for clip in chosen)))
    return found[: config.actions]


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` of 0 ... count - 1, evenly spread, the first and last among them.

    >>> evenly(10, 4), evenly(2, 4)
    ([0, 3, 6, 9], [0, 1])
    """
    places = np.linspace(0, count - 1, wanted).round()
    return [int(place) for place in np.unique(places)]


def _read_curves(path: Path) -> list[dict[str, float]]:
    """The epochs of a training; a line that is torn ends them, and the log says so."""
    if not path.is_file():
        return []
    lines: list[dict[str, float]] = []
    text = path.read_bytes().decode(errors="replace")
    for row, line in enumerate(text.splitlines(), start=1):
        try:
            values: dict[str, Any] = read_json(line, allows_nan=True)
            kept = {
                key: float(value)
                for key, value in values.items()
                if isinstance(value, int | float) and math.isfinite(value)
            }
        except (ValueError, AttributeError, OverflowError) as error:
            log.warning("%s: line %d cannot be read (%s): curves end there", path, row, error)
            break
        lines.append(kept)
    return lines
