"""`fuse ablate`: the runs of a table trained together, evaluated, and printed beside the paper.

The words are tables, recipes, and `key=a,b,c` grids; a row is a recipe with one value of each grid,
a run is a row with one seed.
"""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreel.cache.bucket.path import require_disk, store_path
from tokenreel.cache.errors import StoreError, TokenReelError, UsageError
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.cache.plugins import nearest
from tokenreel.cache.read.store_reader import Store, open_store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.fuse.systems.base import (
    num_parameters,
    require_stores,
    shapes_of_stores,
    system_of,
)
from tokenreel.pipeline.defaults import EMBEDDINGS, RESULTS, RUNS, dataset_of, find_store
from tokenreel.pipeline.override import expand_grid
from tokenreel.pipeline.phases.ablation_table import (
    AblationRow,
    ablation_csv,
    format_ablation,
    format_splits,
    values_of_rows,
)
from tokenreel.pipeline.phases.evaluation import frozen_controls
from tokenreel.pipeline.phases.training import (
    Stores,
    apply_words,
    configure_run,
    folder_name,
    joined,
    make_job,
    words_of_first_runs,
)
from tokenreel.pipeline.recipes import CONTROLS, FROZEN_CONTROLS, RECIPES, TABLES, get_recipe

if TYPE_CHECKING:
    from tokenreel.fuse.train.train import Job, RunResult

log = logging.getLogger(__name__)

_Planned = tuple[AblationRow, int, "Job"]  # row, seed, run
Trainer = Callable[[Sequence["Job"]], "list[RunResult]"]


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


def ablate(
    words: Sequence[str],
    *,
    seeds: int,
    stores: Sequence[Stores],
    splits: bool = False,
    out: Path | None = None,
    device: str = "auto",
    placement: str = "auto",
    memory_bytes: int | None = None,
    progress: bool = True,
    train: Trainer | None = None,
) -> AblationReport:
    """Train every row with every seed, evaluate, and make the table.

    A row that no store can feed is left out and reported; the others are trained.  Rerun to resume.
    With splits, a row is the mean over the splits of a data set, whose values are below the table;
    one that failed on a split has no mean.

    Args:
        words: tables, recipes and `key=a,b,c` grids.
        seeds: runs of a row, with seeds 0 to seeds - 1.
        stores: each row takes the first that has what it needs, of its own data set and backbone
            before others; several by name are one, for rows that read several; the store of its
            recipe's data set in stores/ when there are none.
        splits: the stores are splits of one data set, every row is trained on each.
        out: folder of the tables and, in runs/, of the runs; results/<words> when None, and the
            runs are beside all others in runs/.
        device: "auto", "cpu" or "cuda".
        placement: where codes stay.
        memory_bytes: most that codes may take in memory, None for half of what is available.
        progress: show bars.
        train: of the runs, in the place of this process; the three arguments before count for it.

    Raises:
        UsageError: words that mean nothing, or no row that the stores can feed.
        TokenReelError: every run failed; why each did.
    """
    rows = plan_rows(words)
    folder = folder_of_table(words, out)
    parts = split_stores(stores) if splits else {"": list(stores)}
    if train is None:
        train = partial(
            _train_here,
            device=device,
            placement=placement,
            memory_bytes=memory_bytes,
            progress=progress,
        )
    first, wrong = runs_of_first_weights(rows, seeds, parts, out)
    if first:
        log.info("%d runs give first weights to the rows", len(first))
        for result in train(first):
            wrong += [f"{result.path.name}: {result.error}"] if result.error is not None else []
    jobs, reasons = runs_of_rows(rows, seeds, parts, out)
    problems = list(dict.fromkeys([*wrong, *reasons]))
    notes = substitutes(jobs)
    rows, jobs, same = name_backbones(rows, jobs)
    for problem in same:
        log.warning("left out: %s", problem)
    problems += same
    controls = {row.recipe: row for row in rows if row.recipe in CONTROLS}
    frozen = _store_of_tokens(jobs[0][2]) if controls.keys() & FROZEN_CONTROLS else None
    results = train([job for _, _, job in jobs])
    for result in results:
        if result.error is not None:
            name = result.path.name
            problems.append(f"{name}: {str(result.error).removeprefix(f'{name}: ')}")
    if all(result.error is not None for result in results):
        raise TokenReelError("no run ended, there is no table:\n" + "\n".join(problems))
    if int(os.environ.get("RANK", "0")) > 0:  # of torchrun; the first process evaluates
        return AblationReport("", folder, tuple(problems))
    files = [one.path / EMBEDDINGS for one in results if one.error is None]
    owners = {job.out.name: (row, seed) for row, seed, job in jobs}
    owners |= {name: (row, 0) for name, row in controls.items()}
    if frozen is not None:
        files += frozen_controls(frozen, folder, progress=progress)
    report = evaluate_files(files, config=EvaluateConfig(), out=folder, progress=progress)
    done = owners
    lacking: list[str] = []
    if splits:
        done, lacking = rows_on_every_split(jobs, {path.parent for path in files}, len(parts))
    values, missing = values_of_rows(report.scores, done)
    counts = count_parameters(jobs)
    table = format_ablation(rows, values, report.scores, owners, counts=counts)
    make_directory(folder)
    every = list(rows)
    if splits:
        parted = rows_of_splits(jobs)
        of_runs = {job.out.name: (parted[row][split_of(job)], n) for row, n, job in jobs}
        more, _ = values_of_rows(report.scores, of_runs)
        notes = [*format_splits(parted, more), *notes]
        values |= more
        every += [part for own in parted.values() for part in own.values()]
    text = "\n".join([table, *notes])
    write_whole(folder / "ablation.csv", ablation_csv(every, values, counts=counts).encode())
    write_whole(folder / "ablation.txt", f"{text}\n".encode())
    return AblationReport(text, folder, (*problems, *lacking, *report.problems, *missing))


