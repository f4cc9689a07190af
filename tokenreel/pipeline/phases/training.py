"""Phase 2 as calls: words of the user -> recipes and stores -> runs."""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.canonical import field_differences
from tokenreel.cache.errors import UsageError
from tokenreel.cache.files import entries_of
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.evaluate.jobs.pool import num_processors
from tokenreel.fuse.config import SystemConfig
from tokenreel.fuse.runs.provenance import read_config, read_provenance
from tokenreel.pipeline.defaults import EMBEDDINGS, RUNS, code_version, find_store
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes import get_recipe
from tokenreel.pipeline.recipes.base import protocol_of

if TYPE_CHECKING:  # torch: imported once every word is known to be right
    from tokenreel.fuse.train.train import Job, RunResult

log = logging.getLogger(__name__)

LONGEST_NAME = 120  # of a run or table; file systems take 255


Stores = Path | Mapping[str, Path]  # one store, or several by name


def parse_stores(words: Sequence[str]) -> Stores | None:
    """The words of --store: PATH, or NAME=PATH once for each store of a set; None without any.

    Raises:
        UsageError: several without names, or a name that is given twice.

    >>> {name: str(path) for name, path in parse_stores(["frames=a", "clips=b"]).items()}
    {'frames': 'a', 'clips': 'b'}
    """
    named = [word.partition("=") for word in words]
    is_named = [bool(equals) and name.isidentifier() for name, equals, _ in named]
    if not words:
        return None
    if len(words) == 1 and (not is_named[0] or Path(words[0]).exists()):
        return store_path(words[0])
    if not all(is_named):
        given = " ".join(f"--store {word}" for word in words)
        raise UsageError(f"{given}: of several stores each has a name, --store frames=PATH")
    names = [name for name, _, _ in named]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--store {twice[0]}=PATH is given twice: give each store its own name")
    return {name: store_path(path) for name, _, path in named}


def parse_store_list(words: Sequence[str]) -> list[Stores]:
    """The words of --store of a table: each PATH is a store, all NAME=PATH together are one set.

    Raises:
        UsageError: a name that is given twice.

    >>> parse_store_list(["s", "frames=a", "clips=b"])[0].name
    's'
    """
    named = [word for word in words if word.partition("=")[0].isidentifier() and "=" in word]
    named = [word for word in named if not Path(word).exists()]
    plain: list[Stores] = [store_path(word) for word in words if word not in named]
    stores = parse_stores(named)
    return plain if stores is None else [*plain, stores]


def joined(stores: Stores) -> StoreSet:
    """The stores, opened.

    Raises:
        UsageError: several that do not hold the same clips and units; the first three differences.
    """
    return StoreSet(stores if isinstance(stores, Mapping) else {"tokens": stores})


def first_store(stores: Stores) -> Path:
    """The store that gives splits, actions and labels."""
    return next(iter(stores.values())) if isinstance(stores, Mapping) else stores


def train_recipe(
    name: str,
    words: Sequence[str],
    *,
    store: Stores | None = None,
    out: Path | None = None,
    device: str = "auto",
    placement: str = "auto",
    memory_bytes: int | None = None,
    progress: bool = True,
) -> "RunResult":
    """Train a recipe on a store and write the embeddings of every split.

    Args:
        name: name of the recipe.
        words: `key=value` changes of the recipe.
        store: the store, or several by name; that of the recipe's data set in stores/ when None.
        out: folder of the run; runs/<recipe>[-changes]-seed<seed> when None.
        device: "auto", "cpu" or "cuda".
        placement: where codes are kept: "disk", "ram", "gpu" or "auto".
        memory_bytes: most that codes may take in memory, None for half of what is available.
        progress: show bars.
    """
    if store is not None:
        joined(store)  # a wrong path is found before torch is imported
    job = make_job(name, words, store=store, out=out)
    config = recorded_config(job)
    from tokenreel.fuse.train.train import train

    return train(
        config,
        store=job.store,
        out=job.out,
        device=device,
        placement=placement,
        memory_bytes=memory_bytes,
        progress=progress,
        provenance=job.provenance,
    )


