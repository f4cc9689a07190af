"""`tokenreel demo stan`: what each stream of STAN can tell, on rendered trailers.

Renders the trailers, finds their scenes, extracts a store for each stream, trains two streams, each
alone, both without the order of the scenes (no positions, shuffled scenes) and without a
transformer, three seeds each with the same epochs, and compares them with controls that see no
video.  Tags show in appearance, in motion or in the order of scenes (`datasets/trailers.py`).

The spatial stream is a small ViT of random weights on the centre frames.  The temporal stream is a
stand-in, `motion:gradients`: random 3D CNNs do not see motion.  Everything that is there is used
again.
"""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddingFile, read_embeddings, write_embeddings
from tokenreel.cache.errors import TokenReelError
from tokenreel.cache.files import write_whole
from tokenreel.cache.read.store_reader import open_store
from tokenreel.evaluate.commands.suite import SuiteReport, evaluate_files
from tokenreel.evaluate.methods.tags import Ranking
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.report.data.gather import ReportConfig
from tokenreel.evaluate.tables.summary import CONTROL, Row, summarise
from tokenreel.pipeline.datasets.trailers import NAME, TAGS
from tokenreel.pipeline.defaults import EMBEDDINGS, RESULTS
from tokenreel.pipeline.phases.extraction import extract_dataset
from tokenreel.pipeline.phases.reporting import report_scores
from tokenreel.pipeline.phases.scenes import scenes_of_dataset
from tokenreel.pipeline.phases.training import apply_words, folder_name, make_job, train_jobs
from tokenreel.pipeline.recipes.trailers import SMALL, TRAILERS
from tokenreel.pipeline.text import format_table, say

SEEDS = (0, 1, 2)
STORES = {  # stream -> words of its extraction
    "spatial": ("backbone=test_vit", "blocks=5", "transform=stretch"),
    "temporal": ("backbone=motion:gradients", "blocks=0"),
}
COMMON = ("weights=random:0", "image_size=80", "codec=fp16")
RANDOM, LENGTH = "random", "length"  # controls
NEAR = 1  # scenes: clips of nearly the same number, for the control `length`
GROUPS = tuple(dict.fromkeys(TAGS.values()))
WANTED_AT_CHANCE = (  # recipe, group of tags that it cannot tell
    (f"{SMALL}-spatial", "motion"),
    (f"{SMALL}-temporal", "appearance"),
    (f"{SMALL}-no-positions", "order"),
    (f"{SMALL}-shuffled", "order"),
)
PERMUTATIONS, QUANTILE = 500, 0.975  # of chance
COLUMNS = (
    "recipe",
    "kind",
    "seeds",
    "map",
    "map_macro",
    "map_sd",
    "params",
    "status",
    "reason",
)

Floats = NDArray[np.float64]


def run_demo(words: Sequence[str] = ()) -> int:
    """Run the demo in the current folder.

    Args:
        words: `data.train=N` and `data.val=N`, numbers of trailers; any other `key=value` changes
            all recipes.

    Returns:
        The exit status of the worst step.

    Raises:
        UsageError: a wrong word, before anything is rendered.
        TokenReelError: the run of two streams failed.
    """
    start = time.monotonic()
    of_data = [word for word in words if word.startswith(("data.train=", "data.val="))]
    changes = [word for word in words if word not in of_data]
    for name in TRAILERS:
        apply_words(name, changes)
    out = RESULTS / folder_name(["demo-stan", *words])
    say("1/4 render trailers and find their scenes")
    found, scenes = scenes_of_dataset(NAME, of_data)
    say(found.table())
    if found.exit_status:
        raise SystemExit(found.exit_status)
    say("2/4 extract: a small ViT of RANDOM weights, and gradients in place of a 3D CNN")
    stores: dict[str, Path] = {}
    for stream, backbone in STORES.items():
        report, stores[stream] = extract_dataset(
            NAME, [f"frames=scenes:{scenes}", *backbone, *COMMON, *of_data]
        )
        report.require_reached()
        if report.exit_status:
            say(report.table())
            raise SystemExit(report.exit_status)
    say(f"3/4 train: {len(TRAILERS)} recipes, {len(SEEDS)} seeds each")
    files, problems = _train(stores, changes, out / "runs")
    say("4/4 evaluate")
    controls = write_controls(read_embeddings(files[0]), num_scenes(stores), out / "controls")
    tables = evaluate_files([*files, *controls], config=EvaluateConfig(), out=out / "scores")
    rows = summary_rows(tables, problems, files)
    write_whole(out / "summary.csv", _csv(COLUMNS, rows).encode())
    tags = tag_rows([read_embeddings(path) for path in [*files, *controls]])
    write_whole(out / "tags.csv", _csv(tuple(tags[0].columns), [r.columns for r in tags]).encode())
    count = len(held_out(read_embeddings(files[0]))[0])
    sentence = findings(summarise(tables.scores), tags, count=count)
    say(format_groups(rows, tags))
    for problem in [*problems.values(), *tables.problems]:
        say(f"problem: {problem}")
    say(sentence)
    say(f"tables: {out / 'summary.csv'}, {out / 'tags.csv'}")
    shown = [path for path in files if path.parent.name.endswith(f"seed{SEEDS[0]}")]
    page = ReportConfig(title="TokenReel: scenes to tags", note=sentence)
    path = report_scores([*shown, *controls], tables, out=out, config=page)
    say(f"done in {time.monotonic() - start:.0f} s")
    say(f"report: {path}")
    return 3 if problems else tables.exit_status


