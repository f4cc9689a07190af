"""The scenes of every video of a data set: a file for each video, then one list of all.

    scenes.json         how the scenes are found, written first; with the videos, once they are done
    videos/<key>.json   the scenes of a video and the file they are of, written when it is done
    scenes.csv          the scenes of all videos

Each file is written whole, so that a run that was killed is resumed by another one, and ends in the
same bytes.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from tokenreel.cache.canonical import (
    canonical_json,
    field_differences,
    open_seal,
    parse_object,
    seal,
)
from tokenreel.cache.errors import ClipFailed, Damaged, ServiceError, UsageError, WrongIdentity
from tokenreel.cache.files import make_directory, read_file, write_whole
from tokenreel.cache.format.clip import clip_key
from tokenreel.cache.format.identity import RULES_VERSION
from tokenreel.cache.locks import lock_folder
from tokenreel.cache.manifest import Manifest, path_below
from tokenreel.cache.progress import Progress
from tokenreel.cache.source_state import describe_source, source_sha256, source_state
from tokenreel.extract.scene_list import (
    CSV,
    DESCRIPTION,
    Scene,
    SceneSource,
    csv_bytes,
    read_description,
    sha256_of,
)
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.methods import cutter_for
from tokenreel.extract.scenes.processes import segment_all
from tokenreel.extract.scenes.segment import Segmented, SegmentJob
from tokenreel.extract.signals import status_of_signal, stop_on_signals

log = logging.getLogger(__name__)

VIDEOS = "videos"
WhenChanged = Literal["refuse", "replace", "keep"]


@dataclass
class ScenesReport:
    """What a run did.

    Attributes:
        found: videos whose scenes were found.
        kept: videos whose scenes an earlier run had found.
        failed: videos that could not be read.
        changed: by video, what the file was and what it is, where its scenes are of another one.
        unreadable: files and folders of the data set that could not be read, with the reason.
        accepts_changed: whether such scenes are kept on purpose.
        num_scenes: of all videos in the list.
        signal: number of the signal that ended the run early, 0 for none.
    """

    found: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: list[ClipFailed] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    accepts_changed: bool = False
    num_scenes: int = 0
    signal: int = 0

    @property
    def exit_status(self) -> int:
        """130 or 143 where a signal ended the run, 3 where a video failed or is refused, else 0."""
        if self.signal:
            return status_of_signal(self.signal)
        return 3 if self.failed or self.refused or self.unreadable else 0

    @property
    def refused(self) -> list[str]:
        """Videos in the list whose scenes are of another file than the present one."""
        return [] if self.accepts_changed else [v for v in self.changed if v in self.kept]

    def table(self) -> str:
        """Summary of the run in a few lines."""
        lines = [
            f"videos  {len(self.found)} read, {len(self.kept)} done before, "
            f"{len(self.failed)} failed, {len(self.changed)} changed",
            f"scenes  {self.num_scenes}",
        ]
        if self.refused:
            lines.append(
                "the scenes of changed videos are those of the earlier files, which `extract run` "
                "refuses: `--changed replace` finds them again"
            )
        if self.signal:
            lines[1:] = ["stopped early, no list is written; rerun to resume"]
        return "\n".join(lines)


def extract_scenes(
    manifest: Manifest,
    config: ScenesConfig,
    out: Path,
    *,
    changed: WhenChanged = "refuse",
    progress: bool = True,
) -> ScenesReport:
    """Find the scenes of the videos of a manifest, and write them into a folder.

    Args:
        manifest: of the clips; each of their videos is read once, from its beginning to its end.
        config: the method.
        out: the folder; created when absent.
        changed: what is done with scenes that an earlier run found in a video that is another file
            now: "refuse" and "keep" leave them, "replace" finds them again.
        progress: whether to draw a bar of videos.

    Returns:
        The report; videos that failed are in it.

    Raises:
        UsageError: scenes.csv was edited by hand, or the method needs a package that is missing.
        WrongIdentity: the folder holds scenes found in another way.
        MachineError: a limit of this machine: a full disk, too little memory.
    """
    made = describe_method(config)
    make_directory(out / VIDEOS)
    report = ScenesReport(unreadable=list(manifest.unreadable), accepts_changed=changed == "keep")
    with lock_folder(out, waiting="another process finds scenes here; waiting"):
        known = _begin(out, made)
        rates = {clip.video: clip.picture_fps for clip in manifest.clips}
        done = _done_before(out, manifest.root, rates, changed, report)
        jobs = [
            SegmentJob(manifest.root, video, rates[video], config)
            for video in sorted(rates, key=lambda video: (-_size(manifest.root, video), video))
            if video not in done
        ]
        workers = config.workers or len(os.sched_getaffinity(0))
        with (
            stop_on_signals() as stopping,
            Progress(desc="scenes", unit="video", total=len(jobs), enabled=progress) as bar,
        ):
            outcomes = segment_all(
                jobs,
                workers=workers,
                timeout_seconds=config.timeout_seconds,
                is_over=stopping.event.is_set,
            )
            for job, outcome in outcomes:
                if isinstance(outcome, Segmented):
                    _write_video(out, job, outcome)
                    done[job.video] = outcome
                    report.found.append(job.video)
                else:
                    stage, reason = outcome
                    failure = ClipFailed(job.video, stage=stage, reason=reason)
                    log.warning("%s", failure)
                    report.failed.append(failure)
                bar.update()
            report.signal = stopping.signal
        if not report.signal:
            _finish(out, made, known, manifest.root, done, report)
    return report


def describe_method(config: ScenesConfig) -> dict[str, Any]:
    """Everything that the scenes of a video depend on, and versions of packages.

    Raises:
        UsageError: the method needs a package that is not installed.
    """
    cutter = cutter_for(config)
    return {
        "method": config.method,
        "parameters": cutter.parameters,
        "rules": RULES_VERSION,
        "versions": {name: _version(name) for name in ("tokenreel", *cutter.packages)},
    }


def _version(package: str) -> str:
    for name in (package, f"{package}-headless"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "absent"


def _begin(out: Path, made: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of scenes.json, which is written where there is none.

    Raises:
        WrongIdentity: the folder holds scenes found in another way.
        UsageError: scenes.csv is not as it was written.
    """
    path, table = out / DESCRIPTION, out / CSV
    if not path.exists():
        if table.exists():
            raise UsageError(f"{table}: without {DESCRIPTION} beside it: give another --out")
        write_whole(path, canonical_json(seal(dict(made))))
        return dict(made)
    known = read_description(path)
    names = ("method", "parameters", "rules")
    rows = field_differences({n: known.get(n) for n in names}, {n: made[n] for n in names})
    if rows:
        told = "\n".join(
            f"  {name}: found {here!r}, wanted {there!r}" for name, here, there in rows
        )
        raise WrongIdentity(f"{out} holds scenes found in another way:\n{told}\nuse another --out")
    written = {known.get("csv_sha256"), known.get("former_csv_sha256")}
    if table.exists() and sha256_of(table) not in written:
        raise UsageError(
            f"{table} was edited since it was written, and would be lost: move it, or give another "
            "--out"
        )
    return known


