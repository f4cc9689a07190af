"""What `fuse apply` writes for a video: tables, the embedding file, a movie, and last the mark."""

import io
import logging
from collections.abc import Mapping, Sequence
from csv import writer
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.bucket.path import is_bucket, store_path
from tokenreel.cache.canonical import canonical_json, read_json
from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.cache.errors import Damaged, TokenReelError
from tokenreel.cache.files import make_directory, write_whole
from tokenreel.cache.manifest import path_below
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.source_state import TAG, source_state
from tokenreel.evaluate.escape import for_spreadsheet
from tokenreel.evaluate.report.pictures.movie import playback_rate, write_movie
from tokenreel.extract.video.types import VideoError
from tokenreel.pipeline.apply.captions import caption
from tokenreel.pipeline.apply.probes import Probe
from tokenreel.pipeline.apply.trained import Trained
from tokenreel.pipeline.defaults import EMBEDDINGS
from tokenreel.pipeline.phases.attention import file_name

log = logging.getLogger(__name__)

DONE = "applied.json"
PLACE = "path"  # of the video, in DONE: where it was
NUM_NEAREST = 10


@dataclass(frozen=True)
class Applied:
    """What was written for a video.

    Attributes:
        name: of the video, below the folder that all have in common.
        folder: of its files.
        was_done: whether it was there before.
        unseen_reason: why there is no movie, "" where there is one or none is made.
    """

    name: str
    folder: Path
    was_done: bool = False
    unseen_reason: str = ""


