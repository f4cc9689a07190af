"""`fuse train | embed | attend | explain | ablate`: phase 2, token store to embeddings."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tokenreel.cache.files import parse_bytes
from tokenreel.pipeline.cli.console import (
    Address,
    ArrayParallelism,
    Cpus,
    DryRun,
    JobTime,
    Partition,
    Sbatch,
    finish,
    new_app,
    run_app,
    with_keys,
)
from tokenreel.pipeline.text import require_device, say

if TYPE_CHECKING:
    from tokenreel.cache.errors import ClipFailed
    from tokenreel.extract.signals import Stopping
    from tokenreel.pipeline.apply.results import Applied

app = new_app(__doc__)

Store = Annotated[
    list[str] | None,
    typer.Option(
        help="the store, by default the recipe's in stores/; NAME=PATH for each of several"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
Placement = Annotated[
    Literal["auto", "disk", "ram", "gpu"], typer.Option(help="where codes are kept while training")
]
Memory = Annotated[
    str | None,
    typer.Option(help="memory limit of codes, such as 8GB; by default half of what is free"),
]


@app.command(cls=with_keys("fuse"))
def train(
    recipe: Annotated[str, typer.Argument(help="name of the recipe")] = "sample",
    words: Annotated[list[str] | None, typer.Argument(help="key=value of the recipe")] = None,
    *,
    store: Store = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run")] = None,
    device: Device = "auto",
    placement: Placement = "auto",
    memory: Memory = None,
) -> None:
    """Train a recipe on a store and write its embeddings; rerun to resume.

    On N GPUs, with the results of one process at the same batch size:
    torchrun --standalone --no-python --nproc-per-node N fuse train RECIPE --store STORE
    """
    from tokenreel.pipeline.phases.training import parse_stores, train_recipe

    if "=" in recipe:  # `fuse train seed=1`: the recipe was left out
        recipe, words = "sample", [recipe, *(words or [])]
    result = train_recipe(
        recipe,
        words or [],
        store=parse_stores(store or []),
        out=out,
        device=require_device(device),
        placement=placement,
        memory_bytes=parse_bytes(memory) if memory is not None else None,
    )
    say(f"run: {result.path}")


@app.command(cls=with_keys("fuse"))
def ablate(
    words: Annotated[
        list[str], typer.Argument(help="tables, recipes, and key=a,b,c grids (lists: key=3,7/11)")
    ],
    *,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each row, seeds 0 to N - 1")] = 3,
    store: Annotated[
        list[str] | None,
        typer.Option(
            help="a store, or NAME=PATH of each of a set; may be repeated, a row takes the first "
            "that has what it needs"
        ),
    ] = None,
    splits: Annotated[
        bool,
        typer.Option("--splits", help="the stores are splits of one data set: rows are their mean"),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="folder of the tables")] = None,
    device: Device = "auto",
    placement: Placement = "auto",
    memory: Memory = None,
    engine: Annotated[
        str, typer.Option(help="local: here; slurm: a job for each group of runs; ray: a task")
    ] = "local",
    gpus: Annotated[
        str | None, typer.Option(help="slurm, ray: of each job or task, 1; by default none")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="slurm, ray: jobs or tasks [one a lock-step group]")
    ] = None,
    cpus: Cpus = None,
    time: JobTime = None,
    partition: Partition = None,
    array_parallelism: ArrayParallelism = None,
    sbatch: Sbatch = None,
    address: Address = None,
    dry_run: DryRun = False,
) -> None:
    """Train a table in lock-step, one stream over the store, and print it beside the paper's."""
    from tokenreel.pipeline.launch.base import Placement as Where
    from tokenreel.pipeline.launch.tables import TABLE_ENGINES
    from tokenreel.pipeline.launch.tables.base import TableRequest
    from tokenreel.pipeline.phases.training import parse_store_list

    request = TableRequest(
        tuple(words),
        seeds,
        tuple(parse_store_list(store or [])),
        splits,
        out,
        require_device(device),
        placement,
        parse_bytes(memory) if memory is not None else None,
    )
    launched = TABLE_ENGINES.load(engine)(
        request,
        Where(
            gpus=gpus,
            nodes=nodes,
            cpus=cpus,
            address=address,
            time=time,
            partition=partition,
            array_parallelism=array_parallelism,
            sbatch=tuple(sbatch or ()),
            dry_run=dry_run,
        ),
    )
    for line in launched.lines:
        say(line)
    report = launched.report
    if report is None:
        finish(0)
    say(report.text)
    for problem in report.problems:
        say(f"problem: {problem}")
    say(f"tables: {report.out}/ablation.csv, {report.out}/results.csv")
    finish(report.exit_status)