def train_jobs(jobs: "Sequence[Job]") -> "list[RunResult]":
    """Train or resume runs by all processors: on a CPU each in a process with one thread.

    On a GPU, and with one processor, they train in lock-step.  Each run ends with the bytes of the
    same run trained alone.

    Args:
        jobs: the runs, each in its own folder; those that take longest are best last.

    Returns:
        One result for each job, in order; a run that failed has its error.
    """
    jobs = [replace(job, config=recorded_config(job)) for job in jobs]
    processes = num_processors()
    from tokenreel.fuse.distributed.join import find_device

    if processes == 1 or find_device("auto").type != "cpu":
        from tokenreel.fuse.train.train import train_together

        return train_together(jobs)
    from tokenreel.fuse.train.processes import train_in_processes

    return train_in_processes(jobs[::-1], processes=processes)[::-1]


def recorded_config(job: "Job") -> SystemConfig:
    """The config of a job; that of its folder's run where an earlier version ran the same command.

    The defaults of a recipe may change with a version.  A run that the same recipe with the same
    changes began before is resumed as it began, and a warning lists the fields that differ.
    """
    if not (job.out / "run.json").exists():
        return job.config
    former = read_provenance(job.out)
    if former.get("recipe") != job.provenance["recipe"]:
        return job.config
    held = read_config(job.out, former)
    asked = job.config.for_stores(joined(job.store))
    rows = field_differences(held.model_dump(mode="json"), asked.model_dump(mode="json"))
    if not rows or held.seed != asked.seed or held.first_runs != asked.first_runs:
        return job.config
    table = ", ".join(f"{name} {here!r} (now {there!r})" for name, here, there in rows)
    log.warning(
        "%s was begun by an earlier version of recipe %s and keeps its fields: %s; for those of "
        "this version give another --out",
        job.out,
        job.provenance["recipe"].partition(" ")[0],
        table,
    )
    return held


def make_job(
    name: str,
    words: Sequence[str],
    *,
    store: Stores | None = None,
    out: Path | None = None,
    folder: Path = RUNS,
    pending: Collection[Path] = (),
) -> "Job":
    """The run that a recipe and its changes describe.

    Args:
        name: of the recipe.
        words: `key=value` changes of its fuse config.
        store: the store, or several by name; that of the recipe's data set in stores/ when None.
        out: folder of the run; one below `folder` that is named for it when None.
        folder: of all runs.
        pending: folders of runs that will be trained before this one.

    Raises:
        UsageError: as configure_run, or no store of the data set.
    """
    chosen = get_recipe(name)
    apply_words(name, words)
    if store is None and not chosen.dataset:
        raise UsageError(f"system {name} has no data set: give --store")
    path = store or find_store(chosen.dataset)
    config = configure_run(name, words, folder=folder, pending=pending)
    from tokenreel.fuse.train.train import Job

    changes = [word for word in words if not word.startswith("seed=")]
    return Job(
        config,
        path,
        out or folder / run_name(name, words, config.seed),
        {
            "recipe": " ".join([name, *sorted(changes)]),
            "commit": code_version(),
            "evaluate": dict(chosen.evaluate or protocol_of(open_store(first_store(path)))),
        },
    )


def configure_run(
    name: str, words: Sequence[str], *, folder: Path = RUNS, pending: Collection[Path] = ()
) -> SystemConfig:
    """The config of a recipe with its changes, and the run that gives its first weights.

    Args:
        name: of the recipe.
        words: `key=value` changes of its fuse config.
        folder: of all runs.
        pending: folders of runs that will be trained before this one.

    Raises:
        UsageError: a wrong word, a recipe whose first weights come from a run that is not there,
            or one model for each action without `data.action`.
    """
    chosen = get_recipe(name)
    config = apply_words(name, words)
    if chosen.per_action and config.data.action is None:
        raise UsageError(
            f"recipe {name} is one model for each action: type `fuse train {name} "
            f"data.action=ACTION`, or `fuse ablate {name}` for all of them"
        )
    if chosen.begins_from and config.init is None:
        first = _run_to_begin_from(
            name, chosen.begins_from, words, config.seed, (folder, RUNS), pending
        )
        config = config.with_(init=str(first))
    if chosen.first_runs and not config.first_runs:
        runs = [
            str(_run_to_begin_from(name, source, given, config.seed, (folder, RUNS), pending))
            for source, given in words_of_first_runs(name, words)
        ]
        config = config.beginning_from(tuple(runs))
    return config


