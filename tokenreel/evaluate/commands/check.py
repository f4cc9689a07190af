"""`evaluate check`: contents, missing arrays and problems of an embedding file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenreel.cache.embedding_arrays import ArraySpec, array_specs, wrong_type
from tokenreel.cache.embeddings import EmbeddedClip, EmbeddingFile, read_embeddings
from tokenreel.cache.errors import EmbeddingFileError
from tokenreel.evaluate.data.clips import SPLITS, group_reasons, screen_clips
from tokenreel.evaluate.protocol import EvaluateConfig, settings_of

REQUIRED = ("embeddings", "lengths", "clip_id", "split")
PER_FRAME = ("labels", "times_seconds", "frame_index")
PER_CLIP = ("clip_id", "split", "action", "group", "video", "phases", "targets")
PER_FILE = ("unit", "class_names", "provenance")
WITHOUT = {  # optional array -> what is lost without it
    "labels": "tau within groups is all that can be computed",
    "times_seconds": "pictures count frames instead of seconds",
    "frame_index": "pictures take frame i of a video as frame i of the clip",
    "action": "all clips are one action",
    "group": "classification-unshared cannot be computed",
    "video": "no pictures of frames",
    "phases": "phases are numbered, and labels are not checked against their number",
}


ABOUT = ("run", "recipe", "seed", "dataset", "weights", "commit")  # of provenance


@dataclass(frozen=True)
class Checked:
    """Result of the check of a file.

    Attributes:
        facts: its contents, one sentence each.
        problems: reasons why it cannot be evaluated as it is.
        notes: missing arrays and the consequence of each.
    """

    facts: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether it can be evaluated as it is."""
        return not self.problems


def check_file(path: Path) -> Checked:
    """Check an HDF5 or .npz file of embeddings; docs/embeddings.md has the layout."""
    try:
        specs = array_specs(path)
    except EmbeddingFileError as error:
        return Checked((), (str(error),), ())
    shapes = {name: spec.shape for name, spec in specs.items()}
    problems = list(_problems_of_specs(specs))
    notes = [f"no {name}: {lost}" for name, lost in WITHOUT.items() if name not in shapes]
    unknown = sorted(set(shapes) - {*REQUIRED, *PER_FRAME, *PER_CLIP, *PER_FILE})
    if unknown:
        notes.append(f"not read: {', '.join(unknown)}")
    if problems:
        return Checked((), tuple(problems), tuple(notes))
    try:
        file = read_embeddings(path, finite=False)
    except EmbeddingFileError as error:
        return Checked((), (str(error),), tuple(notes))
    clips = file.clips
    notes += file.notes
    try:
        settings_of(file, EvaluateConfig())
    except EmbeddingFileError as error:
        problems.append(str(error))
    sound, left_out = screen_clips(clips)
    problems += group_reasons([reason for reasons in left_out.values() for reason in reasons])
    labelled = [clip for clip in sound if (clip.labels >= 0).any()]
    for action in sorted({clip.action for clip in labelled}):
        of_action = [clip for clip in labelled if clip.action == action]
        problems += _problems_of_action(action, of_action)
    splits = sorted({clip.split for clip in clips} - set(SPLITS))
    if splits:
        notes.append(f"splits {', '.join(map(repr, splits))} are none of {', '.join(SPLITS)}")
    return Checked(tuple(_facts(file)), tuple(problems), tuple(notes))


def _problems_of_specs(specs: Mapping[str, ArraySpec]) -> Iterator[str]:
    for name in (*REQUIRED, *PER_FRAME, *PER_CLIP, *PER_FILE):
        if name in specs and (reason := wrong_type(name, specs[name])):
            yield reason
    shapes = {name: spec.shape for name, spec in specs.items()}
    for name in REQUIRED:
        if name not in shapes:
            yield f"no array {name!r}: it is required"
    if "embeddings" in shapes and len(shapes["embeddings"]) != 2:
        yield f"embeddings are {shapes['embeddings']}, wanted (frames of all clips, channels)"
    for names, of in ((PER_FRAME, "embeddings"), (PER_CLIP, "lengths")):
        for name in names:
            if name not in shapes or not shapes.get(of):
                continue
            given = shapes[name][:1] if name == "targets" else shapes[name]
            if given != shapes[of][:1]:
                each = "frame" if of == "embeddings" else "clip"
                yield f"{name} are {shapes[name]}, wanted {shapes[of][:1]}: one a {each}"


def _problems_of_action(action: str, clips: Sequence[EmbeddedClip]) -> Iterator[str]:
    name = f"action {action!r}" if action else "its one action"
    train = [clip for clip in clips if clip.split == "train"]
    num_val = sum(clip.split == "val" for clip in clips)
    phases = {int(phase) for clip in train for phase in np.unique(clip.labels) if phase >= 0}
    if not train:
        yield f"{name}: no labelled clips of the split 'train': nothing to learn from"
    elif len(phases) < 2:
        yield f"{name}: its training clips hold one phase, a classifier needs 2"
    if num_val < 2:
        yield f"{name}: {num_val} labelled clip(s) of the split 'val', tau and AP@K need 2"
    num_phases = max((len(clip.phases) for clip in clips), default=0) or max(
        int(clip.labels.max()) + 1 for clip in clips
    )
    if min(int(clip.labels[clip.labels >= 0].min()) for clip in clips) > 0:
        yield f"{name}: no frame has phase 0: do its labels begin at 1? They count from 0"
    wanted = set(range(num_phases - 1))
    lacking = [clip for clip in clips if wanted - set(clip.labels.tolist())]
    if lacking:
        yield (
            f"{name}: {len(lacking)} clip(s) lack a phase, such as {lacking[0].clip_id}: "
            "progression needs absent_phase=tcc2021, lav or casa"
        )


def _facts(file: EmbeddingFile) -> Iterator[str]:
    clips = file.clips
    frames = sum(clip.num_frames for clip in clips)
    labelled = sum(int((clip.labels >= 0).sum()) for clip in clips)
    channels = clips[0].embeddings.shape[1]
    yield f"{len(clips)} clips, {frames} frames, {channels} channels, {labelled} frames labelled"
    counts = {split: sum(clip.split == split for clip in clips) for split in SPLITS}
    yield ", ".join(f"{count} clips of the split {split!r}" for split, count in counts.items())
    yield f"{len({clip.action for clip in clips})} action(s)"
    if file.unit != "frame":
        yield f"a row is a {file.unit}, called a frame here"
    if len(clips[0].targets):
        named = f": {_some(file.class_names)}" if file.class_names else ", without class_names"
        kind = "whole numbers" if clips[0].targets.dtype.kind == "i" else "floats"
        yield f"{len(clips[0].targets)} targets a clip, {kind}{named}"
    elif file.class_names:
        yield f"{len(file.class_names)} class_names, no targets: {_some(file.class_names)}"
    if file.provenance:
        words = (f"{name} {file.provenance[name]}" for name in ABOUT if name in file.provenance)
        yield f"made by: {', '.join(words) or ', '.join(sorted(file.provenance))}"
    norms = np.concatenate([np.linalg.norm(clip.embeddings, axis=1) for clip in clips])
    finite = norms[np.isfinite(norms)]
    if len(finite):
        unit = "unit length" if np.allclose(finite, 1, atol=1e-3) else "not of unit length"
        yield f"embeddings are {unit}: norms from {finite.min():.4g} to {finite.max():.4g}"


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f", and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
