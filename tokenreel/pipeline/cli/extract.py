"""`extract run | plan | show | retry`: phase 1, video to token store."""

from pathlib import Path
from typing import Annotated

import typer

from tokenreel.pipeline.cli.console import finish, run_app, say

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.callback()
def group() -> None:
    """Phase 1: video to token store."""


Dataset = Annotated[str, typer.Argument(help="name of the data set: folder, sample, finegym, ...")]
Words = Annotated[
    list[str] | None, typer.Argument(help="key=value of the extraction, data.key=value of the data")
]
Root = Annotated[Path | None, typer.Option(help="folder of the videos")]
Out = Annotated[Path | None, typer.Option(help="the store; by default named in stores/")]


@app.command()
def run(
    dataset: Dataset,
    words: Words = None,
    *,
    root: Root = None,
    out: Out = None,
    shard: Annotated[str, typer.Option(help="i/n: this job's part of the clips, from 0")] = "0/1",
) -> None:
    """Write the tokens of every clip of a data set into a store; run it again to go on."""
    from tokenreel.pipeline.extraction import extract_dataset

    report, store = extract_dataset(dataset, words or [], root=root, out=out, shard=shard)
    say(report.table())
    for failure in report.failed:
        say(f"failed: {failure}")
    say(f"store: {store}")
    finish(3 if report.failed else 0)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