def _train_here(jobs: Sequence["Job"], **options: Any) -> "list[RunResult]":
    from tokenreel.fuse.train.train import train_together  # torch: every word and store is right

    return train_together(jobs, **options)


def folder_of_table(words: Sequence[str], out: Path | None = None) -> Path:
    """Where the files of a table are.

    Raises:
        UsageError: a place on a bucket.

    >>> folder_of_table(["controls", "optim.epochs=2"]).as_posix()
    'results/controls'
    """
    if out is not None:
        require_disk(store_path(out), "tables and runs")
    return out or RESULTS / folder_name([word for word in words if "=" not in word])


def runs_of_first_weights(
    rows: Sequence[AblationRow],
    seeds: int,
    parts: Mapping[str, Sequence[Stores]],
    out: Path | None,
) -> tuple[list["Job"], list[str]]:
    """The runs that give first weights to rows, on every split, and why some cannot be.

    Args:
        rows: of the table.
        seeds: runs of a row.
        parts: the stores of each split.
        out: folder of the table and its runs; None for the folder of all runs.
    """
    found: list[Job] = []
    wrong: list[str] = []
    for name, own in parts.items():
        jobs, reasons = plan_first_runs(rows, seeds, own, _folder_of_runs(out) / name)
        found += jobs
        wrong += reasons
    return found, wrong


def runs_of_rows(
    rows: Sequence[AblationRow],
    seeds: int,
    parts: Mapping[str, Sequence[Stores]],
    out: Path | None,
    pending: Collection[Path] = (),
) -> tuple[list[_Planned], list[str]]:
    """The runs of the rows, on every split, and why some rows cannot be trained.

    Args:
        rows: of the table.
        seeds: runs of a row.
        parts: the stores of each split.
        out: folder of the table and its runs; None for the folder of all runs.
        pending: folders of runs that will be trained before these.

    Raises:
        UsageError: no row can be trained.
    """
    found: list[_Planned] = []
    wrong: list[str] = []
    for name, own in parts.items():
        planned, reasons = plan_jobs(rows, seeds, own, _folder_of_runs(out) / name, pending)
        found += [(row, seed, of_split_run(job, name)) for row, seed, job in planned]
        wrong += reasons
    return found, wrong


def _folder_of_runs(out: Path | None) -> Path:
    return RUNS if out is None else out / "runs"


