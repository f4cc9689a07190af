"""`tokenreel store ...`: look at, check, copy and clean token stores."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from tokenreel.pipeline.cli.console import finish, new_app
from tokenreel.pipeline.text import on_one_line, say

if TYPE_CHECKING:
    from tokenreel.cache.tools.copying import CopyReport

log = logging.getLogger(__name__)

app = new_app("Look at, check, copy and clean token stores.")

StorePath = Annotated[Path, typer.Argument(help="the store")]
Clips = Annotated[list[str] | None, typer.Option("--clip", help="only this clip; repeat for more")]
Yes = Annotated[bool, typer.Option("--yes", help="do it; without, it is only listed")]


@app.command()
def info(store: StorePath) -> None:
    """What a store is: identity, fingerprint, clips, frames, versions."""
    from tokenreel.cache.read.store_reader import open_store
    from tokenreel.cache.tools.maintenance import store_info

    say(store_info(store).table())
    opened = open_store(store)
    for name, value in sorted(opened.made_with.items()):
        say(f"made with       {name} {value}")
    for fingerprint in opened.facts.former_fingerprints:
        say(f"migrated from   {fingerprint}")
    if opened.num_relabelled:
        say(f"relabelled      {opened.num_relabelled} clips, by `store relabel`")
    if opened.facts.root:
        say(f"videos were in  {opened.facts.root}")
    for name in sorted(opened.facts.extra):
        say(f"extra field     {name}")


@app.command(name="ls")
def list_clips(store: StorePath) -> None:
    """The clips of a store, one a line: id, split, action, frames."""
    from tokenreel.cache.read.store_reader import open_store

    for record in open_store(store).records.values():
        words = map(on_one_line, (record.clip_id, record.split, record.action))
        say("\t".join([*words, str(record.num_frames)]))


@app.command()
def verify(
    store: StorePath,
    words: Annotated[
        list[str] | None, typer.Argument(help="for --repair: weights=FILE, data.key=value, ...")
    ] = None,
    *,
    deep: Annotated[bool, typer.Option("--deep", help="read and check every byte")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="extract the damaged clips again, only those")
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option(help="folder of the videos: compare them with what was extracted"),
    ] = None,
) -> None:
    """Check a store; ends with status 5 when something is missing or damaged.

    With --root its videos are looked at too: status 3 when one is not what was extracted.
    """
    from tokenreel.cache.tools.verify import verify_store

    report = verify_store(store, deep=deep, root=root)
    say(report.table())
    if report.problems and repair:
        from tokenreel.pipeline.phases.extraction import repair_store

        done = repair_store(store, report, words or [], root=root)
        if done is not None:
            say(done.table())
            done.require_reached()
        report = verify_store(store, deep=deep, root=root)
        say(f"after the repair: {report.table()}")
    finish(report.exit_status)


@app.command()
def relabel(
    store: StorePath,
    words: Annotated[
        list[str] | None, typer.Argument(help="data.key=value of the data set")
    ] = None,
    *,
    root: Annotated[
        Path | None, typer.Option(help="folder of the data set; by default where its videos were")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="JSON file of labels in the place of the data set")
    ] = None,
) -> None:
    """Renew splits, actions, groups, tags and labels from the data set; no video is read.

    All of them are renewed, or none: labels that do not fit a clip are refused by name.
    """
    from tokenreel.pipeline.phases.relabelling import renew_labels

    say(renew_labels(store, words or [], root=root, manifest=manifest).table())


@app.command()
def diff(
    first: StorePath,
    second: StorePath,
    *,
    clips: Annotated[bool, typer.Option("--clips", help="name every clip that differs")] = False,
) -> None:
    """In which fields and clips two stores differ; ends with status 1 where they do, as diff."""
    from tokenreel.cache.tools.maintenance import compare_stores

    found = compare_stores(first, second)
    say(found.table(clips=clips))
    finish(found.exit_status)


@app.command()
def export(
    store: StorePath,
    out: Annotated[Path, typer.Argument(help="folder of the files")],
    *,
    kind: Annotated[str, typer.Option(help="hdf5 or npy")] = "hdf5",
    clip: Clips = None,
    block: Annotated[list[int] | None, typer.Option(help="only this block; repeat")] = None,
    layer: Annotated[list[int] | None, typer.Option(hidden=True)] = None,
    view: Annotated[int, typer.Option(help="0 is clean")] = 0,
) -> None:
    """Write decoded tokens, float32 (T, N, D), as HDF5 or .npy files for other tools."""
    from tokenreel.cache.errors import UsageError
    from tokenreel.cache.tools.export import export_store

    if kind not in ("hdf5", "npy"):
        raise UsageError(f"--kind {kind!r}: hdf5 or npy")
    if layer:
        log.warning("--layer is now called --block")
    blocks = [*(block or []), *(layer or [])] or None
    report = export_store(store, out, kind=kind, clips=clip, blocks=blocks, view=view)
    for failure in report.failed:
        say(f"failed: {on_one_line(str(failure))}")
    say(f"{len(report.files)} files in {out}")
    finish(3 if report.failed else 0)


@app.command(name="import")
def import_(
    features: Annotated[Path, typer.Argument(help="folder of .npy or .h5 files")],
    store: StorePath,
    *,
    statement: Annotated[
        Path | None, typer.Option(help="TOML or JSON: what made the features")
    ] = None,
    changed: Annotated[
        Literal["refuse", "replace", "keep"],
        typer.Option(help="clips whose features, labels or names are not those in the store"),
    ] = "refuse",
    recipe: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Make a store of features that you have, with a statement of what made them.

    Rerun to resume.  Clips whose files are not what was imported are listed, with status 3;
    --changed replace imports them again, and keep keeps what the store has.
    """
    from tokenreel.cache.errors import UsageError
    from tokenreel.cache.tools.import_features import import_features, read_statement

    if recipe is not None:
        log.warning("--recipe is now called --statement")
        statement = statement or recipe
    if statement is None:
        raise UsageError(
            "--statement FILE is missing: it says what made the features, see docs/store.md"
        )
    report = import_features(features, store, read_statement(statement), changed=changed)
    replaced = f", {len(report.replaced)} of them replaced" if report.replaced else ""
    say(f"{len(report.written)} clips written to {store}{replaced}")
    for name, what in report.changed.items():
        say(f"changed: {on_one_line(f'{name}: {what}')}")
    if report.changed:
        say(
            f"{len(report.changed)} clip(s) are not what was imported, and stay as they were: "
            "--changed replace imports them again"
            + ("" if report.accepts_changed else ", --changed keep keeps them")
        )
    if report.left:
        say(f"{len(report.left)} clip(s) of the store have no file here and stay")
    finish(report.exit_status)


