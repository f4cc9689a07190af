"""`evaluate all | compare | frozen | check | ...`: phase 3, embeddings to tables, without torch."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tokenreel.pipeline.cli.console import finish, new_app, run_app, with_keys
from tokenreel.pipeline.text import format_table, say

if TYPE_CHECKING:
    from tokenreel.cache.embeddings import EmbeddingFile
    from tokenreel.evaluate.commands.suite import SuiteReport

app = new_app(__doc__)

RunWords = Annotated[
    list[str] | None,
    typer.Argument(help="runs, folders of runs or embedding files, and key=value settings"),
]
Settings = Annotated[list[str] | None, typer.Argument(help="key=value settings")]
Jobs = Annotated[int, typer.Option(min=0, help="processors to use, 0 for all")]
Memory = Annotated[str, typer.Option(help="for embeddings and searches of all processes")]
Run = Annotated[Path, typer.Option(help="a run, or an embedding file")]
Root = Annotated[Path | None, typer.Option(help="folder of the videos; default: data/DATASET")]
Out = Annotated[Path, typer.Option(help="folder of the files")]


@app.callback()
def group() -> None:
    """Phase 3: embeddings to metrics and tables, on a CPU and without torch."""


@app.command(name="all", cls=with_keys("evaluate"))
def evaluate_all(
    words: RunWords = None,
    *,
    out: Out = Path("results"),
    jobs: Jobs = 0,
    memory: Memory = "2GB",
    spreadsheet: Annotated[
        bool, typer.Option("--spreadsheet", help="CSV in which no cell of text is a formula")
    ] = False,
) -> None:
    """Every metric of every run: results.csv, summary.csv, .md, .tex; rerun to resume."""
    from tokenreel.pipeline.phases.evaluation import evaluate_words

    found = evaluate_words(words or [], out=out, jobs=jobs, memory=memory, spreadsheet=spreadsheet)
    _report(found, out)


@app.command()
def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="a run, a folder of its seeds, or recipe=NAME")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="the run to compare with A")],
    words: Settings = None,
    *,
    resamples: Annotated[int, typer.Option(min=100, help="draws of clips")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="seed of the draws")] = 0,
    out: Annotated[Path | None, typer.Option(help="a CSV file of the table")] = None,
) -> None:
    """Is B better than A?  Each metric's gain with its 95 % interval over validation clips."""
    from tokenreel.pipeline.phases.evaluation import compare_words, format_differences

    found, problems = compare_words(
        first, second, words or [], resamples=resamples, seed=seed, out=out
    )
    say(format_differences(found))
    for problem in problems:
        say(f"problem: {problem}")
    if out is not None:
        say(f"table: {out}")
    finish(3 if problems else 0)


@app.command(cls=with_keys("evaluate"))
def frozen(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="a token store with labels")],
    words: Settings = None,
    *,
    block: Annotated[
        list[int] | None,
        typer.Option(help="block to pool, may be repeated; default: all of the store"),
    ] = None,
    out: Out = Path("results/frozen"),
    jobs: Jobs = 0,
    memory: Memory = "2GB",
) -> None:
    """Baseline of every table: all metrics on frozen tokens, pooled by max, mean and CLS."""
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
    """Validate an embedding file: its contents, what is missing, what is wrong."""
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


class Projection(StrEnum):
    """Projection of embeddings to two dimensions."""

    PCA = "pca"
    TSNE = "tsne"


@app.command()
def report(
    words: RunWords = None,
    *,
    out: Annotated[Path, typer.Option(help="folder of the page")] = Path("results/report"),
    root: Root = None,
    actions: Annotated[int, typer.Option(min=0, help="most that have pictures")] = 4,
    recipes: Annotated[int, typer.Option(min=1, help="most that have pictures")] = 4,
    projection: Annotated[Projection, typer.Option(help="of the embeddings")] = Projection.PCA,
    title: Annotated[str, typer.Option(help="heading of the page")] = "TokenReel report",
    jobs: Jobs = 0,
    memory: Memory = "2GB",
) -> None:
    """Write one HTML page: tables, alignments, retrieved frames, curves, provenance."""
    from tokenreel.evaluate.report.data.gather import ReportConfig
    from tokenreel.pipeline.phases.reporting import report_words

    config = ReportConfig(
        title=title, actions=actions, recipes=recipes, projection=projection.value
    )
    path, scores = report_words(
        words or [], out=out, root=root, jobs=jobs, memory=memory, config=config
    )
    for problem in scores.problems:
        say(f"problem: {problem}")
    say(f"report: {path}")
    finish(scores.exit_status)


