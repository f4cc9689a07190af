"""`extract scenes` as a call: words of the user -> scenes of a data set's videos."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import clip_key
from tokenreel.cache.manifest import path_below
from tokenreel.cache.plugins import nearest
from tokenreel.extract.scene_list import DESCRIPTION, read_description, read_scenes
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.run import (
    ScenesReport,
    WhenChanged,
    describe_method,
    extract_scenes,
)
from tokenreel.extract.video.types import VideoError
from tokenreel.pipeline.datasets import load_dataset
from tokenreel.pipeline.defaults import SCENES, root_of
from tokenreel.pipeline.override import apply_overrides
from tokenreel.pipeline.phases.extraction import data_options


def scenes_of_dataset(
    dataset: str,
    words: Sequence[str],
    *,
    root: Path | None = None,
    out: Path | None = None,
    changed: WhenChanged = "refuse",
) -> tuple[ScenesReport, Path]:
    """Find the scenes of the videos of a data set.

    Args:
        dataset: name of the data set.
        words: `key=value` for the method, `data.key=value` for the data set.
        root: folder of the videos; data/<dataset> when None.
        out: folder of the list; when None the one of this data set and method in scenes/.
        changed: see run.extract_scenes.

    Returns:
        What was done, and the folder.
    """
    options, rest = data_options(words)
    config = apply_overrides(ScenesConfig(), rest, root="scenes")
    made = {key: value for key, value in describe_method(config).items() if key != "versions"}
    digits = hashlib.sha256(canonical_json(made)).hexdigest()[:8]
    manifest = load_dataset(dataset, root or root_of(dataset), options)
    folder = out or SCENES / f"{manifest.dataset}-{config.method}-{digits}"
    return extract_scenes(manifest, config, folder, changed=changed), folder


def show_scenes(
    video: str,
    scenes: Path,
    *,
    root: Path | None = None,
    out: Path | None = None,
    most: int = 8,
) -> Path:
    """Draw the scenes of a video; returns the path of the picture.

    Args:
        video: as in the list.
        scenes: folder or file of `extract scenes`.
        root: folder of the videos; where `extract scenes` found them when None.
        out: the picture; named by the video when None.
        most: scenes shown, evenly chosen where there are more.

    Raises:
        UsageError: the list has no such video, or the video cannot be read.
    """
    found = read_scenes(scenes)
    if video not in found.scenes:
        raise UsageError(f"{scenes} has no video {video!r}{nearest(video, found.scenes)}")
    folder = scenes if scenes.is_dir() else scenes.parent
    beside = folder / DESCRIPTION
    made = read_description(beside) if beside.exists() else {}
    where = root or (Path(made["root"]) if made.get("root") else None)
    if where is None:
        raise UsageError("give --root, the folder of the videos")
    from tokenreel.extract.preview.scene_strip import draw_scenes, look_at_scenes

    path = path_below(store_path(where), video)
    try:
        picture = look_at_scenes(path, video, found.scenes[video], made=made, most=most)
    except VideoError as error:
        raise UsageError(f"{path}: {error}") from error
    return draw_scenes(picture, out or Path(clip_key(video) + ".png"))
