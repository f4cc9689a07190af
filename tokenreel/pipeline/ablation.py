"""`fuse ablate`: the runs of a table trained together, evaluated, and printed beside the paper.

The words are tables, recipes, and `key=a,b,c` grids; a row is a recipe with one value of each grid,
a run is a row with one seed.
"""

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenreel.cache.errors import StoreError, UsageError
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.cache.reader import Store, open_store
from tokenreel.evaluate.config import EvaluateConfig
from tokenreel.evaluate.suite import evaluate_files
from tokenreel.fuse.needs import require_store
from tokenreel.fuse.sweep import Job, RunResult, train_together
from tokenreel.pipeline.ablation_table import Row, ablation_csv, format_ablation, values_of_rows
from tokenreel.pipeline.override import expand_grid, nearest
from tokenreel.pipeline.recipes import RECIPES, TABLES, get_recipe
from tokenreel.pipeline.run import EMBEDDINGS, RESULTS, RUNS, find_store
from tokenreel.pipeline.training import make_job

__all__ = ["AblationReport", "ablate", "plan_rows"]

log = logging.getLogger(__name__)

_Planned = tuple[Row, int, Job]  # row, seed, run


@dataclass(frozen=True)
class AblationReport:
    """What `fuse ablate` did.

    Attributes:
        text: the table.
        out: folder of the tables.
        problems: rows that were refused, runs that failed, data that could not be evaluated.
    """

    text: str
    out: Path
    problems: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """0, or 3 when there are problems."""
        return 3 if self.problems else 0


def plan_rows(words: Sequence[str]) -> list[Row]:
    """The rows that words ask for.

    Raises:
        UsageError: a word that is no table, recipe or `key=value`, or no recipe at all.
    """
    names: list[str] = []
    grids: list[str] = []
    for word in words:
        if "=" in word:
            grids.append(word)
        elif word in TABLES:
            names += TABLES[word]
        elif word in RECIPES:
            names.append(word)
        else:
            raise UsageError(
                f"no table or recipe {word!r}{nearest(word, [*TABLES, *RECIPES], count=3)} "
                f"(`fuse recipes` lists all {len(TABLES)} tables and {len(RECIPES)} recipes)"
            )
    if not names:
        raise UsageError(f"name a table or recipes to ablate (tables: {', '.join(TABLES)})")
    if any(grid.startswith("seed=") for grid in grids):
        raise UsageError("seed is not ablated: --seeds N trains each row with seeds 0 to N - 1")
    return [row for name in dict.fromkeys(names) for row in _rows_of(name, grids)]


def _rows_of(name: str, grids: Sequence[str]) -> list[Row]:
    recipe = get_recipe(name)
    if not recipe.fuse.optim.epochs:  # a row that trains nothing stays one under small settings
        grids = [grid for grid in grids if not grid.startswith("optim.epochs=")]
    values = [list(dict.fromkeys(expand_grid(recipe.fuse, grid))) for grid in grids]
    rows = []
    for words in itertools.product(*values):
        varied = [w for w, options in zip(words, values, strict=True) if len(options) > 1]
        label = " ".join([recipe.label or name, *varied])
        # A published number is of the recipe, not of another value of one of its fields.
        rows.append(Row(name, words, label, {} if varied else recipe.published))
    return rows


def ablate(
    words: Sequence[str],
    *,
    seeds: int,
    stores: Sequence[Path],
    out: Path | None = None,
    device: str = "auto",
    placement: str = "auto",
    progress: bool = True,
) -> AblationReport:
    """Train every row with every seed, evaluate, and make the table.

    A row that no store can feed is left out, and told; the others go on.  Typed again, it goes on
    where it was stopped.

    Args:
        words: tables, recipes and `key=a,b,c` grids.
        seeds: runs of a row, with seeds 0 to seeds - 1.
        stores: each row takes the first that has what it needs; the store of its recipe's data set
            in stores/ when there are none.
        out: folder of the tables and, in runs/, of the runs; results/<words> when None, and the
            runs are beside all others in runs/.
        device: "auto", "cpu" or "cuda".
        placement: where codes stay.
        progress: show bars.

    Raises:
        UsageError: words that mean nothing, or no row that the stores can feed.
    """
    rows = plan_rows(words)
    folder = out or RESULTS / "-".join(word for word in words if "=" not in word)
    jobs, problems = _plan_jobs(rows, seeds, stores, RUNS if out is None else out / "runs")
    results = train_together(
        [job for _, _, job in jobs], device=device, placement=placement, progress=progress
    )
    for one in results:
        if one.error is not None:
            problems.append(f"{one.path.name}: {str(one.error).removeprefix(f'{one.path.name}: ')}")
    if int(os.environ.get("RANK", "0")) > 0:  # of torchrun; the first process evaluates
        return AblationReport("", folder, tuple(problems))
    owners = {job.out.name: (row, seed) for row, seed, job in jobs}
    notes = _substitutes(jobs)
    text, left = _evaluate(rows, owners, results, folder, notes, progress=progress)
    return AblationReport(text, folder, (*problems, *left))