@app.command()
def embed(
    run: Annotated[Path, typer.Argument(help="folder of a run")],
    *,
    store: Annotated[
        list[str], typer.Option(help="the store to embed; NAME=PATH for each of several")
    ],
    out: Annotated[
        Path | None, typer.Option(help="the file; RUN/embeddings-STORE.h5 by default")
    ] = None,
    device: Device = "auto",
) -> None:
    """Embed a store with a run trained on it, or on another of the same backbone."""
    from tokenreel.cache.errors import TokenReelError
    from tokenreel.pipeline.phases.training import embed_with, first_store, parse_stores

    stores = parse_stores(store)
    assert stores is not None
    path, left_out = embed_with(run, stores, out=out, device=require_device(device))
    say(f"embeddings: {path}")
    for reason in left_out:
        say(f"failed: {reason}")
    if left_out:
        say(
            f"`tokenreel store verify --deep --repair {first_store(stores)}` extracts them; then "
            "embed again"
        )
        finish(TokenReelError.exit_status)


@app.command()
def attend(
    run: Annotated[Path, typer.Argument(help="folder of a run with pooling.kind=lstp")],
    *,
    clips: Annotated[
        str, typer.Option(help="comma-separated ids of clips, or unique parts of ids")
    ],
    store: Annotated[
        Path | None, typer.Option(help="by default the one that the run was trained on")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="folder of the videos; by default where they were, or data/DATASET"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the pictures; RUN/attention by default")
    ] = None,
    device: Device = "auto",
) -> None:
    """Where each entity of a run looks in some clips: a PNG grid, an MP4 and the numbers."""
    from tokenreel.cache.errors import ClipFailed
    from tokenreel.pipeline.phases.attention import attend_clips

    words = [word for word in clips.split(",") if word]
    where = require_device(device)
    status = 0
    for files in attend_clips(run, words, store=store, root=root, out=out, device=where):
        if isinstance(files, ClipFailed):
            say(f"failed: {files}")
            status = files.exit_status
            continue
        say(f"{files.clip_id}: {files.grid}, {files.movie}, {files.numbers}")
        if files.unseen_reason:
            say(f"  attention alone, no frames: {files.unseen_reason} (--root names the videos)")
    finish(status)


