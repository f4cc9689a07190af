"""`evaluate all | compare | frozen | check | ...`: phase 3, embeddings to tables, without torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tokenreel.pipeline.cli import evaluate_pictures
from tokenreel.pipeline.cli.console import finish, new_app, run_app
from tokenreel.pipeline.text import say

if TYPE_CHECKING:
    from tokenreel.evaluate.commands.suite import SuiteReport

app = new_app(__doc__)

Jobs = Annotated[int, typer.Option(min=0, help="processors to use, 0 for all")]
Memory = Annotated[str, typer.Option(help="for embeddings and searches of all processes")]
Out = Annotated[Path, typer.Option(help="folder of the tables")]


@app.callback()
def group() -> None:
    """Phase 3: embeddings to metrics and tables, on a CPU and without torch."""


@app.command(name="all")
def evaluate_all(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="runs, folders of runs or embedding files, and key=value settings"),
    ] = None,
    *,
    out: Out = Path("results"),
    jobs: Jobs = 0,
    memory: Memory = "2GB",
) -> None:
    """Every metric of every run: results.csv, summary.csv, .md, .tex; run it again to go on."""
    from tokenreel.pipeline.phases.evaluation import evaluate_words

    _report(evaluate_words(words or [], out=out, jobs=jobs, memory=memory), out)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="a run, or a folder of its seeds")],
    second: Annotated[Path, typer.Argument(metavar="B", help="what may be better")],
    words: Annotated[list[str] | None, typer.Argument(help="key=value settings")] = None,
    *,
    resamples: Annotated[int, typer.Option(min=100, help="draws of clips")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="of the draws")] = 0,
    out: Annotated[Path | None, typer.Option(help="a CSV file of the table")] = None,
) -> None:
    """Is B better than A?  Each metric's gain with its 95 % interval over validation clips."""
    from tokenreel.pipeline.phases.evaluation import compare_words, format_differences

    found = compare_words(first, second, words or [], resamples=resamples, seed=seed, out=out)
    say(format_differences(found))
    if out is not None:
        say(f"table: {out}")


@app.command()
def frozen(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="a token store with labels")],
    words: Annotated[list[str] | None, typer.Argument(help="key=value settings")] = None,
    *,
    block: Annotated[
        list[int] | None, typer.Option(help="whose tokens, may be repeated; the store's last")
    ] = None,
    out: Out = Path("results/frozen"),
    jobs: Jobs = 0,
    memory: Memory = "2GB",
) -> None:
    """The control of every table: all metrics on frozen tokens, pooled by max, mean and CLS."""
    from tokenreel.pipeline.phases.evaluation import evaluate_frozen

    _report(
        evaluate_frozen(store, words or [], out=out, blocks=block, jobs=jobs, memory=memory), out
    )


@app.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(exists=True, help="HDF5 or .npz, as docs/embeddings.md lays it out"),
    ],
) -> None:
    """What an embedding file holds, what it lacks, and what is wrong with it."""
    from tokenreel.evaluate.commands.check import check_file

    found = check_file(file)
    for fact in found.facts:
        say(fact)
    for note in found.notes:
        say(f"note: {note}")
    for problem in found.problems:
        say(f"problem: {problem}")
    say("it can be evaluated" if found.is_good else f"{len(found.problems)} problem(s)")
    finish(0 if found.is_good else 3)


def _report(report: "SuiteReport", out: Path) -> NoReturn:
    say(report.summary)
    for problem in report.problems:
        say(f"problem: {problem}")
    say(f"tables: {out / 'results.csv'}, {out / 'summary.csv'}, summary.md, summary.tex")
    finish(report.exit_status)


evaluate_pictures.register(app)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
