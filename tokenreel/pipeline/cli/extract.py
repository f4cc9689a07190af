"""`extract run | scenes | plan | show | retry | describe | text`: phase 1, to stores and texts."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from tokenreel.cache.errors import TERMINATED, UsageError
from tokenreel.pipeline.cli.console import (
    Address,
    ArrayParallelism,
    Cpus,
    DryRun,
    FollowLinks,
    JobTime,
    Partition,
    Sbatch,
    finish,
    link_words,
    new_app,
    run_app,
    with_keys,
)
from tokenreel.pipeline.text import on_one_line, say

if TYPE_CHECKING:
    from tokenreel.extract.report import ExtractReport

app = new_app(__doc__)

CLASS_TEXT = "a video of {}"  # of an action
SHOWN = 5  # committed clips without their video that are named


@app.callback()
def group() -> None:
    """Phase 1: video to token store."""


Dataset = Annotated[str, typer.Argument(help="name of the data set: folder, sample, finegym, ...")]
Words = Annotated[
    list[str] | None, typer.Argument(help="key=value of the extraction, data.key=value of the data")
]
Root = Annotated[Path | None, typer.Option(help="folder of the videos")]
Out = Annotated[Path | None, typer.Option(help="the store; by default named in stores/")]

Gpus = Annotated[
    str | None, typer.Option(help="one process for each: all, a count, or numbers such as 0,1")
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="only the first clips of each split; all: run without")
]
MaxFailures = Annotated[
    int | None, typer.Option(min=0, help="end once more clips than this have failed")
]


@app.command(cls=with_keys("extract"))
def run(
    dataset: Dataset,
    words: Words = None,
    *,
    root: Root = None,
    out: Out = None,
    shard: Annotated[
        str,
        typer.Option(
            help="i/n: this job's part of the clips, from 0; auto: as the variables of SLURM say; "
            "auto/N: i as those of SLURM or Kubernetes say"
        ),
    ] = "0/1",
    gpus: Gpus = None,
    max_failures: MaxFailures = None,
    limit: Limit = None,
    follow_links: FollowLinks = False,
    changed: Annotated[
        Literal["refuse", "replace", "keep"],
        typer.Option(help="clips whose video or range is not what was extracted"),
    ] = "refuse",
    engine: Annotated[
        str, typer.Option(help="local: here; slurm: jobs of an array; ray: workers of a cluster")
    ] = "local",
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="slurm: jobs, a node each; ray: nodes, or without --gpus workers"),
    ] = None,
    cpus: Cpus = None,
    time: JobTime = None,
    partition: Partition = None,
    array_parallelism: ArrayParallelism = None,
    sbatch: Sbatch = None,
    address: Address = None,
    dry_run: DryRun = False,
) -> None:
    """Write the tokens of every clip of a data set into a store; rerun to resume.

    Clips that failed before are listed, not retried: see `extract retry`.  Clips whose video is not
    what was extracted are listed, with status 3; --changed replace extracts them again, and keep
    keeps what the store has.
    """
    from tokenreel.pipeline.launch import ENGINES
    from tokenreel.pipeline.launch.base import Extraction, Placement
    from tokenreel.pipeline.launch.shards import find_shard

    launch = ENGINES.load(engine)
    words = [*(words or []), *_limit(max_failures), *link_words(follow_links)]
    shard = find_shard(shard, os.environ)
    done = launch(
        Extraction(dataset, tuple(words), root, out, shard, limit, changed),
        Placement(
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
    for line in done.lines:
        say(line)
    if done.report is None:
        finish(0)
    _close(done.report, done.store)


@app.command()
def retry(
    store: Annotated[Path, typer.Argument(help="the store")],
    words: Annotated[
        list[str] | None, typer.Argument(help="key=value of the machine, data.key=value")
    ] = None,
    *,
    root: Root = None,
    gpus: Gpus = None,
    max_failures: MaxFailures = None,
    follow_links: FollowLinks = False,
) -> None:
    """Retry the clips in a store's quarantine, and only those."""
    from tokenreel.pipeline.phases.extraction import retry_store

    words = [*(words or []), *_limit(max_failures), *link_words(follow_links)]
    _close(retry_store(store, words, root=root, gpus=gpus), store)


