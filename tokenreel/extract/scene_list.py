"""The scenes of videos as files: scenes.csv, and scenes.json beside it, which says how it was made.

`extract scenes` writes both.  A list of another program, or one corrected by hand, is read as well:
every line is checked, and the scenes are part of the identity of a store made with them.
"""

import csv
import hashlib
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenreel.cache.canonical import canonical_json, open_seal, parse_object
from tokenreel.cache.csv_tables import Line, read_table
from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.files import read_file
from tokenreel.cache.source_state import describe_source

log = logging.getLogger(__name__)

CSV, DESCRIPTION = "scenes.csv", "scenes.json"
COLUMNS = ("video", "scene", "start_seconds", "stop_seconds", "centre_seconds", "num_frames")


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene of a video, [start, stop).

    Attributes:
        start_seconds: time of its first frame.
        stop_seconds: time of the first frame of the next one, or end of the video.
        centre_seconds: time of its centre frame, in [start, stop).
        num_frames: frames that begin in it.
    """

    start_seconds: float
    stop_seconds: float
    centre_seconds: float
    num_frames: int

    @property
    def times(self) -> tuple[float, float, float]:
        """Start, stop and centre."""
        return self.start_seconds, self.stop_seconds, self.centre_seconds


@dataclass(frozen=True, slots=True)
class SceneSource:
    """The file that the scenes of a video were found in.

    Attributes:
        num_bytes: size.
        mtime_ns: when it was last changed.
        sha256: of its bytes.
    """

    num_bytes: int
    mtime_ns: int
    sha256: str


ScenesOfVideos = Mapping[str, tuple[Scene, ...]]


@dataclass(frozen=True)
class SceneList:
    """The scenes of some videos.

    Attributes:
        scenes: of each video, in order of time.
        sources: of each video, where scenes.json names them.
        sha256: of the canonical JSON of {video: [[start, stop, centre], ...]}, in seconds.
    """

    scenes: ScenesOfVideos
    sources: Mapping[str, SceneSource] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """See above."""
        times = {
            video: [list(scene.times) for scene in scenes] for video, scenes in self.scenes.items()
        }
        return hashlib.sha256(canonical_json(times)).hexdigest()


def change_of_version(
    listed: SceneList, video: str, sha256: str, num_bytes: int | None = None
) -> str:
    """Why the scenes of a video are of another version of its file; "" where they are not.

    A video on a bucket has no hash: then the sizes are compared.

    Args:
        listed: the scenes.
        video: its name.
        sha256: of the file as it is; "" when unknown.
        num_bytes: size of the file as it is.
    """
    source = listed.sources.get(video)
    if source is None or source.sha256 == sha256 != "":
        return ""
    is_hashed = bool(source.sha256 and sha256)
    if not is_hashed and num_bytes in (None, source.num_bytes):
        return ""
    was = describe_source(source.num_bytes, source.mtime_ns, source.sha256)
    now = f"now its sha256 is {sha256[:12]}" if is_hashed else f"now it has {num_bytes} bytes"
    return (
        f"its scenes are of another version of the video, {was}; {now}: "
        "`extract scenes DATASET --changed replace` finds them again"
    )


def csv_bytes(scenes: ScenesOfVideos) -> bytes:
    """The text of scenes.csv: videos in order of name, scenes in order of time, numbered from 0."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for video in sorted(scenes):
        for number, scene in enumerate(scenes[video]):
            writer.writerow([video, number, *map(repr, scene.times), scene.num_frames])
    return text.getvalue().encode()


def read_scenes(path: Path) -> SceneList:
    """Read scenes.csv, or the folder that holds it, and scenes.json beside it.

    A file that is not as `extract scenes` wrote it is read with a warning.

    Raises:
        UsageError: a file that cannot be read, or a line that is wrong; file and line are named.
        Damaged: scenes.json cannot be read.
    """
    file = path / CSV if path.is_dir() else path
    try:
        status = file.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{file}: {reason}; `extract scenes DATASET` makes one") from error
    beside = file.with_name(DESCRIPTION)
    changed = beside.stat().st_mtime_ns if beside.exists() else 0
    return _read(file.absolute(), status.st_size, status.st_mtime_ns, changed)


@lru_cache(maxsize=4)
def _read(file: Path, num_bytes: int, mtime_ns: int, json_mtime_ns: int) -> SceneList:
    """The scenes of a file; read again where its size or time, or that of its JSON, differs."""
    scenes = read_csv(file)
    if not json_mtime_ns:
        log.warning("%s: no %s beside it: versions of videos are not compared", file, DESCRIPTION)
        return SceneList(scenes)
    made = read_description(file.with_name(DESCRIPTION))
    digest = sha256_of(file)
    if not made.get("csv_sha256") or digest == made.get("former_csv_sha256"):
        raise UsageError(f"{file}: `extract scenes` has not finished: rerun it")
    if made["csv_sha256"] != digest:
        log.warning("%s: edited since `extract scenes` wrote it; every line was checked", file)
    sources = {video: SceneSource(*source) for video, source in made["sources"].items()}
    return SceneList(scenes, sources)


def read_csv(file: Path) -> ScenesOfVideos:
    """The scenes of a CSV file, each line checked.

    Raises:
        UsageError: see read_scenes.
    """
    found: dict[str, list[Scene]] = {}
    for line in read_table(file, required=COLUMNS):
        video = line.cells["video"]
        if not video:
            raise UsageError(f"{line.where}: video is empty")
        before = found.setdefault(video, [])
        before.append(_scene_of(line, before))
    if not found:
        raise UsageError(f"{file.name}: lists no scene")
    return {video: tuple(found[video]) for video in sorted(found)}


def _scene_of(line: Line, before: list[Scene]) -> Scene:
    """The scene of a line, which follows others of its video."""
    start, stop, centre = (line.seconds(name) for name in COLUMNS[2:5])
    if _count(line, "scene") != len(before):
        raise UsageError(
            f"{line.where}: scene is {line.cells['scene']}, but {len(before)} of "
            f"{line.cells['video']} are listed before: number them from 0, in order of time"
        )
    if not start < stop:
        raise UsageError(f"{line.where}: the scene ends at {stop:g} s, not after {start:g} s")
    if not start <= centre < stop:
        raise UsageError(
            f"{line.where}: centre_seconds is {centre:g}, not in the scene [{start:g}, {stop:g})"
        )
    if before and start < before[-1].stop_seconds:
        raise UsageError(
            f"{line.where}: the scene starts at {start:g} s, before the one above it ends at "
            f"{before[-1].stop_seconds:g} s"
        )
    num_frames = _count(line, "num_frames")
    if num_frames < 1:
        raise UsageError(f"{line.where}: num_frames is 0")
    return Scene(start, stop, centre, num_frames)


def _count(line: Line, column: str) -> int:
    text = line.cells[column]
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise UsageError(f"{line.where}: {column} is {text!r}, not a whole number from 0")
    return int(text)


def read_description(path: Path) -> dict[str, Any]:
    """The contents of scenes.json.

    Raises:
        Damaged: it is no sealed JSON.
    """
    try:
        return open_seal(parse_object(read_file(path), where=path), where=path)
    except Damaged as error:
        raise Damaged(f"{error}; `extract scenes` writes it again once it is removed") from error


def sha256_of(file: Path) -> str:
    """SHA-256 of the bytes of a file."""
    return hashlib.sha256(read_file(file)).hexdigest()
