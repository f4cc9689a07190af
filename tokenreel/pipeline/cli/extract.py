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


@app.command()
def plan(
    dataset: Dataset,
    words: Words = None,
    *,
    root: Root = None,
    out: Out = None,
    recipe: Annotated[str | None, typer.Option(help="break-even of this recipe only")] = None,
    seconds: Annotated[float, typer.Option(min=0.3, help="length of the measurement")] = 30.0,
) -> None:
    """What an extraction will take here: frames, bytes, hours, and when caching pays."""
    from tokenreel.pipeline.planning import plan_dataset

    found = plan_dataset(dataset, words or [], root=root, out=out, recipe=recipe, seconds=seconds)
    say(found.text())
    finish(3 if found.survey.unreadable else 0)


@app.command()
def show(
    clip: Annotated[str, typer.Argument(help="id of a clip; `tokenreel store ls` lists them")],
    *,
    store: Annotated[Path, typer.Option(help="the store")],
    root: Root = None,
    out: Annotated[Path | None, typer.Option(help="the picture; CLIP.png when left out")] = None,
    frames: Annotated[int, typer.Option(min=1, help="frames shown")] = 8,
    view: Annotated[int, typer.Option(min=0, help="0 is the clean view")] = 0,
) -> None:
    """One picture of a clip: what the backbone saw, its tokens in colour, CLS over time."""
    from tokenreel.cache.reader import open_store
    from tokenreel.extract.show import draw_clip, look_at_clip
    from tokenreel.pipeline.run import DATA

    opened = open_store(store)
    videos = root or DATA / opened.record(clip).dataset
    picture = look_at_clip(opened, clip, root=videos, num_frames=frames, view=view)
    if picture.unseen_reason:
        say(f"without frames: {picture.unseen_reason} (--root is the folder of the videos)")
    say(f"picture: {draw_clip(picture, out or Path(opened.record(clip).key + '.png'))}")


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
