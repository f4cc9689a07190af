"""`fuse ablate`: the runs of a table trained together, evaluated, and printed beside the paper.

The words are tables, recipes, and `key=a,b,c` grids; a row is a recipe with one value of each grid,
a run is a row with one seed.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreel.cache.errors import TokenReelError
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.pipeline.defaults import EMBEDDINGS, RESULTS, RUNS
from tokenreel.pipeline.phases.ablation_plan import plan_jobs, plan_rows, substitutes
from tokenreel.pipeline.phases.ablation_table import (
    Row,
    ablation_csv,
    format_ablation,
    values_of_rows,
)
from tokenreel.pipeline.phases.training import folder_name

if TYPE_CHECKING:
    from tokenreel.fuse.train.train import RunResult

__all__ = ["AblationReport", "ablate"]


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
    stores: Sequence[Path],
    out: Path | None = None,
    device: str = "auto",
    placement: str = "auto",
    memory_bytes: int | None = None,
    progress: bool = True,
) -> AblationReport:
    """Train every row with every seed, evaluate, and make the table.

    A row that no store can feed is left out, and told; the others go on.  Typed again, it goes on
    where it was stopped.

    Args:
        words: tables, recipes and `key=a,b,c` grids.
        seeds: runs of a row, with seeds 0 to seeds - 1.
        stores: each row takes the first that has what it needs, of its own data set and backbone
            before others; the store of its recipe's data set in stores/ when there are none.
        out: folder of the tables and, in runs/, of the runs; results/<words> when None, and the
            runs are beside all others in runs/.
        device: "auto", "cpu" or "cuda".
        placement: where codes stay.
        memory_bytes: most that codes may take in memory, None for half of what is available.
        progress: show bars.

    Raises:
        UsageError: words that mean nothing, or no row that the stores can feed.
        TokenReelError: every run failed; why each did.
    """
    rows = plan_rows(words)
    folder = out or RESULTS / folder_name([word for word in words if "=" not in word])
    jobs, problems = plan_jobs(rows, seeds, stores, RUNS if out is None else out / "runs")
    from tokenreel.fuse.train.train import train_together

    results = train_together(
        [job for _, _, job in jobs],
        device=device,
        placement=placement,
        memory_bytes=memory_bytes,
        progress=progress,
    )
    for one in results:
        if one.error is not None:
            problems.append(f"{one.path.name}: {str(one.error).removeprefix(f'{one.path.name}: ')}")
    if all(one.error is not None for one in results):
        raise TokenReelError("no run ended, there is no table:\n" + "\n".join(problems))
    if int(os.environ.get("RANK", "0")) > 0:  # of torchrun; the first process evaluates
        return AblationReport("", folder, tuple(problems))
    owners = {job.out.name: (row, seed) for row, seed, job in jobs}
    notes = substitutes(jobs)
    text, left = _evaluate(rows, owners, results, folder, notes, progress=progress)
    return AblationReport(text, folder, (*problems, *left))


def _evaluate(
    rows: Sequence[Row],
    owners: Mapping[str, tuple[Row, int]],
    results: Sequence["RunResult"],
    folder: Path,
    notes: Sequence[str],
    *,
    progress: bool,
) -> tuple[str, list[str]]:
    """The table of the runs that did not fail, and what could not be evaluated."""
    good = [result.path for result in results if result.error is None]
    report = evaluate_files(
        [path / EMBEDDINGS for path in good],
        config=EvaluateConfig(),
        out=folder,
        progress=progress,
    )
    values, missing = values_of_rows(report.scores, owners)
    text = "\n".join([format_ablation(rows, values, report.scores, owners), *notes])
    make_directory(folder)
    write_whole(folder / "ablation.csv", ablation_csv(rows, values).encode())
    write_whole(folder / "ablation.txt", f"{text}\n".encode())
    return text, [*report.problems, *missing]
