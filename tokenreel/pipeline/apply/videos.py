"""Videos that a run is applied to: files, folders, and a folder that is watched."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenreel.cache.bucket.path import is_bucket, store_path
from tokenreel.cache.errors import ClipFailed, UsageError
from tokenreel.cache.manifest import path_below, text_of_name
from tokenreel.cache.source_state import source_state
from tokenreel.extract.signals import Stopping, interruption, stop_on_signals
from tokenreel.extract.video.pictures import LEAST_PICTURES, numbered_pictures
from tokenreel.extract.video.sniff import find_videos, is_named_video
from tokenreel.pipeline.apply.results import DONE, Applied
from tokenreel.pipeline.datasets.tree import walk_tree

POLL_SECONDS = 5.0  # between two looks at a watched folder


@dataclass(frozen=True)
class Videos:
    """Videos below a folder.

    Attributes:
        root: the folder.
        names: of video files and of folders of numbered pictures below it, sorted.
        unreadable: what could be a video and cannot be read.
    """

    root: Path
    names: list[str]
    unreadable: tuple[ClipFailed, ...] = ()


def list_videos(
    words: Sequence[Path], *, out: Path | None = None, root: Path | None = None
) -> Videos:
    """The videos of some files and folders, by their names below the folder they have in common.

    Args:
        words: files, and folders of which every video is taken; on a disk, or of one bucket.
        out: folder of results, which are no new videos; neither are those of another --out.
        root: the folder that names begin at, in the place of the common one.

    Raises:
        UsageError: a word that is not there, a folder without videos, or no word.
    """
    if any(is_bucket(store_path(word)) for word in words):
        return _list_on_bucket([store_path(word) for word in words])
    files: list[Path] = []
    unreadable: list[tuple[Path, str]] = []
    for word in words:
        if word.is_dir():
            inside, pictures = _look_into(word, out)
            found = find_videos(word, [_name_below(word, path) for path in inside])
            videos = [path_below(word, name) for name in found.videos] + pictures
            unreadable += [(path_below(word, name), why) for name, why in found.unreadable]
            if not videos and not unreadable:
                raise UsageError(f"{word}: no video in this folder")
            files += videos
        elif word.exists():
            files.append(word)
        else:
            raise UsageError(f"{word} does not exist: name videos or folders of videos")
    if not files and not unreadable:
        raise UsageError("no video is named: name videos or folders of videos")
    whole = list(dict.fromkeys(map(_absolute, files)))
    bad = {_absolute(path): why for path, why in unreadable}
    top = root or Path(os.path.commonpath([path.parent for path in [*whole, *bad]]))
    return Videos(
        top,
        sorted(_name_below(top, path) for path in whole),
        tuple(
            ClipFailed(_name_below(top, path), stage="open", reason=why)
            for path, why in bad.items()
        ),
    )


def _list_on_bucket(words: Sequence[Path]) -> Videos:
    """The videos of some objects and what is below some prefixes of one bucket.

    Raises:
        UsageError: a word that is not there or without videos; words of several places.
    """
    places = {word.parts[:2] if is_bucket(word) else None for word in words}
    if len(places) > 1:
        raise UsageError("videos of a bucket and of another place: name those of one at a time")
    files: list[Path] = []
    bad: list[tuple[Path, str]] = []
    for word in words:
        if word.is_file():
            files.append(word)
            continue
        names = walk_tree(word, follow_links=False).files
        if not names:
            raise UsageError(f"{word} does not exist: name videos or folders of videos")
        found = find_videos(word, names)
        if not found.videos and not found.unreadable:
            raise UsageError(f"{word}: no video in this folder")
        files += [path_below(word, name) for name in found.videos]
        bad += [(path_below(word, name), why) for name, why in found.unreadable]
    parents = [str(path.parent) for path in [*files, *(path for path, _ in bad)]]
    top = store_path(os.path.commonpath([text.replace("://", ":/") for text in parents]))
    return Videos(
        top,
        sorted({_name_below(top, path) for path in files}),
        tuple(ClipFailed(_name_below(top, path), stage="open", reason=why) for path, why in bad),
    )


def watch_folder(
    folder: Path,
    apply: Callable[[list[Path], Stopping], Iterator[Applied | ClipFailed]],
    *,
    out: Path | None = None,
) -> Iterator[Applied | ClipFailed]:
    """Apply a run to the videos of a folder as they come, until it is interrupted.

    A file is taken when it is the same at two looks; one that failed, when it has changed.

    Args:
        folder: that is watched.
        apply: apply_run, given the videos and what ends it.
        out: folder of results, which are no new videos.

    Raises:
        UsageError: no such folder.
        KeyboardInterrupt, SystemExit: from the iteration, where a signal came.
    """
    if is_bucket(store_path(folder)):
        raise UsageError(f"--watch {store_path(folder)}: a folder on a disk is watched, no bucket")
    if not folder.is_dir():
        raise UsageError(f"--watch {folder}: no such folder")
    return _watch(folder, apply, out)


def _watch(
    folder: Path,
    apply: Callable[[list[Path], Stopping], Iterator[Applied | ClipFailed]],
    out: Path | None,
) -> Iterator[Applied | ClipFailed]:
    before: dict[Path, object] = {}
    taken: dict[Path, object] = {}
    while True:
        now: dict[Path, object] = {}
        files, pictures = _look_into(folder, out)
        pictures = [path for path in pictures if path != folder]  # it grows
        for path in [*files, *pictures]:
            try:
                state = source_state(path)
            except OSError:
                continue  # it has gone
            now[path] = (state.num_bytes, state.mtime_ns, state.inode)
        settled = [
            path for path, state in now.items() if before.get(path) == state != taken.get(path)
        ]
        if settled:
            taken.update({path: now[path] for path in settled})
            files = [path for path in settled if path not in pictures]
            found = find_videos(folder, [_name_below(folder, path) for path in files])
            for name, why in found.unreadable:
                yield ClipFailed(name, stage="open", reason=why)
            videos = [path_below(folder, name) for name in found.videos]
            videos += [path for path in settled if path in pictures]
            if videos:
                with stop_on_signals() as stopping:
                    yield from (each for each in apply(videos, stopping) if not _was_done(each))
                if stopping.event.is_set():  # also where all of them were done by then
                    raise interruption(stopping.signal)
        before = now
        time.sleep(POLL_SECONDS)


def _was_done(found: Applied | ClipFailed) -> bool:
    return isinstance(found, Applied) and found.was_done


def _look_into(folder: Path, out: Path | None) -> tuple[list[Path], list[Path]]:
    """Files below a folder, and folders of numbered pictures; results of this command left out."""
    files: list[Path] = []
    pictures: list[Path] = []
    results = None if out is None else _absolute(out)
    for inner, folders, names in os.walk(folder):
        here = Path(inner)
        if DONE in names or _absolute(here) == results:
            folders.clear()
            continue
        folders.sort()
        shown = [name for name in sorted(names) if not name.startswith(".")]
        numbered = numbered_pictures(shown)
        if len(numbered) >= LEAST_PICTURES and not any(map(is_named_video, shown)):
            pictures.append(here)
            shown = [name for name in shown if name not in set(numbered)]
        files += [here / name for name in shown]
    return files, pictures


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  links stay


def _name_below(root: Path, path: Path) -> str:
    return text_of_name(path.relative_to(root).as_posix())
