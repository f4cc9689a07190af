"""`pouring`: the Pouring data set of TCC, one action in five phases.

    ROOT/pouring_train-0-of-2.tfrecord ...      as published: JPEG frames and labels in TFRecords
    ROOT/pouring_val-0-of-1.tfrecord
or
    ROOT/videos/<name>.mp4                      as CARL prepares it
    ROOT/train.pkl, ROOT/val.pkl

The frames of TFRecords are put, as they are, into one video for each record:
ROOT/packed/<split>-<name>.mkv, or elsewhere with data.packed=DIR.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tokenreel.cache.errors import UsageError
from tokenreel.cache.files import entries_of
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.pipeline.datasets.carl import FPS, SPLITS, check_phases, is_carl, read_carl
from tokenreel.pipeline.datasets.formats.jpegs import packed
from tokenreel.pipeline.datasets.formats.tfrecord import DamagedRecord, Example, read_examples
from tokenreel.pipeline.datasets.survey import (
    Survey,
    choose,
    frames_to_spans,
    refuse_unknown,
    resample,
    wrong_root,
)

NUM_PHASES = {"pouring": 5}
PUBLISHED = {"train": 70, "val": 14}
LAYOUT = __doc__.partition("\n\n")[2].partition("\n\n")[0]
LICENCE = "Pouring (TCC): terms not stated with the files"


def pouring(root: Path, options: Mapping[str, str]) -> Survey:
    """The videos of Pouring that are there, and how many there should be.

    Args:
        root: folder in one of the two layouts.
        options: `packed`, folder of the videos made from TFRecords; `pack`, "yes" or "no": with
            "no" nothing is written and a clip's video is its record, "file.tfrecord#0".

    Raises:
        UsageError: a root in neither layout, an unknown option, or a record of other things.
    """
    refuse_unknown("pouring", options, ["packed", "pack"])
    pack = choose(options, "pack", ("yes", "no")) == "yes"
    records = {split: entries_of(root, f"pouring_{split}*.tfrecord*") for split in SPLITS}
    notes: list[str] = []
    video_root = root
    if is_carl(root):
        clips, listed, notes = read_carl(
            root, action_of=lambda *_: "pouring", num_phases=NUM_PHASES
        )
    elif any(records.values()):
        video_root = Path(options.get("packed", root / "packed")) if pack else root
        clips, notes = _read_records(records, video_root if pack else None)
        listed = {split: sum(clip.split == split for clip in clips) for split in SPLITS}
        notes += [f"no pouring_{split}*.tfrecord" for split, files in records.items() if not files]
    else:
        raise wrong_root(root, LAYOUT, "neither pouring_*.tfrecord nor train.pkl or val.pkl")
    clips.sort(key=lambda clip: clip.clip_id)
    phases = {"pouring": tuple(f"phase {phase}" for phase in range(5))}
    manifest = Manifest("pouring", video_root, tuple(clips), phases, LICENCE, tuple(notes))
    return Survey(manifest, listed, PUBLISHED)


def _read_records(
    records: Mapping[str, list[Path]], folder: Path | None
) -> tuple[list[Clip], list[str]]:
    clips: dict[str, Clip] = {}
    notes: list[str] = []
    for split, paths in records.items():
        for path in paths:
            for example in _whole_examples(path, notes):
                clip = _clip(example, split, folder, notes)
                if clip.clip_id in clips:
                    raise UsageError(f"{example.where}: {clip.clip_id} is listed twice")
                clips[clip.clip_id] = clip
    return list(clips.values()), notes


def _whole_examples(path: Path, notes: list[str]) -> Iterator[Example]:
    """The records up to the first that is damaged, of a download that was cut short say."""
    try:
        yield from read_examples(path)
    except DamagedRecord as error:
        notes.append(f"{error}: it and what follows are left out")


def _clip(example: Example, split: str, folder: Path | None, notes: list[str]) -> Clip:
    names = example.context.get("name", [])
    if not names or not isinstance(names[0], bytes):
        raise UsageError(f"{example.where}: no name in its context")
    name = names[0].decode(errors="replace").replace("/", "_")
    pictures = [p for step in example.lists.get("video", []) for p in step if isinstance(p, bytes)]
    steps = example.lists.get("frame_labels", [])
    labels = check_phases([v for step in steps for v in step], "pouring", 5, example.where)
    if not pictures:
        raise UsageError(f"{example.where}: no pictures")
    if len(labels) > len(pictures):
        labels = [labels[j] for j in resample(len(labels), len(pictures))]
    elif 0 < len(labels) < len(pictures):
        pictures = [pictures[j] for j in resample(len(pictures), len(labels))]
    video = example.where
    if folder is not None:
        video = f"{split}-{name}.mkv"
        notes += packed(folder / video, pictures, fps=FPS, where=example.where)
    spans = frames_to_spans(labels, fps=FPS, where=example.where)
    return Clip(f"{split}/{name}", video, split=split, action="pouring", spans=spans)
