"""`evaluate all | compare | frozen | check | ...`: phase 3, embeddings to tables, without torch."""

from pathlib import Path
from typing import Annotated

import typer

from tokenreel.pipeline.cli import evaluate_pictures
from tokenreel.pipeline.cli.console import finish, run_app, say

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

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
    from tokenreel.pipeline.evaluation import evaluate_words

    report = evaluate_words(words or [], out=out, jobs=jobs, memory=memory)
    say(report.summary)
    for problem in report.problems:
        say(f"problem: {problem}")
    say(f"tables: {out / 'results.csv'}, {out / 'summary.csv'}, summary.md, summary.tex")
    finish(report.exit_status)


evaluate_pictures.register(app)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
