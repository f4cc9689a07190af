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


@data_app.command()
def check(
    dataset: Annotated[str, typer.Argument(help="name of the data set")],
    words: Annotated[list[str] | None, typer.Argument(help="data.key=value")] = None,
    *,
    root: Annotated[Path | None, typer.Option(help="folder of the videos")] = None,
) -> None:
    """What a data set expects, what is there, how much of each split and class."""
    from tokenreel.pipeline.datasets import check_dataset
    from tokenreel.pipeline.extraction import data_options
    from tokenreel.pipeline.run import DATA

    options, _ = data_options(words or [])
    found = check_dataset(dataset, root or DATA / dataset, options)
    say(found.text())
    finish(0 if found.is_complete else 3)


@store_app.command()
def info(store: StorePath) -> None:
    """What a store is: recipe, fingerprint, clips, frames, versions."""
    from tokenreel.cache.maintenance import store_info
    from tokenreel.cache.reader import open_store

    say(store_info(store).table())
    for name, value in sorted(open_store(store).made_with.items()):
        say(f"made with       {name} {value}")


@store_app.command(name="ls")
def list_clips(store: StorePath) -> None:
    """The clips of a store, one a line: id, split, action, frames."""
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
    say(report.table())
    finish(report.exit_status)


@store_app.command()
def diff(first: StorePath, second: StorePath) -> None:
    """In which fields and clips two stores differ."""
    from tokenreel.cache.maintenance import diff_stores

    lines = diff_stores(first, second)
    say("\n".join(lines) or "no difference")


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