@app.command()
def merge(
    source: Annotated[Path, typer.Argument(help="the store to copy from")],
    into: Annotated[Path, typer.Argument(help="the store to copy to; same identity")],
) -> None:
    """Copy the clips that the second store lacks from the first.

    Clips that both have and that differ are listed, with status 3; the second store keeps its own.
    """
    from tokenreel.cache.tools.copying import merge_store

    _close_copy(merge_store(source, into), into, "copied")


@app.command()
def migrate(
    store: StorePath,
    out: Annotated[
        Path | None, typer.Argument(help="the new store, for --format and --codec")
    ] = None,
    *,
    format_version: Annotated[
        int | None, typer.Option("--format", help="2: the store in this format, same tokens")
    ] = None,
    codec: Annotated[str | None, typer.Option(help="keep the tokens by this smaller codec")] = None,
) -> None:
    """Write a store again in format 2, or by a smaller codec; without both mend it in place."""
    from tokenreel.cache.errors import UsageError
    from tokenreel.cache.format.identity import FORMAT_VERSION
    from tokenreel.cache.format.store_files import load_identity
    from tokenreel.cache.tools.copying import migrate_store, recode_store, upgrade_store

    if format_version not in (None, FORMAT_VERSION):
        raise UsageError(f"--format {format_version}: a store can be written in {FORMAT_VERSION}")
    if codec is not None and format_version is not None:
        raise UsageError("give --format or --codec; --codec writes the new store in format 2")
    if (codec is None and format_version is None) != (out is None):
        raise UsageError("a new store needs OUT and one of --format and --codec; else: in place")
    if out is not None:
        report = (
            upgrade_store(store, out) if codec is None else recode_store(store, out, codec=codec)
        )
        _close_copy(report, out, "written")
    changed = migrate_store(store)
    done = f"{len(changed)} clips brought up to date" if changed else "already current"
    say(f"{store}: {done} (format {load_identity(store)[0].format_version})")


@app.command()
def pool(
    store: StorePath,
    out: Annotated[Path, typer.Argument(help="the new store; the same command resumes it")],
) -> None:
    """Write the means of clip maps over space and over time: T + N tokens a clip, as float16."""
    from tokenreel.cache.tools.pool_maps import pool_store

    written = pool_store(store, out)
    say(f"{len(written)} clips pooled into {out}")


def _close_copy(report: "CopyReport", into: Path, done: str) -> NoReturn:
    """Say what was copied; status 3 where the target had clips that differ, and keeps."""
    say(f"{len(report.copied)} clips {done} to {into}")
    for name, what in report.differing.items():
        say(f"differs, stays as {into} has it: {on_one_line(f'{name}: {what}')}")
    finish(report.exit_status)


@app.command()
def gc(
    store: StorePath,
    *,
    older_than: Annotated[float, typer.Option(help="hours without a change")] = 24.0,
    yes: Yes = False,
) -> None:
    """Leftovers of killed writers: listed, and with --yes deleted."""
    from tokenreel.cache.tools.maintenance import collect_garbage

    found = collect_garbage(store, older_than_seconds=older_than * 3600, delete=yes)
    for entry, num_bytes in found:
        say(f"{num_bytes / 1e6:10.1f} MB  {entry}")
    total = sum(num_bytes for _, num_bytes in found) / 1e6
    done = "deleted" if yes else "would be deleted by --yes"
    say(f"{len(found)} leftovers, {total:.1f} MB, {done}" if found else "nothing to delete")