@app.command()
def apply(
    run: Annotated[Path, typer.Argument(help="folder of a run")],
    videos: Annotated[
        list[Path] | None, typer.Argument(help="videos, or folders of which every video is taken")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="folder of the results")] = Path("applied"),
    watch: Annotated[
        Path | None, typer.Option(help="take the videos of this folder as they come")
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="whose phases are named, where the run knows several")
    ] = None,
    store: Annotated[
        list[str] | None,
        typer.Option(help="of a run of an earlier version; NAME=PATH for each of several"),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="weights of the backbone, where they have moved")
    ] = None,
    scenes: Annotated[
        Path | None,
        typer.Option(help="folder of the run's `extract scenes`, where it has moved"),
    ] = None,
    picture_fps: Annotated[
        float | None,
        typer.Option(min=0.001, max=1000, help="pictures a second in folders of pictures, 25"),
    ] = None,
    movies: Annotated[bool, typer.Option(help="write phases.mp4")] = True,
    keep_tokens: Annotated[bool, typer.Option(help="leave the tokens in OUT/tokens")] = False,
    device: Device = "auto",
) -> None:
    """Apply a run to new videos: phases by time, embeddings, a movie, the nearest clips.

    A run that scores whole clips gives the scores of their tags or classes.
    """
    from tokenreel.cache.errors import ClipFailed, UsageError
    from tokenreel.pipeline.apply.apply import apply_run, require_applicable
    from tokenreel.pipeline.apply.videos import watch_folder
    from tokenreel.pipeline.phases.training import parse_stores

    if (watch is None) == (not videos):
        raise UsageError("name videos, or a folder with --watch, and not both")
    options: dict[str, Any] = {
        "out": out,
        "store": parse_stores(store or []),
        "weights": weights,
        "scenes": scenes,
        "picture_fps": picture_fps,
        "movies": movies,
        "keep_tokens": keep_tokens,
        "device": require_device(device),
    }
    made: Iterator[Applied | ClipFailed]
    if watch is None:
        made = apply_run(run, videos or [], action=action, **options)
    else:

        def apply_to(some: list[Path], stopping: "Stopping") -> Iterator["Applied | ClipFailed"]:
            return apply_run(run, some, action=action, root=watch, stopping=stopping, **options)

        made = watch_folder(watch, apply_to, out=out)
        require_applicable(run, action=action, **options)
        say(f"taking the videos of {watch} as they come; Ctrl-C ends it")
    status = 0
    for found in made:
        if isinstance(found, ClipFailed):
            say(f"failed: {found}")
            status = found.exit_status
            continue
        say(f"{found.name}: {found.folder}{' (was done)' if found.was_done else ''}")
        if found.unseen_reason:
            say(f"  no movie: {found.unseen_reason}")
    finish(status)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="folder of a run")],
    *,
    out: Annotated[Path | None, typer.Option(help="new folder; RUN-export by default")] = None,
    store: Annotated[
        list[str] | None,
        typer.Option(
            help="of a run that does not keep enough of it; NAME=PATH for each of several"
        ),
    ] = None,
) -> None:
    """Write a run as one folder: weights, a program of plain torch, identity, probe, a card."""
    from tokenreel.pipeline.apply.export import export_run
    from tokenreel.pipeline.phases.training import parse_stores

    target = out or run.with_name(f"{run.resolve().name}-export")
    say(f"exported: {export_run(run, target, store=parse_stores(store or []))}")


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="folder of a run that scores the tags of clips")],
    *,
    clips: Annotated[
        str, typer.Option(help="comma-separated ids of clips, or unique parts of ids")
    ],
    store: Annotated[
        list[str] | None,
        typer.Option(help="by default those of the run; NAME=PATH for each of several"),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="folder of the videos; by default where they were, or data/DATASET"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the pictures; RUN/explanations by default")
    ] = None,
    threshold: Annotated[float, typer.Option(help="a score above it is decided")] = 0.3,
    device: Device = "auto",
) -> None:
    """Why a run decides the tags of some clips: maps over frames, attention over time, scores."""
    from tokenreel.cache.errors import ClipFailed
    from tokenreel.pipeline.apply.explanation import explain_clips
    from tokenreel.pipeline.phases.training import parse_stores

    words = [word for word in clips.split(",") if word]
    found = explain_clips(
        run,
        words,
        store=parse_stores(store or []),
        root=root,
        out=out,
        threshold=threshold,
        device=require_device(device),
    )
    status = 0
    for files in found:
        if isinstance(files, ClipFailed):
            say(f"failed: {files}")
            status = files.exit_status
            continue
        say(f"{files.clip_id}: {files.decided}: {files.picture}, {files.numbers}")
        if files.without_maps:
            say(
                f"  no map of {' and '.join(files.without_maps)}: the store keeps one vector a "
                "scene; backbone=resnet18 keeps a map of 7x7 at image_size=224"
            )
        if files.unseen_reason:
            say(f"  maps alone, no frames: {files.unseen_reason} (--root names the videos)")
    finish(status)


@app.command()
def recipes(
    names: Annotated[
        list[str] | None, typer.Argument(help="recipes or tables to describe; default: all")
    ] = None,
) -> None:
    """Describe the recipes: model, cost, published numbers."""
    from tokenreel.pipeline.recipes import (
        CONTROLS,
        RECIPES,
        TABLES,
        WITHOUT_RECIPE,
        describe_recipe,
    )

    rows = [row for word in names or RECIPES for row in TABLES.get(word, (word,))]
    for name in [row for row in rows if row not in CONTROLS or row in (names or ())]:
        say(describe_recipe(name))
    for name in names or ():
        if name in WITHOUT_RECIPE:
            say(f"{name}, rows without a recipe: {WITHOUT_RECIPE[name]}")
    if names:
        return
    say("tables, for `fuse ablate`:")
    for name, found in TABLES.items():
        say(f"    {name}: {', '.join(found)}")
        if name in WITHOUT_RECIPE:
            say(f"        without a recipe: {WITHOUT_RECIPE[name]}")


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