def _train(
    stores: Mapping[str, Path], changes: Sequence[str], folder: Path
) -> tuple[list[Path], dict[str, str]]:
    """The embedding files, those of two streams first; of recipes that failed, why.

    Raises:
        TokenReelError: a run of two streams failed.
    """
    jobs = [
        make_job(name, [*changes, f"seed={seed}"], store=stores, folder=folder)
        for name in TRAILERS
        for seed in SEEDS
    ]
    names = [name for name in TRAILERS for _ in SEEDS]
    results = train_jobs(jobs)
    problems: dict[str, str] = {}
    for name, result in zip(names, results, strict=True):
        if result.error is not None:
            problems[name] = f"{result.path.name}: {result.error}"
    if SMALL in problems:
        raise TokenReelError(problems[SMALL])
    return [r.path / EMBEDDINGS for r in results if r.error is None], problems


def num_scenes(stores: Mapping[str, Path]) -> dict[str, int]:
    """Clip -> its number of scenes."""
    records = open_store(next(iter(stores.values()))).records
    return {clip_id: record.num_frames for clip_id, record in records.items()}


def write_controls(like: EmbeddingFile, scenes: Mapping[str, int], folder: Path) -> list[Path]:
    """Embedding files of controls that see no video, with the clips and tags of a run's file.

    `random` says every tag of every clip.  `length` knows the number of scenes: a tag has the share
    of the training clips of nearly as many scenes that have it.

    Args:
        like: embeddings of a run.
        scenes: clip -> number of scenes.
        folder: of FOLDER/NAME/embeddings.h5.
    """
    train = [clip for clip in like.clips if clip.split == "train"]
    lengths = np.array([scenes[clip.clip_id] for clip in train])
    targets = np.stack([clip.targets for clip in train]).astype(np.float64)
    shares = {}
    for count in {scenes[clip.clip_id] for clip in like.clips}:
        near = np.abs(lengths - count) <= NEAR
        shares[count] = (targets[near].sum(axis=0) + targets.mean(axis=0)) / (near.sum() + 1)
    every = np.ones(len(like.class_names))
    made = {RANDOM: dict.fromkeys(shares, every), LENGTH: shares}
    paths = []
    for name, scores in made.items():
        clips = [
            replace(clip, embeddings=scores[scenes[clip.clip_id]].astype(np.float32)[None])
            for clip in like.clips
        ]
        provenance = {key: like.provenance[key] for key in ("dataset", "evaluate")}
        names = {"run": name, "recipe": name, "model": "control"}
        path = folder / name / EMBEDDINGS
        write_embeddings(
            path,
            clips,
            provenance=provenance | names,
            unit=like.unit,
            class_names=like.class_names,
        )
        paths.append(path)
    return paths


def summary_rows(
    tables: SuiteReport, problems: Mapping[str, str], files: Sequence[Path]
) -> list[dict[str, object]]:
    """The rows of summary.csv: recipes in their order, then controls.

    `map_sd` is the standard deviation over seeds, with ddof=0.
    """
    found = {row.recipe.partition(" ")[0]: row for row in summarise(tables.scores)}
    counts = _parameters(files)
    rows: list[dict[str, object]] = []
    for name in [*TRAILERS, *(name for name in found if name not in TRAILERS)]:
        row = found.get(name)
        is_trained = name in TRAILERS
        failed = problems.get(name, "")
        rows.append(
            {
                "recipe": name,
                "kind": "trained" if is_trained else CONTROL,
                "seeds": row.num_seeds if row is not None and is_trained else 0,
                "map": _number(row, "map"),
                "map_macro": _number(row, "map-macro"),
                "map_sd": f"{np.std(row.values['map']):.4f}" if row and is_trained else "",
                "params": counts.get(name, 0 if not is_trained else ""),
                "status": "failed" if failed else "ok",
                "reason": failed,
            }
        )
    return rows


def _number(row: Row | None, task: str) -> str:
    return "" if row is None else f"{row.mean(task):.4f}"


def _parameters(files: Sequence[Path]) -> dict[str, int]:
    """Recipe -> its trained parameters."""
    from tokenreel.fuse.runs.checkpoint import load_checkpoint
    from tokenreel.fuse.runs.provenance import read_provenance

    counts: dict[str, int] = {}
    for path in files:
        name = str(read_provenance(path.parent)["recipe"]).partition(" ")[0]
        if name not in counts:
            state = load_checkpoint(path.parent / "checkpoint.pt")["model"]
            counts[name] = sum(tensor.numel() for tensor in state.values())
    return counts


