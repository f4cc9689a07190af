"""`tokenreel demo | store | data | ...`: everything that is not one of the three phases."""

from pathlib import Path
from typing import Annotated

import typer

from tokenreel.pipeline.cli.console import finish, run_app, say

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
store_app = typer.Typer(help="Look at and check token stores.", no_args_is_help=True)
data_app = typer.Typer(help="Look at and check data sets.", no_args_is_help=True)
app.add_typer(store_app, name="store")
app.add_typer(data_app, name="data")

StorePath = Annotated[Path, typer.Argument(help="the store")]


@app.command()
def demo() -> None:
    """The main job on the embedded sample: render, extract, train, evaluate."""
    from tokenreel.pipeline.demo import run_demo

    finish(run_demo())


@store_app.command()
def info(store: StorePath) -> None:
    """What a store is: recipe, fingerprint, clips, frames."""
    from tokenreel.cache.reader import open_store

    opened = open_store(store)
    frames = sum(record.num_frames for record in opened.records.values())
    say(f"store        {opened.path}")
    say(f"fingerprint  {opened.fingerprint}")
    say(f"clips        {len(opened.records)}, {frames} frames, {opened.recipe.num_views} view(s)")
    for name, value in opened.recipe.model_dump(mode="json").items():
        say(f"{name:16} {value}")
    for name, value in sorted(opened.made_with.items()):
        say(f"made with {name}: {value}")


@store_app.command(name="ls")
def list_clips(store: StorePath) -> None:
    """The clips of a store, one a line."""
    from tokenreel.cache.reader import open_store

    for record in open_store(store).records.values():
        say(f"{record.clip_id}\t{record.split}\t{record.action}\t{record.num_frames}")


@store_app.command()
def verify(
    store: StorePath,
    *,
    deep: Annotated[bool, typer.Option(help="read and check every byte")] = False,
) -> None:
    """Check a store; ends with status 5 when something is missing or damaged."""
    from tokenreel.cache.integrity import verify_store

    report = verify_store(store, deep=deep)
    for problem in report.problems:
        say(f"{problem}")
    say(f"{store}: {len(report.problems)} problem(s)")
    finish(5 if report.problems else 0)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