@app.command()
def align(
    query: Annotated[str, typer.Argument(help="id of a clip, or a unique part of one")],
    reference: Annotated[str, typer.Argument(metavar="REF", help="the clip to align it with")],
    *,
    run: Run,
    root: Root = None,
    out: Out = Path("results/align"),
    height: Annotated[int, typer.Option(min=32, max=2160, help="of the frames, pixels")] = 240,
) -> None:
    """Dynamic time warping of two clips: the path as CSV, and a video of both side by side."""
    from tokenreel.cache.files import make_directory, write_whole
    from tokenreel.evaluate.methods.alignment import align_pair, find_clip, path_table
    from tokenreel.evaluate.report.pictures.frames import FramesUnreachable
    from tokenreel.evaluate.report.pictures.movie import playback_rate, side_by_side, write_movie
    from tokenreel.pipeline.phases.reporting import frames_of

    file = _read_run(run)
    pair = align_pair(find_clip(file, query), find_clip(file, reference))
    make_directory(out)
    name = f"{_file_name(pair.query.clip_id)}--{_file_name(pair.reference.clip_id)}"
    write_whole(out / f"{name}.csv", path_table(pair))
    say(
        f"{pair.query.num_frames} and {pair.reference.num_frames} frames, {len(pair.path.steps)} "
        f"steps, mean cost {pair.path.mean:.4f}, same phase on {pair.phase_agreement:.1%} of the "
        f"labelled steps, tau {pair.tau:.4f}"
    )
    say(f"path: {out / name}.csv")
    try:
        images = side_by_side(pair, frames_of([file], root), height=height)
        write_movie(out / f"{name}.mp4", images, rate=playback_rate(pair.query))
    except FramesUnreachable as error:
        say(f"no video: {error} (--root is the folder of the videos)")
    else:
        say(f"video: {out / name}.mp4")


@app.command()
def retrieve(
    query_clip: Annotated[str, typer.Argument(help="id of a clip, or a unique part of one")],
    frame: Annotated[int, typer.Argument(help="frame of the clip, from 0")],
    *,
    run: Run,
    root: Root = None,
    out: Out = Path("results/retrieve"),
    k: Annotated[int, typer.Option(min=1, max=100, help="how many frames")] = 5,
    height: Annotated[int, typer.Option(min=32, max=2160, help="of the frames, pixels")] = 180,
) -> None:
    """The nearest frames of other clips of the action: a table, and the frames in one picture."""
    from tokenreel.evaluate.methods.alignment import find_clip, phase_name
    from tokenreel.evaluate.methods.retrieval import gallery_of, nearest_frames
    from tokenreel.evaluate.report.pictures.frames import FramesUnreachable
    from tokenreel.evaluate.report.pictures.strip import write_strip
    from tokenreel.pipeline.phases.reporting import frames_of

    file = _read_run(run)
    clip = find_clip(file, query_clip)
    found = nearest_frames(clip, frame, gallery_of(file, clip), k=k)
    say(
        f"query: {clip.clip_id}, frame {frame}, {clip.moment(frame)}, "
        f"{phase_name(clip, frame) or 'no label'}"
    )
    rows = [
        [
            rank,
            neighbour.clip.clip_id,
            neighbour.frame,
            neighbour.clip.moment(neighbour.frame).removesuffix(" s"),
            f"{neighbour.distance:.4f}",
            phase_name(neighbour.clip, neighbour.frame),
            neighbour.verdict,
        ]
        for rank, neighbour in enumerate(found, start=1)
    ]
    say(format_table(["rank", "clip", "frame", "seconds", "distance", "phase", "verdict"], rows))
    path = out / f"{_file_name(clip.clip_id)}-{frame}.png"
    try:
        write_strip(path, clip, frame, found, frames_of([file], root), height=height)
    except FramesUnreachable as error:
        say(f"no picture: {error} (--root is the folder of the videos)")
    else:
        say(f"picture: {path}")


def _read_run(run: Path) -> "EmbeddingFile":
    from tokenreel.cache.embeddings import read_embeddings
    from tokenreel.cache.errors import UsageError
    from tokenreel.pipeline.defaults import find_runs

    [*found] = find_runs([run])
    if len(found) > 1:
        raise UsageError(f"--run {run}: {len(found)} runs are below it, name one, as {found[0]}")
    return read_embeddings(found[0])


def _file_name(clip_id: str) -> str:
    """A clip's id as a part of a file name.

    >>> _file_name("val/lift 0")
    'val_lift_0'
    """
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in clip_id)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