def _plan_jobs(
    rows: Sequence[Row], seeds: int, stores: Sequence[Path], folder: Path
) -> tuple[list[_Planned], list[str]]:
    """The runs of the rows that can be trained, and why the others cannot."""
    opened = {path: open_store(path) for path in stores}
    jobs: list[_Planned] = []
    problems: list[str] = []
    for row in rows:
        try:
            store, runs = _store_for(row, opened, folder)
            for seed in range(seeds):
                jobs += [
                    (row, seed, make_job(row.recipe, [*words, f"seed={seed}"], store=store,
                                         folder=folder))
                    for words in runs
                ]  # fmt: skip
        except (UsageError, StoreError) as error:
            problems.append(f"{row.label}: {error}")
    if not jobs:
        raise UsageError("no row can be trained:\n" + "\n".join(problems))
    for problem in problems:
        log.warning("left out: %s", problem)
    return jobs, problems


def _store_for(
    row: Row, stores: Mapping[Path, Store], folder: Path
) -> tuple[Path, list[list[str]]]:
    """The first store that has what a row needs, one of its own backbone before others.

    Returns:
        The store, and the words of each of the row's runs with one seed.
    """
    recipe = get_recipe(row.recipe)
    candidates = dict(stores)
    if not candidates:
        path = find_store(recipe.dataset)
        candidates = {path: open_store(path)}
    reasons = []
    for path in sorted(candidates, key=lambda path: not recipe.is_about(candidates[path].recipe)):
        try:
            runs = _words_of_runs(row, candidates[path])
            for words in runs:
                job = make_job(row.recipe, words, store=path, folder=folder)
                require_store(job.config, candidates[path])
        except UsageError as error:
            reasons.append(str(error))
            continue
        return path, runs
    raise UsageError("; ".join(reasons))


def _words_of_runs(row: Row, store: Store) -> list[list[str]]:
    """One run, or one for each action of the training clips where the recipe is of one action."""
    words = list(row.words)
    is_named = any(word.startswith("data.action=") for word in words)
    recipe = get_recipe(row.recipe)
    if not recipe.per_action or is_named:
        return [words]
    actions = sorted({clip.action for clip in store.select(split="train")} - {""})
    if not actions:
        raise UsageError(
            f"recipe {row.recipe} is one model for each action, the training clips of "
            f"{store.path} are of no known action: `extract run {recipe.dataset} --out STORE` of "
            "clips with actions makes one that has them"
        )
    return [[*words, f"data.action={action}"] for action in actions]


def _substitutes(jobs: Sequence[_Planned]) -> list[str]:
    """A sentence for rows that read another backbone than the published rows are about."""
    notes: dict[str, dict[str, None]] = {}
    for row, _, job in jobs:
        recipe, store = get_recipe(row.recipe), open_store(job.store)
        if not recipe.is_about(store.recipe):
            dataset = store.made_with.get("dataset") or recipe.dataset
            what = (
                f"read from {store.recipe.architecture} ({store.path.name}), not from "
                f"{recipe.backbone}: `extract run {dataset} "
                f"backbone={recipe.backbone} --out STORE` and a further --store STORE change that"
            )
            notes.setdefault(what, {})[row.label] = None
    return [f"{', '.join(labels)}: {what}" for what, labels in notes.items()]


def _evaluate(
    rows: Sequence[Row],
    owners: Mapping[str, tuple[Row, int]],
    results: Sequence[RunResult],
    folder: Path,
    notes: Sequence[str],
    *,
    progress: bool,
) -> tuple[str, list[str]]:
    """The table of the runs that did not fail, and what could not be evaluated."""
    good = [result.path for result in results if result.error is None]
    report = evaluate_files(
        [path / EMBEDDINGS for path in good], config=EvaluateConfig(), out=folder,
        progress=progress,
    )  # fmt: skip
    values, missing = values_of_rows(report.scores, owners)
    text = "\n".join([format_ablation(rows, values, report.scores, owners), *notes])
    make_directory(folder)
    write_whole(folder / "ablation.csv", ablation_csv(rows, values).encode())
    write_whole(folder / "ablation.txt", f"{text}\n".encode())
    return text, [*report.problems, *missing]