def _done_before(
    out: Path,
    root: Path,
    videos: Mapping[str, float | None],
    changed: WhenChanged,
    report: ScenesReport,
) -> dict[str, Segmented]:
    """The videos whose scenes an earlier run found, as far as they are the same files."""
    done: dict[str, Segmented] = {}
    for video in sorted(videos):
        found = _read_video(out, video, videos[video])
        if found is None:
            continue
        what = _change(path_below(root, video), found.source)
        if what:
            report.changed[video] = f"{video}: {what}"
        if what and changed == "replace":
            continue
        done[video] = found
        report.kept.append(video)
    return done


def _change(path: Path, source: SceneSource) -> str:
    """What a video was and is, where it is not the file of before; "" where it is."""
    was = describe_source(source.num_bytes, source.mtime_ns, source.sha256)
    try:
        now = source_state(path)
        if (now.num_bytes, now.mtime_ns) == (source.num_bytes, source.mtime_ns):
            return ""
        is_as_large = now.num_bytes == source.num_bytes
        if is_as_large and bool(now.tag) == bool(source.sha256):
            return ""  # it was copied to a bucket, or from there, where videos are not hashed
        sha256 = source_sha256(path) if is_as_large and not now.tag else ""
    except ServiceError:
        raise
    except OSError as error:
        return f"was {was}, is unreadable: {(error.strerror or str(error)).lower()}"
    if sha256 == source.sha256 != "":
        return ""
    return f"was {was}, is {describe_source(now.num_bytes, now.mtime_ns, sha256)}"


def _video_file(out: Path, video: str) -> Path:
    return out / VIDEOS / f"{clip_key(video)}.json"


def _write_video(out: Path, job: SegmentJob, found: Segmented) -> None:
    values = {
        "video": job.video,
        "picture_fps": job.picture_fps,
        "source": _values(found.source),
        "scenes": [_values(scene) for scene in found.scenes],
    }
    write_whole(_video_file(out, job.video), canonical_json(seal(values)))


def _read_video(out: Path, video: str, picture_fps: float | None) -> Segmented | None:
    """The scenes of a video that an earlier run wrote; None where there are none, or torn ones."""
    path = _video_file(out, video)
    if not path.exists():
        return None
    try:
        values = open_seal(parse_object(read_file(path), where=path), where=path)
    except Damaged as error:
        log.warning("%s: found again", error)
        return None
    if (values["video"], values["picture_fps"]) != (video, picture_fps):
        return None
    scenes = tuple(Scene(*scene) for scene in values["scenes"])
    return Segmented(SceneSource(*values["source"]), scenes)


def _values(item: Scene | SceneSource) -> list[Any]:
    return [getattr(item, name) for name in item.__slots__]


def _finish(
    out: Path,
    made: Mapping[str, Any],
    known: Mapping[str, Any],
    root: Path,
    done: Mapping[str, Segmented],
    report: ScenesReport,
) -> None:
    """Write scenes.json, then scenes.csv, of which the former has the hash.

    Of a run that is killed between the two, scenes.json has the hash of the earlier list too.
    """
    scenes = {video: found.scenes for video, found in done.items()}
    report.num_scenes = sum(map(len, scenes.values()))
    table = csv_bytes(scenes)
    values = {
        **made,
        "versions": known["versions"],  # of the first run, which found most
        "root": str(root.absolute()),
        "csv_sha256": hashlib.sha256(table).hexdigest(),
        "sources": {video: _values(found.source) for video, found in sorted(done.items())},
        "failed": {failed.clip_id: [failed.stage, failed.reason] for failed in report.failed},
    }
    if (out / CSV).exists():
        values["former_csv_sha256"] = sha256_of(out / CSV)
    write_whole(out / DESCRIPTION, canonical_json(seal(values)))
    write_whole(out / CSV, table)
    values.pop("former_csv_sha256", None)
    write_whole(out / DESCRIPTION, canonical_json(seal(values)))


def _size(root: Path, video: str) -> int:
    try:
        return path_below(root, video).stat().st_size
    except OSError:
        return 0