@dataclass(frozen=True, eq=False)
class Target:
    """A video and the folder of its results.

    Attributes:
        name: of the video.
        video: its path.
        folder: of its files.
        mark: what DONE says once it is done; of the video as it is before it is extracted.
    """

    name: str
    video: Path
    folder: Path
    mark: dict[str, Any]

    @classmethod
    def of(
        cls, name: str, root: Path, out: Path, trained: Trained, *, picture_fps: float | None
    ) -> "Target":
        """The target of a video below a folder.

        Raises:
            OSError: it cannot be looked at.
        """
        video = path_below(root, name)
        state = source_state(video)
        mark: dict[str, Any] = {
            "run": trained.path.resolve().name,
            "embeddings_sha256": trained.sha256,
            "action": trained.action,
            "video_bytes": state.num_bytes,
            "video_mtime_ns": state.mtime_ns,
        }
        if state.tag:
            mark[TAG] = state.tag
        if picture_fps is not None and video.is_dir():
            mark["picture_fps"] = picture_fps
        return cls(name, video, out / file_name(name), mark)

    def is_done(self) -> bool:
        """Whether the results of this run and video are there."""
        return {key: value for key, value in self._held().items() if key != PLACE} == self.mark

    def other_video(self) -> str:
        """The path of another video whose results are in the folder, "" for none."""
        place = str(self._held().get(PLACE, ""))
        there = store_path(place or self.video)
        if is_bucket(there) or is_bucket(self.video):
            is_other = there != self.video and there.exists()
        else:
            is_other = there.exists() and not there.samefile(self.video)
        return place if is_other else ""

    def _held(self) -> dict[str, Any]:
        try:
            value = read_json((self.folder / DONE).read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def set_done(self) -> None:
        """Write the mark, last."""
        place = {PLACE: str(self.video.absolute())}
        write_whole(self.folder / DONE, canonical_json({**self.mark, **place}))


def write_results(
    target: Target,
    clip: EmbeddedClip,
    provenance: Mapping[str, Any],
    trained: Trained,
    store: Store,
    *,
    movies: bool,
) -> Applied:
    """The files of a video, the mark last.

    Args:
        target: where they go.
        clip: the embedded video.
        provenance: of its embedding file.
        trained: of the run.
        store: of its tokens, for the frames of the movie.
        movies: write the movie of a run that names phases.

    Raises:
        Damaged: a run that gives other vectors than its embedding file has.
    """
    _require_alike(clip, trained)
    make_directory(target.folder)
    reason = ""
    if trained.probe is not None:
        clip, reason = _write_phases(target, clip, trained.probe, store, movies=movies)
    elif trained.score_names:
        rows = _scored(clip, trained.score_names)
        write_whole(target.folder / "predictions.csv", _table(rows))
    write_whole(target.folder / "nearest.csv", _table(_nearest(clip, trained.clips)))
    write_embeddings(
        target.folder / EMBEDDINGS, [clip], provenance=dict(provenance), unit=trained.unit
    )
    target.set_done()
    return Applied(target.name, target.folder, unseen_reason=reason)


def _require_alike(clip: EmbeddedClip, trained: Trained) -> None:
    held = trained.clips[0].embeddings.shape[1] if trained.clips else None
    given = clip.embeddings.shape[1]
    if held is not None and held != given:
        raise Damaged(
            f"{trained.path} gives vectors of {given} numbers, its {EMBEDDINGS} has {held}: type "
            "its `fuse train` again"
        )


def _write_phases(
    target: Target, clip: EmbeddedClip, probe: Probe, store: Store, *, movies: bool
) -> tuple[EmbeddedClip, str]:
    """The table and the movie of phases; the clip without labels, and why there is no movie."""
    shares = probe.probabilities(clip.embeddings)
    places = shares.argmax(axis=1)
    found = replace(clip, labels=probe.fit.classes[places].astype(np.int16), phases=probe.phases)
    write_whole(target.folder / "predictions.csv", _table(_predicted(found, shares, probe)))
    reason = ""
    if movies:
        try:
            _write_movie(target, found, shares.max(axis=1), store)
        except (VideoError, TokenReelError) as error:
            reason = str(error)
            log.warning("%s: no movie: %s", clip.clip_id, reason)
    return replace(clip, labels=np.full(clip.num_frames, -1, np.int16)), reason


def _table(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    lines = writer(text, lineterminator="\n")
    lines.writerows(for_spreadsheet(row) for row in rows)
    return text.getvalue().encode()


def _predicted(clip: EmbeddedClip, shares: NDArray[np.float64], probe: Probe) -> list[list[object]]:
    names = [probe.name(int(phase)) for phase in probe.fit.classes]
    rows: list[list[object]] = [["time_seconds", "phase", "probability", *names]]
    for moment, label, own in zip(clip.times_seconds, clip.labels, shares, strict=True):
        each = [round(float(share), 6) for share in own]
        rows.append([round(float(moment), 6), probe.name(int(label)), max(each), *each])
    return rows


def _scored(clip: EmbeddedClip, names: Sequence[str]) -> list[list[object]]:
    """A row for each score, the highest first."""
    scores = clip.embeddings[0][-len(names) :]
    rows: list[list[object]] = [["name", "score"]]
    for place in np.argsort(-scores, kind="stable").tolist():
        rows.append([names[place], round(float(scores[place]), 6)])
    return rows


def _nearest(clip: EmbeddedClip, others: Sequence[EmbeddedClip]) -> list[list[object]]:
    """Training clips by the mean distance of the video's frames to their nearest one."""
    own = clip.embeddings.astype(np.float64)
    squares = np.square(own).sum(axis=1)
    rows = []
    for other in others:
        theirs = other.embeddings.astype(np.float64)
        apart = squares[:, None] + np.square(theirs).sum(axis=1) - 2 * own @ theirs.T
        rows.append((float(np.sqrt(np.maximum(apart.min(axis=1), 0)).mean()), other))
    rows.sort(key=lambda row: (row[0], row[1].clip_id))
    head: list[list[object]] = [["clip", "action", "video", "distance"]]
    return head + [
        [other.clip_id, other.action, other.video, round(distance, 6)]
        for distance, other in rows[:NUM_NEAREST]
    ]


def _write_movie(
    target: Target, clip: EmbeddedClip, shares: NDArray[np.float64], store: Store
) -> None:
    from tokenreel.extract.preview.show import frames_as_seen

    record = store.record(clip.clip_id)
    every = np.arange(clip.num_frames)
    images = frames_as_seen(store, record, every, target.video)
    first = next(images)
    captions = (
        caption(image, clip, number, float(shares[number]))
        for number, image in enumerate(chain([first], images))
    )
    write_movie(
        target.folder / "phases.mp4",
        captions,
        rate=playback_rate(clip),
        times_seconds=clip.times_seconds,
    )