def split_stores(stores: Sequence[Stores]) -> dict[str, list[Stores]]:
    """The stores of a data set's splits, by the name of their folder.

    Raises:
        UsageError: fewer than two, sets of stores, two of one name, of other tokens than the
            first's, or two with the same splits of clips.
    """
    paths = [path for path in stores if isinstance(path, Path)]
    found: dict[str, list[Stores]] = {path.resolve().name: [path] for path in paths}
    if len(paths) < 2 or len(found) < len(stores):
        raise UsageError(
            "--splits averages over the splits of a data set, a store each: give --store PATH for "
            f"two or more, in folders of different names (given {len(stores)})"
        )
    opened = {path: open_store(path) for path in paths}
    by_split: dict[frozenset[tuple[str, str]], Path] = {}
    for path, store in opened.items():
        if store.identity != opened[paths[0]].identity:
            raise UsageError(
                f"--splits: {path} and {paths[0]} hold tokens of different recipes: `tokenreel "
                f"store diff {paths[0]} {path}` lists them"
            )
        split = frozenset((record.clip_id, record.split) for record in store.records.values())
        if split in by_split:
            raise UsageError(
                f"--splits: {path} and {by_split[split]} have the same splits of clips: give one "
                f"its own by `tokenreel store relabel {path} data.split=N`"
            )
        by_split[split] = path
    return found


def of_split_run(job: "Job", name: str) -> "Job":
    """The run of a row on a split, in a folder of another name than those on the others.

    Args:
        job: on its store.
        name: of the split; "" where there are none.
    """
    if not name:
        return job
    recipe = f"{job.provenance['recipe']} split={name}"
    out = job.out.with_name(f"{job.out.name}-{name}")
    return replace(job, out=out, provenance={**job.provenance, "recipe": recipe})


def split_of(job: "Job") -> str:
    """The name of the split of a run."""
    return job.out.parent.name


def rows_on_every_split(
    jobs: Sequence[_Planned], ended: Collection[Path], num_splits: int
) -> tuple[dict[str, tuple[AblationRow, int]], list[str]]:
    """The runs that have a mean over the splits, and a sentence for each row and seed without.

    Args:
        jobs: of all splits.
        ended: folders of the runs that did not fail.
        num_splits: of the data set.

    Returns:
        Name of a run -> its row and seed, where all runs of both ended on every split.
    """
    groups: dict[tuple[AblationRow, int], list[Job]] = {}
    for row, seed, job in jobs:
        groups.setdefault((row, seed), []).append(job)
    found: dict[str, tuple[AblationRow, int]] = {}
    lacking: list[str] = []
    for (row, seed), runs in groups.items():
        failed = {split_of(job) for job in runs if job.out not in ended}
        count = len({split_of(job) for job in runs} - failed)
        if count == num_splits:
            found |= {job.out.name: (row, seed) for job in runs}
        else:
            lacking.append(
                f"{row.label}, seed {seed}: no mean over the splits, it ended on {count} of "
                f"{num_splits}"
            )
    return found, lacking


def rows_of_splits(jobs: Sequence[_Planned]) -> dict[AblationRow, dict[str, AblationRow]]:
    """Row -> split -> the row of that split alone, without published values."""
    found: dict[AblationRow, dict[str, AblationRow]] = {}
    for row, _, job in jobs:
        name = split_of(job)
        label = f"{row.label}, {name}"
        found.setdefault(row, {}).setdefault(
            name, replace(row, label=label, published={}, caveat="")
        )
    return found


def _store_of_tokens(job: "Job") -> Path:
    """The first store of a run that keeps tokens, for the controls that are pooled from them.

    Raises:
        UsageError: none does.
    """
    stores = list(StoreSet(dict(job.stores)).values())
    for store in stores:
        if store.identity.blocks:
            return store.path
    stores[0].require_tokens()
    raise AssertionError("require_tokens takes a store without blocks")