@app.command(cls=with_keys("scenes"))
def scenes(
    dataset: Dataset,
    words: Annotated[
        list[str] | None, typer.Argument(help="key=value of the method, data.key=value of the data")
    ] = None,
    *,
    root: Root = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the list; by default named in scenes/")
    ] = None,
    follow_links: FollowLinks = False,
    changed: Annotated[
        Literal["refuse", "replace", "keep"],
        typer.Option(help="videos that are not the files whose scenes were found"),
    ] = "refuse",
) -> None:
    """Find the scenes of every video of a data set; rerun to resume.

    Writes scenes.csv, and scenes.json, which says how it was made.  Videos that cannot be read are
    listed, with status 3; so are those that are not the files whose scenes were found before:
    --changed replace finds them again.  `extract run ... frames=scenes:FOLDER` takes the list.
    """
    from tokenreel.pipeline.phases.scenes import scenes_of_dataset

    words = [*(words or []), *link_words(follow_links)]
    report, folder = scenes_of_dataset(dataset, words, root=root, out=out, changed=changed)
    say(report.table())
    for failure in report.failed:
        say(f"failed: {on_one_line(str(failure))}")
    for reason in report.unreadable:
        say(f"cannot be read: {on_one_line(reason)}")
    for change in report.changed.values():
        say(f"changed: {on_one_line(change)}")
    say(f"scenes: {folder}")
    finish(report.exit_status)


@app.command(cls=with_keys("extract"))
def plan(
    dataset: Dataset,
    words: Words = None,
    *,
    root: Root = None,
    out: Out = None,
    recipe: Annotated[str | None, typer.Option(help="break-even of this recipe only")] = None,
    seconds: Annotated[float, typer.Option(min=0.3, help="length of the measurement")] = 30.0,
    gpus: Annotated[
        str | None, typer.Option(help="of each node: the cost of 10^3 to 10^7 clips on a cluster")
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="of the cluster")] = None,
    cpus: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="cores of each node [those of this machine]"),
    ] = None,
    limit: Limit = None,
    follow_links: FollowLinks = False,
) -> None:
    """Estimate an extraction on this machine: frames, bytes, hours, and when caching pays."""
    from tokenreel.pipeline.phases.planning import plan_dataset

    words = [*(words or []), *link_words(follow_links)]
    cluster = None
    if (gpus, nodes, cpus) != (None, None, None):
        from tokenreel.pipeline.launch.cluster_plan import cluster_of, cluster_table

        cluster = cluster_of(gpus, nodes, cpus)
    found = plan_dataset(
        dataset, words, root=root, out=out, recipe=recipe, seconds=seconds, limit=limit
    )
    say(found.text())
    if cluster is not None:
        say()
        say(cluster_table(found, cluster))
    finish(3 if found.survey.unreadable or found.unreadable else 0)


@app.command()
def show(
    clip: Annotated[
        str,
        typer.Argument(
            help="id of a clip, as `tokenreel store ls` lists them; with --scenes a video"
        ),
    ],
    *,
    store: Annotated[Path | None, typer.Option(help="the store")] = None,
    scenes: Annotated[
        Path | None, typer.Option(help="instead of a store: folder or file of `extract scenes`")
    ] = None,
    root: Root = None,
    out: Annotated[
        Path | None, typer.Option(help="the picture; named after the clip when left out")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="frames or scenes shown")] = 8,
    view: Annotated[int, typer.Option(min=0, help="0 is the clean view")] = 0,
) -> None:
    """Draw a clip: the frames that the backbone saw, its tokens in colour, CLS over time.

    With --scenes: the centre frame of each scene of a video, its mean colour over time, the running
    mean, and the cuts.
    """
    if (store is None) == (scenes is None):
        raise UsageError("give --store STORE, or --scenes FOLDER to draw the scenes of a video")
    if scenes is not None:
        from tokenreel.pipeline.phases.scenes import show_scenes

        say(f"picture: {show_scenes(clip, scenes, root=root, out=out, most=frames)}")
        return
    assert store is not None
    from tokenreel.cache.read.store_reader import open_store
    from tokenreel.pipeline.defaults import videos_of_store

    opened = open_store(store)
    opened.record(clip)
    videos = videos_of_store(opened, root)
    from tokenreel.extract.preview.show import draw_clip, look_at_clip  # torch: words are right

    picture = look_at_clip(opened, clip, root=videos, num_frames=frames, view=view)
    if picture.unseen_reason:
        say(f"without frames: {picture.unseen_reason} (--root is the folder of the videos)")
    say(f"picture: {draw_clip(picture, out or Path(opened.record(clip).key + '.png'))}")


