"""Phase 3 as calls: words of the user -> embedding files and settings -> tables."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

from tokenreel.cache.embeddings import read_names, read_provenance
from tokenreel.cache.errors import EmbeddingFileError, StoreError, UsageError, limit_behind
from tokenreel.cache.files import make_directory, parse_bytes, write_whole
from tokenreel.cache.plugins import nearest
from tokenreel.cache.provenance import CHANGES, store_changes
from tokenreel.cache.read.store_reader import open_store
from tokenreel.evaluate.commands.compare import Difference, compare_files
from tokenreel.evaluate.commands.frozen import POOLS, pool_store
from tokenreel.evaluate.commands.suite import SuiteReport, evaluate_files
from tokenreel.evaluate.data.clips import file_sha256, load_screened
from tokenreel.evaluate.jobs.pool import num_processors
from tokenreel.evaluate.protocol import EvaluateConfig, settings_of
from tokenreel.evaluate.tables.printed import Published
from tokenreel.pipeline.defaults import code_version, find_runs, store_of_run
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes import RECIPES
from tokenreel.pipeline.recipes.base import protocol_of
from tokenreel.pipeline.text import format_table

log = logging.getLogger(__name__)

CHOOSE = "recipe="  # the word that chooses runs


def evaluate_words(
    words: Sequence[str],
    *,
    out: Path,
    jobs: int = 0,
    memory: str = "2GB",
    spreadsheet: bool = False,
    progress: bool = True,
) -> SuiteReport:
    """Evaluate what the words name.

    Args:
        words: runs, folders of runs or embedding files, and key=value settings.
        out: folder of the tables.
        jobs: processors to use, 0 for all of this process.
        memory: for all processes together, such as "2GB".
        spreadsheet: put an apostrophe before text in CSV that a spreadsheet would compute.
        progress: show a bar.

    Raises:
        UsageError: a word that means nothing.
    """
    memory_bytes = parse_bytes(memory)
    config, runs = split_words(words)
    for line in changed_stores(runs):
        log.warning("%s", line)
    return evaluate_files(
        runs,
        config=config,
        out=out,
        progress=progress,
        jobs=jobs or num_processors(),
        memory_bytes=memory_bytes,
        published=published_numbers(),
        spreadsheet=spreadsheet,
    )


def evaluate_frozen(
    store: Path,
    words: Sequence[str],
    *,
    out: Path,
    blocks: Sequence[int] | None = None,
    jobs: int = 0,
    memory: str = "2GB",
    progress: bool = True,
) -> SuiteReport:
    """Evaluate the frozen tokens of a store, pooled by max, mean and CLS.

    Args:
        store: a token store with labels.
        words: key=value settings.
        out: folder of the tables and of the embedding files.
        blocks: whose tokens are pooled; all of the store when None.
        jobs: processors to use, 0 for all of this process.
        memory: for all processes together, such as "2GB".
        progress: show bars.

    Raises:
        UsageError: a wrong word, or a block that the store lacks.
    """
    apply_overrides(EvaluateConfig(), words, root="evaluate")  # wrong words first: pooling is slow
    parse_bytes(memory)
    files = frozen_controls(store, out, blocks=blocks, progress=progress)
    every = [*map(str, files), *words]
    return evaluate_words(every, out=out, jobs=jobs, memory=memory, progress=progress)


def frozen_controls(
    store: Path,
    out: Path,
    *,
    blocks: Sequence[int] | None = None,
    pools: Sequence[str] = POOLS,
    progress: bool = True,
) -> list[Path]:
    """Embedding files of the frozen tokens of a store, evaluated as its runs are.

    Args:
        store: the store.
        out: folder of OUT/frozen-max/embeddings.h5 and so on.
        blocks: whose tokens are pooled; all of the store when None.
        pools: "max", "mean" and "cls".
        progress: show a bar.
    """
    provenance = {"commit": code_version(), "evaluate": dict(protocol_of(open_store(store)))}
    return pool_store(
        store,
        out,
        blocks=blocks,
        pools=pools,
        provenance=dict.fromkeys(pools, provenance),
        progress=progress,
    )


def split_words(words: Sequence[str]) -> tuple[EvaluateConfig, list[Path]]:
    """Settings and embedding files; every run below runs/ where no word names one.

    `recipe=NAME,...` keeps the runs of those recipes or run names, which may have * and ?.
    """
    settings = [word for word in words if "=" in word and not Path(word).exists()]
    chosen = [word for word in settings if word.startswith(CHOOSE)]
    rest = [word for word in settings if word not in chosen]
    config = apply_overrides(EvaluateConfig(), rest, root="evaluate")
    runs = find_runs([Path(word) for word in words if word not in settings])
    return config, choose_runs(runs, chosen)


def changed_stores(paths: Sequence[Path]) -> list[str]:
    """A sentence for each embedding file whose store has other clips or labels since it was made.

    Files are compared with the store where it is found, and with each other: files of one store
    that were made before and after its labels changed are evaluated on different labels.
    """
    lines: list[str] = []
    first: dict[str, tuple[Path, Mapping[str, object]]] = {}
    stores: dict[Path, dict[str, str]] = {}
    for path in paths:
        try:
            provenance = read_provenance(path)
        except (EmbeddingFileError, OSError):
            continue  # listed with its reason by the evaluation
        store = store_of_run(path.parent, provenance)
        if store is not None:
            if store not in stores:
                stores[store] = _digests_of(store)
            held_now = dict(stores[store])
            if provenance.get("model") == "frozen":  # which counts tags among its clips
                held_now.pop("store_clips_sha256", None)
            for what in store_changes(provenance, held_now):
                lines.append(
                    f"{path}: since it was made, {store} has {what}; `fuse embed` renews it"
                )
            continue
        name = str(provenance.get("store_fingerprint", ""))
        other, held = first.setdefault(name, (path, provenance))
        if name and CHANGES["store_labels_sha256"] in store_changes(held, provenance):
            lines.append(f"{path} and {other} were made with different labels of one store")
    return lines


def _digests_of(path: Path) -> dict[str, str]:
    """What provenance says of the clips and labels of a store; nothing where it is damaged."""
    try:
        store = open_store(path)
        return {
            "store_clips_sha256": store.clips_sha256,
            "store_labels_sha256": store.labels_sha256,
        }
    except StoreError:
        return {}


def choose_runs(paths: Sequence[Path], words: Sequence[str]) -> list[Path]:
    """The embedding files whose recipe or run is named by one of the words `recipe=NAME,...`.

    A file that cannot be read is kept, so that it is listed with its reason.

    Raises:
        UsageError: no run matches; the message has those that there are.
    """
    if not words:
        return list(paths)
    patterns = [name for word in words for name in word.removeprefix(CHOOSE).split(",")]
    found: list[Path] = []
    known: dict[str, None] = {}
    has_match = False
    for path in paths:
        try:
            names = read_names(path)
        except EmbeddingFileError:
            found.append(path)
            continue
        known |= dict.fromkeys(names)
        if any(fnmatchcase(name, pattern) for name in names for pattern in patterns):
            has_match = True
            found.append(path)
    if not has_match:
        some = ", ".join(list(known)[:12])
        near = nearest(patterns[0], known)
        raise UsageError(f"{' '.join(words)}: no such run{near} (there are: {some})")
    return found


def compare_words(
    first: str | Path,
    second: str | Path,
    words: Sequence[str],
    *,
    resamples: int,
    seed: int = 0,
    out: Path | None = None,
    progress: bool = True,
) -> tuple[list[Difference], list[str]]:
    """Compare two runs, or two folders of runs, and write the table where `out` says.

    Args:
        first: a run, a folder of runs, an embedding file, or recipe=NAME of runs/.
        second: what may be better.
        words: key=value settings, and recipe=NAME, which chooses among the runs of both.
        resamples: draws of clips.
        seed: of the draws.
        out: a CSV file of the table.
        progress: show a bar.

    Returns:
        The differences, and a sentence for each file that cannot be read and was left out.

    Raises:
        UsageError: a word that means nothing, or runs that cannot be compared.
        EmbeddingFileError: no file of a side can be read.
    """
    chosen = [word for word in words if word.startswith(CHOOSE)]
    rest = [word for word in words if word not in chosen]
    config = apply_overrides(EvaluateConfig(), rest, root="evaluate")
    problems: list[str] = []
    found = compare_files(
        _readable(_runs_of(first, chosen), problems),
        _readable(_runs_of(second, chosen), problems),
        config=config,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    if out is not None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        rows = [asdict(difference) | {"verdict": difference.verdict} for difference in found]
        writer.writerows([list(rows[0]), *(row.values() for row in rows)])
        make_directory(out.parent)
        write_whole(out, text.getvalue().encode())
    return found, problems


def _runs_of(side: str | Path, chosen: Sequence[str]) -> list[Path]:
    """The embedding files of a side of a comparison."""
    if str(side).startswith(CHOOSE) and not Path(side).exists():
        return choose_runs(find_runs([]), [str(side), *chosen])
    return choose_runs(find_runs([Path(side)]), chosen)


def _readable(paths: Sequence[Path], problems: list[str]) -> list[Path]:
    """The files that can be read; the reasons of the others are added to the problems.

    Raises:
        EmbeddingFileError: none can be read.
    """
    found = []
    for path in paths:
        try:
            settings_of(load_screened(path, file_sha256(path)).file, EvaluateConfig())
        except (EmbeddingFileError, OSError) as error:
            if limit := limit_behind(error):  # of all files
                raise limit from error
            problems.append(str(error))
        else:
            found.append(path)
    if not found:
        raise EmbeddingFileError("; ".join(problems))
    return found


def format_differences(found: Sequence[Difference]) -> str:
    """The comparison as a table for people, and what its numbers are."""
    header = ["metric", "A", "B", "B - A", "95 % interval", "p", "clips", ""]
    rows = [
        [
            difference.task,
            f"{difference.a:.4f}",
            f"{difference.b:.4f}",
            f"{difference.gain:+.4f}",
            f"{difference.low:+.4f} to {difference.high:+.4f}" if difference.is_decided else "-",
            f"{difference.p_value:.3f}" if difference.is_decided else "-",
            difference.num_clips,
            difference.verdict,
        ]
        for difference in found
    ]
    notes = sorted(
        {f"{difference.task}: {difference.note}" for difference in found if difference.note}
    )
    summary = (
        f"{found[0].num_resamples} paired draws of validation clips within each action; a run "
        "trained with another seed or data.seed varies besides: compare folders of several"
    )
    return "\n".join([format_table(header, rows), summary, *notes])


def published_numbers() -> Mapping[str, Published]:
    """Recipe -> what its paper prints, of the recipes that have it, with all labels."""
    found = {
        name: {task: value for task, value in make().published.items() if "%" not in task}
        for name, make in RECIPES.items()
    }
    return {name: numbers for name, numbers in found.items() if numbers}