def count_parameters(jobs: Sequence[_Planned]) -> dict[AblationRow, int]:
    """Parameters that each row trains, counted on its model for its stores; 0 where none is."""
    found: dict[AblationRow, int] = {}
    sets: dict[Hashable, StoreSet] = {}
    for row, _, job in jobs:
        if row in found:
            continue
        if job.stores not in sets:
            sets[job.stores] = StoreSet(dict(job.stores))
        config = job.config.for_stores(sets[job.stores])
        shapes = shapes_of_stores(sets[job.stores], config)
        counts = num_parameters(config, shapes) if config.optim.epochs else {}
        found[row] = sum(counts.values())
    return found


def read_stores(jobs: Sequence[_Planned]) -> dict[AblationRow, Store]:
    """The store that each row reads; of several the first that it reads."""
    found: dict[AblationRow, Store] = {}
    sets: dict[Hashable, StoreSet] = {}
    for row, _, job in jobs:
        if row in found:
            continue
        if job.stores not in sets:
            sets[job.stores] = StoreSet(dict(job.stores))
        stores = sets[job.stores]
        found[row] = stores.first
        if len(stores) > 1:
            found[row] = stores[next(iter(system_of(job.config).wanted(job.config, stores)))]
    return found


def plan_rows(words: Sequence[str]) -> list[AblationRow]:
    """The rows that words describe.

    Raises:
        UsageError: a word that is no table, recipe or `key=value`, no recipe at all, a key that
            is given twice, or a value that every recipe refuses.
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
        elif word in CONTROLS:
            get_recipe(word)  # says what to type instead
        else:
            raise UsageError(
                f"no table or recipe {word!r}{nearest(word, [*TABLES, *RECIPES], count=3)} "
                f"(`fuse recipes` lists all {len(TABLES)} tables and {len(RECIPES)} recipes)"
            )
    if not names:
        raise UsageError(f"name a table or recipes to ablate (tables: {', '.join(TABLES)})")
    keys = [grid.partition("=")[0] for grid in grids]
    if "seed" in keys:
        raise UsageError("seed is not ablated: --seeds N trains each row with seeds 0 to N - 1")
    if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise UsageError(f"{twice[0]} is given twice: {twice[0]}=a,b is a row of each value")
    rows = [row for name in dict.fromkeys(names) for row in _rows_of(name, grids)]
    _require_words(rows)
    labels = Counter(row.label for row in rows)  # a method has a row on each data set
    return [
        replace(row, label=f"{row.label} ({row.recipe})") if labels[row.label] > 1 else row
        for row in rows
    ]


def _require_words(rows: Sequence[AblationRow]) -> None:
    """Raise for a word that no row takes; a row that refuses what others take is left out later."""
    reasons: dict[AblationRow, str] = {}
    for row in [row for row in rows if row.recipe not in CONTROLS]:
        try:
            apply_words(row.recipe, row.words)
        except UsageError as error:
            reasons[row] = str(error)
    for word in dict.fromkeys(word for row in rows for word in row.words):
        having = [row for row in rows if word in row.words]
        if all(row in reasons for row in having):
            raise UsageError("\n".join(dict.fromkeys(reasons[row] for row in having)))


def _rows_of(name: str, grids: Sequence[str]) -> list[AblationRow]:
    if name in CONTROLS:
        return [AblationRow(name, (), name, {})]
    recipe = get_recipe(name)
    if not recipe.fuse.is_trained:  # a row that trains nothing stays one under small settings
        grids = [grid for grid in grids if not grid.startswith("optim.epochs=")]
    values = [list(dict.fromkeys(expand_grid(recipe.fuse, grid))) for grid in grids]
    rows = []
    for words in itertools.product(*values):
        varied = [w for w, options in zip(words, values, strict=True) if len(options) > 1]
        label = " ".join([recipe.label or name, *varied])
        # A published number is of the recipe, not of another value of one of its fields.
        published = {} if varied else recipe.published
        caveat = recipe.caveat if published else ""
        rows.append(
            AblationRow(name, words, label, published, caveat, recipe.spread, recipe.parameters)
        )
    return rows


def plan_jobs(
    rows: Sequence[AblationRow],
    seeds: int,
    stores: Sequence[Stores],
    folder: Path,
    pending: Collection[Path] = (),
) -> tuple[list[_Planned], list[str]]:
    """The runs of the rows that can be trained, and why the others cannot.

    Args:
        rows: of the table.
        seeds: runs of a row, with seeds 0 to seeds - 1.
        stores: that may feed rows; the one of a recipe's data set in stores/ when there are none.
        folder: of the runs.
        pending: folders of runs that will be trained before these.

    Raises:
        UsageError: no row can be trained; why each cannot.
    """
    opened = [(one, joined(one)) for one in stores]
    jobs: list[_Planned] = []
    refused: dict[str, list[str]] = {}
    for row in rows:
        if row.recipe in CONTROLS:  # nothing to train
            continue
        try:
            store, runs = _store_for(row, opened, folder, pending)
            for seed in range(seeds):
                for words in runs:
                    own = [*words, f"seed={seed}"]
                    job = make_job(row.recipe, own, store=store, folder=folder, pending=pending)
                    jobs.append((row, seed, job))
        except (UsageError, StoreError) as error:
            refused.setdefault(str(error), []).append(row.label)
    problems = [f"{_named(labels, len(rows))}: {why}" for why, labels in refused.items()]
    if not jobs:
        raise UsageError("no row can be trained:\n" + "\n".join(problems))
    for problem in problems:
        log.warning("left out: %s", problem)
    return jobs, problems


def plan_first_runs(
    rows: Sequence[AblationRow], seeds: int, stores: Sequence[Stores], folder: Path
) -> tuple[list["Job"], list[str]]:
    """The runs that give parts of the first weights of rows, each once, and why some cannot be.

    Args:
        rows: of the table.
        seeds: runs of a row.
        stores: that may feed them; that of the row's data set in stores/ when there are none.
        folder: of the runs.
    """
    found: dict[Path, Job] = {}
    problems: dict[str, None] = {}
    for row in [row for row in rows if row.recipe not in CONTROLS]:
        if not get_recipe(row.recipe).first_runs or apply_words(row.recipe, row.words).first_runs:
            continue
        for source, words in words_of_first_runs(row.recipe, row.words):
            try:
                given = stores or [find_store(get_recipe(row.recipe).dataset)]
                wanted = AblationRow(source, tuple(words), source, {})
                store, _ = _store_for(wanted, [(one, joined(one)) for one in given], folder)
            except (UsageError, StoreError) as error:
                problems[f"{source}: {error}"] = None
                continue
            for seed in range(seeds):
                own = [*words, f"seed={seed}"]
                job = make_job(source, own, store=store, folder=folder)
                found.setdefault(job.out, job)
    return list(found.values()), list(problems)


def _store_for(
    row: AblationRow,
    stores: Sequence[tuple[Stores, StoreSet]],
    folder: Path,
    pending: Collection[Path] = (),
) -> tuple[Stores, list[list[str]]]:
    """The first store, or set, that has what a row needs, of its data set and backbone first.

    Returns:
        The store, and the words of each of the row's runs with one seed.
    """
    recipe = get_recipe(row.recipe)
    candidates = list(stores)
    if not candidates:
        path = find_store(recipe.dataset)
        candidates = [(path, joined(path))]
    reasons = []

    def strangeness(candidate: tuple[Stores, StoreSet]) -> tuple[bool, bool]:
        store = candidate[1].first
        return dataset_of(store) != recipe.dataset, not recipe.is_on_its_backbone(store.identity)

    for given, opened in sorted(candidates, key=strangeness):
        try:
            runs = _words_of_runs(row, opened.first)
            for words in runs:
                config = configure_run(row.recipe, words, folder=folder, pending=pending)
                require_stores(config, opened)
        except UsageError as error:
            reasons.append(str(error))
            continue
        return given, runs
    raise UsageError("; ".join(reasons))


def _words_of_runs(row: AblationRow, store: Store) -> list[list[str]]:
    """One run, or one for each action of the training clips where the recipe is of one action."""
    recipe = get_recipe(row.recipe)
    if not recipe.per_action:
        return [list(row.words)]
    words = [word for word in row.words if word != "data.action=null"]  # of all, one by one
    if any(word.startswith("data.action=") for word in words):
        return [words]
    actions = sorted({clip.action for clip in store.select(split="train")} - {""})
    if not actions:
        raise UsageError(
            f"recipe {row.recipe} is one model for each action, the training clips of "
            f"{store.path} are of no known action: `extract run {recipe.dataset} --out STORE` of "
            "clips with actions makes one that has them"
        )
    return [[*words, f"data.action={action}"] for action in actions]


def name_backbones(
    rows: Sequence[AblationRow], jobs: Sequence[_Planned]
) -> tuple[list[AblationRow], list[_Planned], list[str]]:
    """Name rows by the backbone that feeds them, where it is not the published one.

    Rows of two backbones that become one and the same run, because one store feeds both, are run
    once: as the row of the store's own backbone, else of its kind, else the first.

    Returns:
        The rows and runs of the table, and a sentence for each row that is not run.
    """
    identity = {row: store.identity for row, store in read_stores(jobs).items()}
    recipes = {row: get_recipe(row.recipe) for row in identity}
    strange = {row for row in identity if not recipes[row].is_on_its_backbone(identity[row])}
    runs: dict[AblationRow, list[object]] = {}
    for row, _, job in jobs:
        runs.setdefault(row, []).append((str(job.first_store), job.config.model_dump_json()))
    alike: dict[str, list[AblationRow]] = {}
    for row, own in runs.items():
        alike.setdefault(repr(own), []).append(row)
    problems: list[str] = []
    dropped: set[AblationRow] = set()
    for group in alike.values():
        kept = min(
            group, key=lambda row: (row in strange, not recipes[row].is_of_kind(identity[row]))
        )
        for row in group:
            if row in strange and recipes[row].backbone != recipes[kept].backbone:
                dropped.add(row)
                problems.append(
                    f"{row.label}: not run: it is of {recipes[row].backbone}; on "
                    f"{identity[row].architecture} it is the same run as {kept.label}"
                )
    named = {
        row: replace(row, label=recipes[row].label_on(row.label, identity[row]))
        for row in strange - dropped
    }
    labels = Counter(named.get(row, row).label for row in rows)
    for row, new in named.items():
        if labels[new.label] > 1:
            named[row] = replace(new, label=f"{new.label} ({row.recipe})")
    kept_jobs = [(named.get(row, row), seed, job) for row, seed, job in jobs if row not in dropped]
    return [named.get(row, row) for row in rows], kept_jobs, problems


def substitutes(jobs: Sequence[_Planned]) -> list[str]:
    """A sentence for rows that are on another data set or backbone than the published ones.

    Rows are called as in the paper.
    """
    notes: dict[str, dict[str, None]] = {}
    wanted: dict[tuple[Path, str], dict[str, tuple[int, ...]]] = {}
    stores: dict[Path, Store] = {}
    for row, store in read_stores(jobs).items():
        recipe = get_recipe(row.recipe)
        stores[store.path] = store
        if row.published and dataset_of(store) != recipe.dataset:
            what = f"published on {recipe.dataset}, here on {dataset_of(store) or 'another'}"
            notes.setdefault(f"{what} ({store.path.name})", {})[row.label] = None
        if not recipe.is_on_its_backbone(store.identity):
            rows = wanted.setdefault((store.path, recipe.backbone), {})
            rows[row.label] = recipe.fuse.named_blocks
    for (path, backbone), rows in wanted.items():
        notes[_other_backbone(stores[path], backbone, rows.values())] = dict.fromkeys(rows)
    every = len({row.label for row, _, _ in jobs})
    return [f"{_named(list(labels), every)}: {what}" for what, labels in notes.items()]


def _named(labels: Sequence[str], every: int) -> str:
    return "all rows" if len(labels) == every > 1 else "; ".join(labels)


def _other_backbone(store: Store, backbone: str, blocks: Iterable[tuple[int, ...]]) -> str:
    named = sorted({block for some in blocks for block in some})
    some = [block for block in named if block >= 0] or named  # 11 is the last as well
    words = f"backbone={backbone}" + (f" blocks={','.join(map(str, some))}" if some else "")
    return (
        f"read from {store.identity.architecture} ({store.path.name}), not from {backbone}: `"
        f"extract run {dataset_of(store) or 'DATASET'} {words} --out STORE` and a further "
        "--store STORE change that"
    )