@dataclass(frozen=True)
class TagRow:
    """Average precision of a tag, of all runs of a recipe.

    Attributes:
        recipe: its name.
        tag: the tag.
        told_by: appearance, motion or order.
        values: of each seed.
        chance: share of the held-out clips that have the tag.
    """

    recipe: str
    tag: str
    told_by: str
    values: tuple[float, ...]
    chance: float

    @property
    def columns(self) -> dict[str, object]:
        """A row of tags.csv."""
        return {
            "recipe": self.recipe,
            "tag": self.tag,
            "told_by": self.told_by,
            "seeds": len(self.values),
            "average_precision": f"{np.mean(self.values):.4f}",
            "sd": f"{np.std(self.values):.4f}",
            "chance": f"{self.chance:.4f}",
        }


def tag_rows(files: Sequence[EmbeddingFile]) -> list["TagRow"]:
    """Average precision of each tag on the held-out clips, by recipe."""
    found: dict[str, list[Floats]] = {}
    shares: Floats = np.zeros(0)
    for file in files:
        targets, scores = held_out(file)
        shares = targets.mean(axis=0)
        name = str(file.provenance["recipe"]).partition(" ")[0]
        found.setdefault(name, []).append(Ranking(targets, scores).average_precision())
    return [
        TagRow(name, tag, TAGS[tag], tuple(float(v[place]) for v in values), float(shares[place]))
        for name, values in found.items()
        for place, tag in enumerate(files[0].class_names)
    ]


def held_out(file: EmbeddingFile) -> tuple[Floats, Floats]:
    """Targets and scores of the clips that are not trained on, (n, K) each."""
    clips = [clip for clip in file.clips if clip.split == "val"]
    targets = np.stack([clip.targets for clip in clips]).astype(np.float64)
    return targets, np.concatenate([clip.embeddings for clip in clips]).astype(np.float64)


def group_means(tags: Sequence[TagRow], recipe: str, group: str) -> Floats:
    """Mean average precision of the tags of a group, of each seed of a recipe."""
    rows = [row.values for row in tags if (row.recipe, row.told_by) == (recipe, group)]
    return np.mean(rows, axis=0) if rows else np.zeros(0)


def chance_of(shares: Sequence[float], count: int) -> float:
    """The mean average precision that scores drawn at random stay below, in 97.5 of 100 draws.

    Args:
        shares: of the clips that have each tag.
        count: of the clips.
    """
    rng = np.random.default_rng(0)
    targets = np.zeros((count, len(shares)))
    for column, share in enumerate(shares):
        targets[: round(share * count), column] = 1
    draws = [
        float(np.nanmean(Ranking(targets, rng.random(targets.shape)).average_precision()))
        for _ in range(PERMUTATIONS)
    ]
    return float(np.quantile(draws, QUANTILE))


def findings(rows: Sequence[Row], tags: Sequence[TagRow], *, count: int) -> str:
    """What the rows say: who is first in mAP, and which group of tags a row cannot tell.

    Args:
        rows: of the tables.
        tags: average precision of each tag.
        count: of the held-out clips.
    """
    by_name = {row.recipe.partition(" ")[0]: row for row in rows}
    others = {n: r for n, r in by_name.items() if n != SMALL and r.values.get("map")}
    next_name = max(others, key=lambda name: others[name].mean("map"))
    ours, best = by_name[SMALL], others[next_name]
    spreads = [row.two_std("map", 0) for row in (ours, best)]
    gap = ours.mean("map") - best.mean("map")
    wide = max(0.0, *(spread for spread in spreads if spread == spread))
    where = "above" if gap > wide else "below" if gap < -wide else "level with"
    parts = [
        f"In this run two streams ({SMALL}) have a mAP of {_spread(ours)}, {where} the best other "
        f"row, {next_name}, of {_spread(best)}."
    ]
    for recipe, group in WANTED_AT_CHANCE:
        values = group_means(tags, recipe, group)
        if not len(values):
            continue
        shares = [row.chance for row in tags if (row.recipe, row.told_by) == (recipe, group)]
        limit = chance_of(shares, count)
        is_chance = float(values.mean()) <= limit
        parts.append(
            f"{TRAILERS[recipe]().label.capitalize()}: {values.mean():.2f} on tags of {group}, "
            f"{'no better than' if is_chance else 'ABOVE'} chance (up to {limit:.2f})."
        )
    return " ".join(parts)


def _spread(row: Row) -> str:
    two = row.two_std("map", 0)
    return f"{row.mean('map'):.3f}" + (f" +- {two:.3f}" if two == two else "")


def format_groups(rows: Sequence[Mapping[str, object]], tags: Sequence[TagRow]) -> str:
    """The table of the console: mAP, and the tags of each group."""
    lines = []
    for row in rows:
        name = str(row["recipe"])
        cells = []
        for group in GROUPS:
            values = group_means(tags, name, group)
            cells.append(f"{values.mean():.3f}" if len(values) else "-")
        spread = f" +- {2 * float(str(row['map_sd'])):.3f}" if row["map_sd"] else ""
        lines.append([name, row["seeds"], f"{row['map']}{spread}", *cells, row["params"]])
    head = ["recipe", "seeds", "mAP +- 2 std", *GROUPS, "parameters"]
    return format_table(head, lines)


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