@app.command()
def describe(
    dataset: Dataset,
    words: Annotated[list[str] | None, typer.Argument(help="data.key=value of the data")] = None,
    *,
    out: Annotated[Path, typer.Option(help="the file of texts, one line of JSON each")],
    root: Root = None,
    base_url: Annotated[
        str | None, typer.Option(help="of the endpoint, up to /v1 [OPENAI_BASE_URL]")
    ] = None,
    model: Annotated[str | None, typer.Option(help="name of the model [OPENAI_MODEL]")] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=QUESTION, or A, B, C, D of the Four-Tiered Prompts paper; repeat [all four]"
        ),
    ] = None,
    frames: Annotated[int, typer.Option(help="key frames of a clip, side by side")] = 5,
    height: Annotated[int, typer.Option(help="of their picture, in pixels")] = 336,
    limit: Limit = None,
    parallel: Annotated[int, typer.Option(min=1, max=256, help="questions at once")] = 4,
    per_minute: Annotated[
        float | None, typer.Option(min=0.01, help="most requests a minute")
    ] = None,
    max_requests: Annotated[
        int | None, typer.Option(min=0, help="most requests in all; rerun for the rest")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="send the pictures")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be sent")] = False,
) -> None:
    """Ask a vision-language model about key frames of each clip; rerun to resume.

    The endpoint is any that speaks OpenAI's chat completions.  Pictures of your videos are sent to
    it: without --yes the command says how many, of whose videos, and where, and sends nothing.  Its
    key is read from OPENAI_API_KEY and is never written.
    """
    from tokenreel.pipeline.phases.texts import describe_dataset, plan_describing

    plan = plan_describing(
        dataset,
        words or [],
        out=out,
        root=root,
        prompts=prompt or [],
        num_frames=frames,
        height=height,
        limit=limit,
        base_url=base_url,
        model=model,
    )
    say("\n".join(map(on_one_line, plan.text().split("\n"))))
    if dry_run or not yes:
        say("nothing was sent" + ("" if dry_run else ": add --yes to send it"))
        finish(0)
    report = describe_dataset(
        plan, parallel=parallel, per_minute=per_minute, most_requests=max_requests
    )
    for question, reason in report.failed.items():
        say(f"failed: {on_one_line(f'{question}: {reason}')}")
    if report.stopped:
        say(f"stopped: {report.stopped}; {report.num_left} questions are left: rerun the command")
    say(
        f"{report.num_asked} answers written to {out}, {report.num_held} were there; "
        f"{report.num_cut} cut at the greatest length, {len(report.failed)} failed"
    )
    finish(report.exit_status)


@app.command(cls=with_keys("text"))
def text(
    dataset: Dataset,
    words: Annotated[
        list[str] | None,
        typer.Argument(help="key=value of the encoder, data.key=value of the data"),
    ] = None,
    *,
    texts: Annotated[
        Path | None,
        typer.Option("--from", help="the file of texts: that of `extract describe`, or yours"),
    ] = None,
    classes: Annotated[
        bool,
        typer.Option("--classes", help="a text for each action, in the place of texts of clips"),
    ] = False,
    template: Annotated[
        str | None,
        typer.Option(help="the text of an action, {} is its name; 'a video of {}' by default"),
    ] = None,
    root: Root = None,
    out: Annotated[
        Path | None, typer.Option(help="the file of vectors; by default beside the texts")
    ] = None,
) -> None:
    """Write the vectors of texts of clips: a row for each clip and prompt, pooled and by token.

    Each different text is encoded once.  Clips without a text, texts that are cut, and texts of
    other clips are counted here and in the file.  With --classes the texts are of actions, for
    zero-shot classification: class_texts=FILE of `fuse train`.
    """
    from tokenreel.cache.errors import UsageError
    from tokenreel.pipeline.phases.texts import embed_classes, embed_dataset_texts

    given = words or []
    if classes:
        if texts is not None and template is not None:
            raise UsageError("give --template or --from: texts of a file are whole")
        report = embed_classes(
            dataset, given, template=template or CLASS_TEXT, texts=texts, root=root, out=out
        )
    elif texts is None or template is not None:
        raise UsageError(
            "name the texts of clips by --from FILE, or take those of actions, --classes"
            if texts is None
            else "--template is of --classes: leave it out"
        )
    else:
        report = embed_dataset_texts(dataset, given, texts, root=root, out=out)
    for line in report.lines():
        say(on_one_line(line))
    say(f"{report.num_texts} texts of {report.num_clips} {report.what}: {report.out}")


def _limit(max_failures: int | None) -> list[str]:
    return [] if max_failures is None else [f"max_failures={max_failures}"]


def _close(report: "ExtractReport", store: Path) -> NoReturn:
    """Print what was done; status 3 while clips are in quarantine or of changed videos."""
    say(report.table())
    for failure in report.failed:
        say(f"failed: {on_one_line(str(failure))}")
    for failure in report.quarantined:
        say(f"in quarantine: {on_one_line(str(failure))}")
    for reason in report.unreadable:
        say(f"cannot be read: {on_one_line(str(reason))}")
    for change in report.changed.values():
        say(f"changed: {change}")
    for clip_id, reason in list(report.missing.items())[:SHOWN]:
        say(f"video missing: {clip_id}: {reason}")
    say(f"store: {store}")
    finish(report.exit_status)


def _exit_on_signal(number: int, _: object) -> NoReturn:
    """Exit cleanly on a signal while there is nothing to finish."""
    typer.echo(f"signal {number}: nothing was started; rerun the same command", err=True)
    sys.exit(TERMINATED)


def main() -> None:
    """Entry point of the console script."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, _exit_on_signal)  # until an extraction has its first clip
    run_app(app)
