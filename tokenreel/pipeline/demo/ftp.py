"""`tokenreel demo ftp`: do processors that learned captions help where few clips have an action?

Renders clips with captions of four prompts, extracts maps by a small ViT of random weights, encodes
the captions, trains stage 1, and stage 2 with five clips of each action: on aligned processors, on
processors as they begin or that learned the captions of other clips, without processors, and the
encoder alone; three seeds each, with clips and weights of their own, and the same epochs.
Retrieval is of 64 clips that nothing is trained on.  Everything that is there is used again.
"""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import TokenReelError
from tokenreel.cache.files import write_whole
from tokenreel.cache.format.text_file import read_text_file, write_text_file
from tokenreel.cache.read.store_reader import open_store
from tokenreel.evaluate.commands.suite import SuiteReport, evaluate_files
from tokenreel.evaluate.data.results import MEAN
from tokenreel.evaluate.methods.pairs import chance_of_clips
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.report.data.gather import ReportConfig
from tokenreel.evaluate.tasks.paired import of_prompts
from tokenreel.pipeline.datasets.captioned import CAPTIONS, NAME
from tokenreel.pipeline.defaults import EMBEDDINGS, RESULTS, root_of
from tokenreel.pipeline.phases.extraction import extract_dataset
from tokenreel.pipeline.phases.reporting import report_scores
from tokenreel.pipeline.phases.texts import embed_dataset_texts
from tokenreel.pipeline.phases.training import apply_words, folder_name, make_job, train_jobs
from tokenreel.pipeline.recipes.captioned import (
    AFTER_SHUFFLED,
    ALIGN,
    ALIGNED,
    CAPTIONED,
    SHUFFLED,
    UNALIGNED,
)
from tokenreel.pipeline.text import format_table, say

if TYPE_CHECKING:  # torch
    from tokenreel.fuse.train.train import Job

SEEDS = (0, 1, 2)
MAPS = (
    "frames=uniform:8",
    "backbone=test_vit",
    "weights=random:0",
    "blocks=5",
    "image_size=64",
    "transform=stretch",
    "codec=fp16",
)
OF_DATA = ("data.train=", "data.val=", "data.test=")
TIMES_CHANCE = 10
DETAIL = "C"  # the prompt whose captions tell clips apart
COLUMNS = ("recipe", "label", "seeds", "metric", "mean", "sd", "chance")


def run_demo(words: Sequence[str] = ()) -> int:
    """Run the demo in the current folder.

    Args:
        words: `data.train=N`, `data.val=N` and `data.test=N`, numbers of clips; `encoder=NAME` of
            the texts; any other `key=value` changes all recipes.

    Returns:
        The exit status of the worst step.

    Raises:
        UsageError: a wrong word, before anything is rendered.
        TokenReelError: a run failed.
    """
    start = time.monotonic()
    of_data = [word for word in words if word.startswith(OF_DATA)]
    of_texts = [word for word in words if word.startswith("encoder=")]
    changes = [word for word in words if word not in [*of_data, *of_texts]]
    for name in CAPTIONED:
        apply_words(name, changes)
    out = RESULTS / folder_name(["demo-ftp", *words])
    say("1/4 render clips, and extract their maps by a small ViT of RANDOM weights")
    report, store = extract_dataset(NAME, [*MAPS, *of_data])
    say(report.table())
    report.require_reached()
    say("2/4 encode the captions of four prompts")
    texts, shuffled = _texts(out, [*of_texts, *of_data], store)
    say(f"3/4 train: {len(CAPTIONED)} recipes, {len(SEEDS)} seeds each")
    files = _train(store, changes, {ALIGN: texts, SHUFFLED: shuffled}, out / "runs")
    say("4/4 evaluate")
    every = [path for paths in files.values() for path in paths]
    tables = evaluate_files(every, config=EvaluateConfig(), out=out / "scores")
    measured = measure(tables, files)
    write_whole(out / "summary.csv", _csv([row.columns for row in measured]).encode())
    sentence = findings(measured)
    say(_format(measured))
    for problem in tables.problems:
        say(f"problem: {problem}")
    say(sentence)
    say(f"table: {out / 'summary.csv'}")
    others = [name for name in files if name not in (ALIGN, SHUFFLED, ALIGNED, UNALIGNED)]
    shown = [files[name][0] for name in (ALIGNED, UNALIGNED, *others)]  # the first two are compared
    page = ReportConfig(
        title="TokenReel: captions to actions", note=sentence, recipes=2, projection="tsne"
    )
    path = report_scores(shown, tables, out=out, config=page)
    say(f"done in {time.monotonic() - start:.0f} s")
    say(f"report: {path}")
    return tables.exit_status


def _texts(out: Path, words: Sequence[str], store: Path) -> tuple[Path, Path]:
    """The vectors of the captions, and those of which each training clip has another clip's."""
    texts, shuffled = out / "texts.h5", out / "shuffled.h5"
    embedded = embed_dataset_texts(NAME, words, root_of(NAME) / CAPTIONS, out=texts)
    for line in embedded.lines():
        say(line)
    held = read_text_file(texts)
    records = open_store(store).records
    trained = np.array([records[clip].split == "train" for clip in held.clip_ids])
    rows = held.rows.copy()
    places = np.flatnonzero(trained)
    rows[places] = held.rows[np.random.default_rng(0).permutation(places)]
    write_text_file(
        shuffled,
        clip_ids=held.clip_ids,
        prompts=held.prompts,
        texts=held.texts,
        pooled=held.pooled,
        rows=rows,
        provenance=held.provenance,
    )
    return texts, shuffled


