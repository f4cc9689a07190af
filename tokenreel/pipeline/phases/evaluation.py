"""Phase 3 as calls: words of the user -> embedding files and settings -> tables."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tokenreel.cache.files import make_directory, write_whole
from tokenreel.evaluate.commands.compare import Difference, compare_files
from tokenreel.evaluate.commands.frozen import pool_store
from tokenreel.evaluate.commands.suite import SuiteReport, evaluate_files
from tokenreel.evaluate.jobs.pool import num_processors
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.evaluate.tables.printed import Published
from tokenreel.pipeline.defaults import find_runs
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.recipes import RECIPES
from tokenreel.pipeline.text import format_table, parse_bytes


def evaluate_words(
    words: Sequence[str], *, out: Path, jobs: int = 0, memory: str = "2GB", progress: bool = True
) -> SuiteReport:
    """Evaluate what the words name.

    Args:
        words: runs, folders of runs or embedding files, and key=value settings.
        out: folder of the tables.
        jobs: processors to use, 0 for all of this process.
        memory: for all processes together, such as "2GB".
        progress: show a bar.

    Raises:
        UsageError: a word that means nothing.
    """
    memory_bytes = parse_bytes(memory)
    config, runs = split_words(words)
    return evaluate_files(
        runs,
        config=config,
        out=out,
        progress=progress,
        jobs=jobs or num_processors(),
        memory_bytes=memory_bytes,
        published=published_numbers(),
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
        blocks: whose tokens are pooled; the store's last when None.
        jobs: processors to use, 0 for all of this process.
        memory: for all processes together, such as "2GB".
        progress: show bars.

    Raises:
        UsageError: a wrong word, or a block that the store lacks.
    """
    apply_overrides(EvaluateConfig(), words, root="evaluate")  # wrong words first: pooling is slow
    parse_bytes(memory)
    files = pool_store(store, out, blocks=blocks, progress=progress)
    every = [*map(str, files), *words]
    return evaluate_words(every, out=out, jobs=jobs, memory=memory, progress=progress)


def split_words(words: Sequence[str]) -> tuple[EvaluateConfig, list[Path]]:
    """Settings and embedding files; every run below runs/ where no word names one."""
    settings = [word for word in words if "=" in word and not Path(word).exists()]
    config = apply_overrides(EvaluateConfig(), settings, root="evaluate")
    return config, find_runs([Path(word) for word in words if word not in settings])


def compare_words(
    first: Path,
    second: Path,
    words: Sequence[str],
    *,
    resamples: int,
    seed: int = 0,
    out: Path | None = None,
    progress: bool = True,
) -> list[Difference]:
    """Compare two runs, or two folders of runs, and write the table where `out` says.

    Raises:
        UsageError: a word that means nothing, or runs that cannot be compared.
    """
    config = apply_overrides(EvaluateConfig(), words, root="evaluate")
    found = compare_files(
        find_runs([first]),
        find_runs([second]),
        config=config,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    if out is not None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(
            [list(asdict(found[0])), *(asdict(difference).values() for difference in found)]
        )
        make_directory(out.parent)
        write_whole(out, text.getvalue().encode())
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
            f"{difference.low:+.4f} to {difference.high:+.4f}",
            f"{difference.p_value:.3f}",
            difference.num_clips,
            "real" if difference.is_real else "within chance",
        ]
        for difference in found
    ]
    notes = sorted(
        {f"{difference.task}: {difference.note}" for difference in found if difference.note}
    )
    about = (
        f"{found[0].num_resamples} paired draws of validation clips within each action; a run "
        "trained with another seed or data.seed varies besides: compare folders of several"
    )
    return "\n".join([format_table(header, rows), about, *notes])


def published_numbers() -> Mapping[str, Published]:
    """Recipe -> what its paper prints, of the recipes that have it, with all labels."""
    found = {
        name: {task: value for task, value in make().published.items() if "%" not in task}
        for name, make in RECIPES.items()
    }
    return {name: numbers for name, numbers in found.items() if numbers}