def words_of_first_runs(name: str, words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The recipes whose runs give parts of the first weights of another, each with its words.

    Args:
        name: of the other recipe.
        words: `key=value` changes of it; those that its first runs share come after their own.
    """
    chosen = get_recipe(name)
    shared = type(chosen.fuse).words_of_first_runs(list(words))
    keys = {word.partition("=")[0] for word in shared}
    own = [word for word in chosen.first_words if word.partition("=")[0] not in keys]
    found = []
    for source in chosen.first_runs:
        default = get_recipe(source).fuse
        changed = [word for word in own if apply_words(source, [word]) != default]
        found.append((source, [*changed, *shared]))
    return found


def apply_words(name: str, words: Sequence[str]) -> SystemConfig:
    """The config of a recipe with `key=value` changes.

    Raises:
        UsageError: a wrong word, or model=frozen of earlier versions; the command that replaces it.
    """
    if frozen := [word for word in words if word.startswith("model=fro")]:
        raise UsageError(f"{frozen[0]}: nothing is trained; type `evaluate frozen STORE`")
    if "model=mvformer" in words:
        log.warning("model=mvformer: every recipe is of that model, leave the word out")
    words = [word for word in words if word != "model=mvformer"]
    config = get_recipe(name).fuse
    others = [word for word in words if word.startswith("system=")]
    if others and others != [f"system={config.system}"]:
        other = others[0].removeprefix("system=")
        raise UsageError(
            f"{others[0]}: recipe {name} is of {config.system}: type `fuse train {other}`"
        )
    return apply_overrides(config, words, root="fuse")


def _run_to_begin_from(
    name: str,
    source: str,
    words: Sequence[str],
    seed: int,
    folders: Sequence[Path],
    pending: Collection[Path] = (),
) -> Path:
    """The run whose weights another recipe begins from, of the same seed.

    One of the same words comes first, then one of the same but for `optim`, such as fewer epochs,
    then the recipe as it is.  Without words it is the recipe as it is alone.
    """
    changes = [word for word in words if not word.startswith("seed=")]
    same, plain = run_name(source, changes, seed), run_name(source, [], seed)
    near = [run for folder in folders for run in entries_of(folder, f"{source}-*-seed{seed}")]
    wanted = _without_optim([source, *changes])
    alike = (run for run in near if changes and _model_words(run) == wanted)
    for run in chain((path / same for path in folders), alike, (path / plain for path in folders)):
        if run in pending or (run / "checkpoint.pt").exists():
            log.info("%s begins from %s", name, run)
            return run
    raise UsageError(
        f"recipe {name} starts from a run of {source}, and {folders[0] / same} has no "
        f"checkpoint: type `fuse train {' '.join([source, *changes, f'seed={seed}'])}` first, or "
        f"name another run with `fuse train {name} init=RUN`"
    )


def _model_words(run: Path) -> set[str]:
    """The recipe of a run and its changes but those of the optimiser."""
    is_run = (run / "run.json").exists()
    return _without_optim(str(read_provenance(run).get("recipe")).split()) if is_run else set()


def _without_optim(words: Sequence[str]) -> set[str]:
    return {word for word in words if not word.startswith("optim.")}


def run_name(name: str, words: Sequence[str], seed: int) -> str:
    """Default name of the folder of a run.

    >>> run_name("sample", ["optim.lr=0.1", "seed=3"], 3)
    'sample-optim.lr=0.1-seed3'
    """
    changes = sorted(word.replace("/", "_") for word in words if not word.startswith("seed="))
    return f"{folder_name([name, *changes])}-seed{seed}"


def folder_name(words: Sequence[str]) -> str:
    """Words as the name of a folder; one that is too long for a file system is cut.

    >>> folder_name(["carl-penn", "sample"])
    'carl-penn-sample'
    """
    stem = "-".join(words)
    if len(stem) <= LONGEST_NAME:
        return stem
    return f"{stem[:LONGEST_NAME]}-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"


def embed_with(
    run: Path,
    store: Stores,
    *,
    out: Path | None = None,
    device: str = "auto",
    progress: bool = True,
) -> tuple[Path, list[str]]:
    """Embed a store with a trained run; RUN/embeddings-<first store>.h5 when `out` is None.

    Returns:
        The file, and a sentence for each damaged clip that was left out.
    """
    read_provenance(run)  # wrong paths are found before torch is imported
    joined(store)
    from tokenreel.fuse.distributed.join import find_device
    from tokenreel.fuse.embed.embed import embed_run

    target = out or run / f"{Path(EMBEDDINGS).stem}-{first_store(store).resolve().name}.h5"
    return target, embed_run(run, store, target, device=find_device(device), progress=progress)