def _train(
    store: Path, changes: Sequence[str], texts: Mapping[str, Path], folder: Path
) -> dict[str, list[Path]]:
    """The embedding files of each recipe, seed by seed: stage 1 first, then what begins from it.

    Raises:
        TokenReelError: a run failed.
    """

    def seeded(seed: int) -> list[str]:
        return [*changes, f"data.seed={seed}", f"seed={seed}"]

    def run(jobs: "Mapping[tuple[str, int], Job]") -> None:
        for (name, _), result in zip(jobs, train_jobs(list(jobs.values())), strict=True):
            if result.error is not None:
                raise TokenReelError(f"{result.path.name}: {result.error}")
            found.setdefault(name, []).append(result.path / EMBEDDINGS)

    found: dict[str, list[Path]] = {}
    first: dict[tuple[str, int], Job] = {}
    for name, path in texts.items():
        for seed in SEEDS:
            words = [*seeded(seed), f"texts={path}"]
            out = folder / f"{name}-seed{seed}"
            first[name, seed] = make_job(name, words, store=store, out=out)
    run(first)
    begins = {ALIGNED: ALIGN, AFTER_SHUFFLED: SHUFFLED}
    rest: dict[tuple[str, int], Job] = {}
    for name in [name for name in CAPTIONED if name not in texts]:
        for seed in SEEDS:
            source = begins.get(name)
            given = [] if source is None else [f"processors={first[source, seed].out}"]
            out = folder / f"{name}-seed{seed}"
            rest[name, seed] = make_job(name, [*seeded(seed), *given], store=store, out=out)
    run(rest)
    return found


@dataclass(frozen=True)
class Measured:
    """A metric of a recipe.

    Attributes:
        recipe: its name.
        metric: such as "top@1".
        values: of each seed.
        chance: what a guess has.
    """

    recipe: str
    metric: str
    values: tuple[float, ...]
    chance: float

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(self.values))

    @property
    def two_std(self) -> float:
        """Two standard deviations over seeds, ddof=0."""
        return 2 * float(np.std(self.values))

    @property
    def columns(self) -> dict[str, object]:
        """A row of summary.csv."""
        values = (
            self.recipe,
            CAPTIONED[self.recipe]().label,
            len(self.values),
            self.metric,
            f"{self.mean:.4f}",
            f"{self.two_std / 2:.4f}",
            f"{self.chance:.4f}",
        )
        return dict(zip(COLUMNS, values, strict=True))


def measure(tables: SuiteReport, files: Mapping[str, Sequence[Path]]) -> list[Measured]:
    """Accuracy of stage 2 with its chance, retrieval of stage 1 with its own."""
    found = {
        (score.run, score.task): score.value
        for score in tables.scores
        if score.action == MEAN and not score.is_clock
    }
    measured = []
    for name, paths in files.items():
        file, runs = read_embeddings(paths[0]), [path.parent.name for path in paths]
        if file.class_names:
            guess = 1 / len(file.class_names)
            metrics = {"top@1": guess, "mean-class": guess}
        else:
            chance = {
                data.prompt: chance_of_clips(data.numbers) for data in of_prompts(file, "val")
            }
            metrics = {f"t2v-{prompt}@1": value for prompt, value in chance.items()}
        for metric, value in metrics.items():
            values = tuple(found[run, metric] for run in runs)
            measured.append(Measured(name, metric, values, value))
    return measured


def findings(measured: Sequence[Measured]) -> str:
    """What the rows show, in words, whatever they show."""
    by = {(row.recipe, row.metric): row for row in measured}
    one, two = by[ALIGNED, "top@1"], by[UNALIGNED, "top@1"]
    gain, spread = one.mean - two.mean, max(one.two_std, two.two_std)
    verdict = "larger than both spreads" if gain > spread else "NOT larger than both spreads"
    found = by[ALIGN, f"t2v-{DETAIL}@1"]
    lost = by[SHUFFLED, f"t2v-{DETAIL}@1"]
    times, other = found.mean / found.chance, lost.mean / lost.chance
    reached = "at least" if times >= TIMES_CHANCE else "NOT"
    return (
        f"With five clips of each action, aligned processors have {100 * one.mean:.1f} +- "
        f"{100 * one.two_std:.1f} % of the clips right, unaligned ones {100 * two.mean:.1f} +- "
        f"{100 * two.two_std:.1f} %: a gain of {100 * gain:.1f}, {verdict}.  A caption of prompt "
        f"{DETAIL} finds its clip first in {100 * found.mean:.1f} % of the cases, {times:.1f} "
        f"times chance ({reached} {TIMES_CHANCE} times); after shuffled captions {other:.1f} times."
    )


def _format(measured: Sequence[Measured]) -> str:
    """The rows as a table for people."""
    lines = [
        [
            CAPTIONED[row.recipe]().label,
            row.metric,
            f"{100 * row.mean:.1f} +- {100 * row.two_std:.1f}",
            f"{100 * row.chance:.1f}",
        ]
        for row in measured
    ]
    return format_table(["", "metric", "% +- 2 std", "chance"], lines)


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
