"""What a data set should hold beside what is there: `tokenreel data check DATASET --root DIR`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenreel.pipeline.datasets.survey import Survey, are_numbers


@dataclass(frozen=True)
class Coverage:
    """Clips and labelled seconds of a split.

    Attributes:
        split: "train", "val" or "test".
        published: clips of the complete data set, None where nobody published it.
        listed: clips that the annotation files name.
        found: clips whose video is there.
        labelled: of those, clips with at least one phase label or tag.
        labelled_seconds: of all phases.
    """

    split: str
    published: int | None
    listed: int
    found: int
    labelled: int
    labelled_seconds: float

    @property
    def expected(self) -> int:
        """Clips of the complete split: those published, or listed where more are."""
        return max(self.published or 0, self.listed)


@dataclass(frozen=True)
class Check:
    """The state of a data set.

    Attributes:
        dataset, root, licence, notes: as in the manifest.
        splits: coverage of each split.
        clips_of: (action, split) -> clips.
        seconds_of: (action, phase, split) -> labelled seconds.
        phases: names of the phases of each action.
        shared: groups with clips in train and in val.
        unreadable: files and folders that could not be read, each with the reason.
        tags_of: (tag, split) -> clips.
    """

    dataset: str
    root: Path
    licence: str
    notes: tuple[str, ...]
    splits: tuple[Coverage, ...]
    clips_of: Mapping[tuple[str, str], int]
    seconds_of: Mapping[tuple[str, int, str], float]
    phases: Mapping[str, tuple[str, ...]]
    shared: tuple[str, ...]
    unreadable: tuple[str, ...] = ()
    tags_of: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether all could be read, and every clip that is listed or published was found."""
        found = all(split.found >= split.expected for split in self.splits)
        return found and not self.unreadable

    @property
    def state(self) -> str:
        """Say "complete", or how partial it is, in one line."""
        if self.is_complete:
            return "complete"
        parts = ", ".join(f"{s.found} of {s.expected} {s.split}" for s in self.splits)
        return f"partial ({parts}): what is there can be used"

    def text(self) -> str:
        """What the command prints."""
        lines = [f"{self.dataset} in {self.root}", f"licence: {self.licence or 'not stated'}", ""]
        lines.append(f"{'split':6} {'published':>9} {'listed':>7} {'found':>7} {'labelled':>13}")
        for split in self.splits:
            published = "?" if split.published is None else str(split.published)
            share = f" {split.found / split.expected:7.1%}" if split.expected else ""
            lines.append(
                f"{split.split:6} {published:>9} {split.listed:7} {split.found:7} "
                f"{split.labelled:5} {split.labelled_seconds:6.0f}s{share}"
            )
        lines += ["", *self._actions(), *self._tags(), ""]
        lines.append(f"groups with clips in train and in val: {len(self.shared)}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"cannot be read: {reason}" for reason in self.unreadable]
        lines.append(self.state)
        return "\n".join(lines)

    def _actions(self) -> list[str]:
        names = [split.split for split in self.splits]
        lines = []
        for action in sorted({action for action, _ in self.clips_of} | set(self.phases)):
            counts = ", ".join(f"{self.clips_of.get((action, s), 0)} {s}" for s in names)
            lines.append(f"{action or '(no action)'}: {counts}")
            for phase, title in enumerate(self.phases.get(action, ())):
                seconds = [self.seconds_of.get((action, phase, s), 0.0) for s in names]
                values = ", ".join(f"{t:.1f}s {s}" for t, s in zip(seconds, names, strict=True))
                lines.append(f"    {phase:3} {title[:60]}: {values}")
        return lines

    def _tags(self) -> list[str]:
        tags = sorted({tag for tag, _ in self.tags_of})
        if are_numbers(tags):
            values = [float(tag) for tag in tags]
            return [f"numbers from {min(values):g} to {max(values):g}: {self._counts(tags)}"]
        return [f"tag {tag[:60]}: {self._counts([tag])}" for tag in tags]

    def _counts(self, tags: Sequence[str]) -> str:
        """How many clips of each split have one of the tags."""
        names = [split.split for split in self.splits]
        return ", ".join(
            f"{sum(self.tags_of.get((tag, split), 0) for tag in tags)} {split}" for split in names
        )


def check_survey(survey: Survey) -> Check:
    """Count what a survey found, by split, action and phase."""
    manifest = survey.manifest
    order = ("train", "val", "test")
    found = {clip.split for clip in manifest.clips}
    splits = [s for s in order if s in found | survey.listed.keys() | survey.published.keys()]
    clips_of: dict[tuple[str, str], int] = {}
    seconds_of: dict[tuple[str, int, str], float] = {}
    tags_of: dict[tuple[str, str], int] = {}
    for clip in manifest.clips:
        key = clip.action, clip.split
        clips_of[key] = clips_of.get(key, 0) + 1
        for tag in clip.tags:
            tags_of[tag, clip.split] = tags_of.get((tag, clip.split), 0) + 1
        for span in clip.spans:
            cell = clip.action, span.phase, clip.split
            length = span.stop_seconds - span.start_seconds
            seconds_of[cell] = seconds_of.get(cell, 0.0) + length
    train, val = (
        {clip.group for clip in manifest.clips if clip.split == split and clip.group}
        for split in ("train", "val")
    )
    return Check(
        manifest.dataset,
        manifest.root,
        manifest.licence,
        manifest.notes,
        tuple(_coverage(survey, split) for split in splits),
        clips_of,
        seconds_of,
        manifest.phases,
        tuple(sorted(train & val)),
        manifest.unreadable,
        tags_of,
    )


def _coverage(survey: Survey, split: str) -> Coverage:
    clips = [clip for clip in survey.manifest.clips if clip.split == split]
    return Coverage(
        split,
        survey.published.get(split),
        survey.listed.get(split, len(clips)),
        len(clips),
        sum(bool(clip.spans or clip.frame_labels or clip.tags) for clip in clips),
        sum(span.stop_seconds - span.start_seconds for clip in clips for span in clip.spans),
    )
