"""`evaluate all | ...`: phase 3, embeddings to tables, on a CPU and without torch."""

from pathlib import Path
from typing import Annotated

import typer

from tokenreel.pipeline.cli import evaluate_pictures
from tokenreel.pipeline.cli.console import finish, run_app, say

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


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
    out: Annotated[Path, typer.Option(help="folder of the tables")] = Path("results"),
) -> None:
    """Every metric of every run: results.csv, summary.csv, and the summary on the screen."""
    from tokenreel.evaluate.config import EvaluateConfig
    from tokenreel.evaluate.suite import evaluate_files
    from tokenreel.pipeline.override import apply_overrides
    from tokenreel.pipeline.run import find_runs

    given = words or []
    settings = [word for word in given if "=" in word and not Path(word).exists()]
    config = apply_overrides(EvaluateConfig(), settings, root="evaluate")
    runs = find_runs([Path(word) for word in given if word not in settings])
    report = evaluate_files(runs, config=config, out=out)
    say(report.summary)
    for problem in report.problems:
        say(f"problem: {problem}")
    say(f"tables: {out / 'results.csv'}, {out / 'summary.csv'}")
    finish(report.exit_status)


evaluate_pictures.register(app)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
