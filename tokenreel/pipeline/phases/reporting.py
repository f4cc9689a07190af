"""`evaluate report` as a call: runs -> scores -> one page with their frames."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile
from tokenreel.cache.errors import Damaged, EmbeddingFileError, StoreError, limit_behind
from tokenreel.cache.format.clip import leaves_root
from tokenreel.cache.manifest import path_below
from tokenreel.cache.read.store_reader import Store, open_store
from tokenreel.evaluate.commands.suite import SuiteReport
from tokenreel.evaluate.data.clips import file_sha256, load_screened
from tokenreel.evaluate.report.build import make_report, write_report
from tokenreel.evaluate.report.data.gather import ReportConfig
from tokenreel.evaluate.report.pictures.frames import (
    ClipFrames,
    FrameSource,
    FramesUnreachable,
    Image,
)
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.types import VideoError
from tokenreel.pipeline.defaults import DATA, store_of_run, videos_of_store
from tokenreel.pipeline.phases.evaluation import evaluate_words, published_numbers, split_words

log = logging.getLogger(__name__)

SAME_SECONDS = 1e-3  # a frame further from its time than this is of another video


def report_words(
    words: Sequence[str],
    *,
    out: Path,
    root: Path | None = None,
    jobs: int = 0,
    memory: str = "2GB",
    config: ReportConfig | None = None,
) -> tuple[Path, SuiteReport]:
    """Evaluate what the words name, tables included, and write OUT/index.html.

    Args:
        words: as for `evaluate all`.
        out: folder of the page and the tables; existing rows are reused.
        root: folder of the videos; where they were when the store of a run was made, and
            data/<dataset>, when None.
        jobs: processors to use, 0 for all of this process.
        memory: for all processes together, such as "2GB".
        config: what the page shows.

    Raises:
        UsageError: a word that means nothing.
        EmbeddingFileError: no file of those named can be read.
    """
    _, paths = split_words(words)
    scores = evaluate_words(words, out=out, jobs=jobs, memory=memory)
    missing: dict[str, str] = {}
    page = report_scores(paths, scores, out=out, root=root, config=config, missing=missing)
    if missing:
        name, reason = next(iter(missing.items()))
        line = f"no frames of {len(missing)} clip(s), such as {name}: {reason} (--root: the videos)"
        scores = replace(scores, problems=(*scores.problems, line))
    return page, scores


def report_scores(
    paths: Sequence[Path],
    scores: SuiteReport,
    *,
    out: Path,
    root: Path | None = None,
    config: ReportConfig | None = None,
    missing: dict[str, str] | None = None,
) -> Path:
    """Write the page of embedding files that were evaluated; a file that was refused is left out.

    Args:
        paths: the files.
        scores: of them.
        out: folder of the page.
        root: as in report_words.
        config: what the page shows.
        missing: takes the reason for each clip whose file names a video that cannot be shown.

    Raises:
        EmbeddingFileError: every file was refused.
    """
    files: list[EmbeddingFile] = []
    for path in paths:
        try:
            files.append(load_screened(path, file_sha256(path)).file)
        except (EmbeddingFileError, OSError) as error:
            if limit := limit_behind(error):  # of all files
                raise limit from error
            last = error  # it is among the problems already
    if not files:
        raise EmbeddingFileError(f"no embedding file to report on: {last}")
    page = make_report(
        files,
        scores.scores,
        frames=_noting(frames_of(files, root), {} if missing is None else missing),
        clip_frames=stored_frames(files),
        config=config,
        published=published_numbers(),
        problems=scores.problems,
        progress=True,
    )
    return write_report(page, out)


def frames_of(files: Sequence[EmbeddingFile], root: Path | None) -> FrameSource:
    """The frames of the clips of files: below `root`.

    When None: where the videos of their stores were, and data/<dataset> of each.
    """
    if root is not None:
        return frames_below(store_path(root))
    folders: dict[Path, None] = {}
    for file in files:
        store = store_of_run(file.path.parent, file.provenance)
        folders |= {} if store is None else {videos_of_store(store): None}
        folders[DATA / str(file.provenance.get("dataset", ""))] = None
    return frames_below(*folders)


def stored_frames(files: Sequence[EmbeddingFile]) -> ClipFrames:
    """The times of all frames of a clip, of the first store of the files that is found and has it.

    A file of whole clips has one row of each, which is of its first frame.
    """

    @cache
    def stores() -> list[Store]:
        found = {store_of_run(file.path.parent, file.provenance): None for file in files}
        opened = []
        for path in [path for path in found if path is not None]:
            try:
                opened.append(open_store(path))
            except StoreError as error:
                log.warning("frames of clips are not shown from it: %s", error)
        return opened

    def with_frames(clip: EmbeddedClip) -> EmbeddedClip:
        for store in stores():
            record = store.records.get(clip.clip_id)
            if record is None or record.video != clip.video:
                continue
            try:
                times = store.times_seconds(clip.clip_id)
                index = store.frame_index(clip.clip_id)
            except Damaged as error:
                log.warning("%s: %s", clip.clip_id, error)
                continue
            return replace(clip, times_seconds=times, frame_index=index)
        return clip

    return with_frames


def _noting(source: FrameSource, missing: dict[str, str]) -> FrameSource:
    """The source; `missing` takes why the video that a clip names cannot be shown."""

    def noting(clip: EmbeddedClip, positions: Sequence[int]) -> Iterator[Image]:
        try:
            yield from source(clip, positions)
        except FramesUnreachable as error:
            if clip.video:
                missing[clip.clip_id] = str(error)
            raise

    return noting


def frames_below(*roots: Path) -> FrameSource:
    """A source of the frames of videos in folders, by the paths in the embedding file.

    The first folder that has the video of a clip is used.
    The source raises FramesUnreachable for a clip without a path or with one that leads out of the
    folders, a video that is not there or cannot be decoded, and one whose frames are not at the
    times of the clip.
    """

    def source(clip: EmbeddedClip, positions: Sequence[int]) -> Iterator[Image]:
        if not clip.video:
            raise FramesUnreachable(f"the embedding file names no video of {clip.clip_id}")
        if leaves_root(clip.video):
            raise FramesUnreachable(
                f"{clip.video!r} leads out of the folder of the videos: refused, name a path inside"
            )
        paths = [path_below(root, clip.video) for root in roots]
        path = next((path for path in paths if path.exists()), paths[0])
        try:
            yield from _read(path, clip, positions)
        except VideoError as error:
            raise FramesUnreachable(f"{path}: {error}") from error

    return source


def _read(path: Path, clip: EmbeddedClip, positions: Sequence[int]) -> Iterator[Image]:
    rate = _picture_fps(clip) if path.is_dir() else None
    base = probe(path, picture_fps=rate).time_base
    index = clip.frame_index if len(clip.frame_index) else np.arange(clip.num_frames)
    left = iter(positions)
    wanted = next(left, None)
    if wanted is None:
        return
    start_seconds = 0.0
    if clip.is_timed:
        start_seconds = max(0.0, float(clip.times_seconds[wanted]) - SAME_SECONDS)
    for frame in decode(path, from_seconds=start_seconds, picture_fps=rate, least_frames=1):
        if frame.index != index[wanted]:
            continue
        seconds, stated = float(frame.ticks * base), float(clip.times_seconds[wanted])
        if clip.is_timed and abs(seconds - stated) > SAME_SECONDS:
            raise FramesUnreachable(
                f"{path} is not the video of {clip.clip_id}: frame {frame.index} is at "
                f"{seconds:.3f} s, the embedding file has {stated:.3f} s"
            )
        yield frame.pixels
        wanted = next(left, None)
        if wanted is None:
            return
    raise FramesUnreachable(f"{path} has no frame {index[wanted]} of {clip.clip_id}")


def _picture_fps(clip: EmbeddedClip) -> float | None:
    """Pictures a second of a clip whose video is a folder of pictures, by its own times."""
    if not clip.is_timed or not len(clip.frame_index) or clip.times_seconds[-1] <= 0:
        return None
    return float(clip.frame_index[-1] / clip.times_seconds[-1]) or None
