"""`tokenreel demo | store | data | ...`: everything besides the three phases."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenreel.pipeline.cli import store
from tokenreel.pipeline.cli.console import (
    FollowLinks,
    finish,
    link_words,
    new_app,
    run_app,
)
from tokenreel.pipeline.text import format_table, on_one_line, say

if TYPE_CHECKING:
    from tokenreel.cache.tools.status import WorkerState

app = new_app(__doc__)
data_app = new_app("Look at and check data sets.")
app.add_typer(store.app, name="store")
app.add_typer(data_app, name="data")


@app.command()
def demo(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="name of the demo, sample when none; then its words: of sample "
            "weights=pretrained, or weights=FILE backbone=NAME"
        ),
    ] = None,
) -> None:
    """Run all phases on rendered videos, such as the embedded sample: extract, train, evaluate.

    Without words it needs no network: the backbone has random weights.
    """
    from tokenreel.pipeline.demo import run_named

    finish(run_named(words or []))


@app.command()
def keys() -> None:
    """Print every key of the commands with its default: the text of docs/keys.md."""
    from tokenreel.pipeline.tools.keys import keys_page

    say(keys_page().rstrip())


@app.command()
def doctor(
    *,
    folder: Annotated[Path, typer.Option(help="on the disk of the stores")] = Path("stores"),
    measure: Annotated[bool, typer.Option(help="write and read up to 2 GB for its speed")] = True,
) -> None:
    """Describe this machine, and what will be slow on it."""
    from tokenreel.pipeline.tools.doctor import examine, report

    say(report(examine(folder, measure=measure)))


@app.command()
def status(
    path: Annotated[Path, typer.Argument(metavar="STORE", help="the store")],
    *,
    watch: Annotated[bool, typer.Option("--watch", help="print it again until complete")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="between two prints of --watch")] = 10.0,
) -> None:
    """Who writes a store, how far it is, and what is left; ends with 0 when complete, else with 3.

    Only files of the store are read: it works from any machine that sees them.
    """
    from tokenreel.cache.tools.status import store_status

    while True:
        found = store_status(path)
        say("\n".join(map(on_one_line, found.lines())))
        if found.workers:
            say(worker_table(found.workers))
        if not watch or found.is_complete:
            finish(found.exit_status)
        say()
        time.sleep(seconds)


def worker_table(workers: "Sequence[WorkerState]") -> str:
    """A row for each worker of a store."""
    rows = [
        [
            f"{worker.note.host}:{worker.note.pid}",
            worker.note.device,
            worker.state,
            f"{worker.age_seconds:.0f} s ago",
            worker.note.num_committed,
            worker.note.num_failed,
            f"{worker.note.frames_per_second:.1f}",
            ", ".join(worker.clips[:2]) + (", ..." if worker.clips[2:] else ""),
        ]
        for worker in workers
    ]
    header = ["worker", "device", "state", "heartbeat", "done", "failed", "frames/s", "in work"]
    return format_table(header, rows)


@app.command()
def fidelity(
    name: Annotated[str, typer.Argument(help="path of a store, or name of a data set")],
    words: Annotated[
        list[str] | None, typer.Argument(help="for a data set: as for `extract run`")
    ] = None,
    *,
    root: Annotated[Path | None, typer.Option(help="folder of the videos")] = None,
    clips: Annotated[
        int, typer.Option(min=1, help="most that are measured, spread over splits")
    ] = 54,
    codec: Annotated[list[str] | None, typer.Option(help="only this codec; repeat")] = None,
) -> None:
    """What each codec costs in bytes, errors, probe accuracy, tau and AP@5; recommend one."""
    from tokenreel.pipeline.tools.fidelity import fidelity_of, fidelity_table

    found = fidelity_of(name, words or [], root=root, clips=clips, codecs=codec or ())
    say(fidelity_table(found))
    finish(found.exit_status)


@app.command()
def explore(
    store: Annotated[Path, typer.Argument(help="the store")],
    *,
    run: Annotated[
        list[Path] | None, typer.Option(help="a run trained on it; repeat for more")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="folder of the videos")] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="on this machine; 0 for any that is free")
    ] = 8765,
    clip: Annotated[
        str | None, typer.Option(help="to begin with: its id, or a part that only one has")
    ] = None,
    memory: Annotated[str, typer.Option(help="for codes that searches keep")] = "4GB",
) -> None:
    """Look into a store on a local page: frames, tokens, labels, similar patches, runs.

    Nothing but this machine reaches it, by the address that is printed; Ctrl-C ends it.
    """
    from tokenreel.cache.files import parse_bytes
    from tokenreel.pipeline.explore.command import serve_store

    size = parse_bytes(memory)
    serving = serve_store(store, run or [], root=root, port=port, clip=clip, memory_bytes=size)
    if serving.unseen_reason:
        say(f"without frames: {on_one_line(serving.unseen_reason)} (--root names the videos)")
    say(f"open {serving.url}")
    say("Ctrl-C ends it")
    with suppress(KeyboardInterrupt):
        serving.run()


@app.command()
def similar(
    store: Annotated[Path, typer.Argument(help="the store")],
    *,
    clip: Annotated[str, typer.Option(help="its id, or a part that only one clip has")],
    frame: Annotated[int, typer.Option(min=0, help="of the clip, from 0")],
    patch: Annotated[
        list[str],
        typer.Option(
            help="number, as 27; row,column; or a box: row,column,last row,last column; repeat"
        ),
    ],
    negative: Annotated[
        list[str] | None, typer.Option(help="a patch of this frame that results are not to be like")
    ] = None,
    block: Annotated[int | None, typer.Option(help="the last of the store when left out")] = None,
    view: Annotated[int, typer.Option(help="0 is clean")] = 0,
    count: Annotated[int, typer.Option(min=1, help="patches that are listed")] = 10,
    out: Annotated[Path | None, typer.Option(help="PNG: the patch beside those of 8 clips")] = None,
    root: Annotated[Path | None, typer.Option(help="folder of the videos")] = None,
) -> None:
    """List the patches of a store that are most similar to one, by the cosine of their tokens."""
    from tokenreel.cache.read.store_reader import open_store
    from tokenreel.cache.search.query import Click, parse_patch
    from tokenreel.pipeline.explore.strip import find_similar
    from tokenreel.pipeline.phases.attention import find_clips

    clicks = [(parse_patch(text), True) for text in patch]
    clicks += [(parse_patch(text), False) for text in negative or []]
    opened = open_store(store)
    [name] = find_clips(opened, [clip])
    made = find_similar(
        opened,
        [Click(name, frame, where, is_positive) for where, is_positive in clicks],
        out=out,
        root=root,
        block=block,
        view=view,
        count=count,
    )
    say(made.table)
    say(made.found.speed)
    if out is not None:
        say(f"picture in {out}")
    if made.unseen_reason:
        say(f"without frames: {on_one_line(made.unseen_reason)} (--root names the videos)")
    for sentence in made.found.left_out:
        say(f"left out: {on_one_line(sentence)}")
    finish(3 if made.found.left_out else 0)


@data_app.command()
def check(
    dataset: Annotated[str, typer.Argument(help="name of the data set")],
    words: Annotated[list[str] | None, typer.Argument(help="data.key=value")] = None,
    *,
    root: Annotated[Path | None, typer.Option(help="folder of the videos")] = None,
    follow_links: FollowLinks = False,
) -> None:
    """Check a data set: expected and existing files, clips of each split and class."""
    from tokenreel.pipeline.datasets import check_dataset
    from tokenreel.pipeline.defaults import root_of
    from tokenreel.pipeline.phases.extraction import data_options

    options, _ = data_options([*(words or []), *link_words(follow_links)])
    found = check_dataset(dataset, root or root_of(dataset), options)
    say(found.text())
    finish(0 if found.is_complete else 3)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
