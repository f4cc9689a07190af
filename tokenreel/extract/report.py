"""Report of an extraction: clips, frames, bytes, seconds and failures."""

import threading
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenreel.cache.errors import ClipFailed, TokenReelError
from tokenreel.extract.signals import status_of_signal

SHOWN = 5  # names of clips in a line
STAGES = ("decode", "backbone", "encode", "write")


@dataclass
class ExtractReport:
    """Counts of one run.

    Attributes:
        committed: ids of the clips written now.
        skipped: ids of clips that were committed before, or are claimed by another writer.
        failed: clips put in quarantine now, each with its stage and reason.
        quarantined: clips that were in quarantine before and were not retried.
        unreadable: files and folders of the data set that could not be read, with the reason.
        num_over_limit: clips left out by a limit.
        replaced: ids of the committed clips that took the place of others, of changed videos.
        changed: of each clip whose video or range is not what was extracted and that was not
            replaced, what was and what is; by id.
        accepts_changed: whether the user keeps such clips as they are.
        left: ids of clips of the store that the data set has no more.
        labels: a line for each kind of labels that the data set has changed since.
        num_compared: videos of committed clips that were compared with their records.
        num_hashed: of them, those that were hashed.
        missing: of each committed clip whose video cannot be looked at, the reason; by id.
        num_unlisted: clips left out, as frames=listed:FILE has no time in them.
        num_in_work: of those skipped, clips that other writers work on.
        num_frames: frames of the clips committed now.
        num_repeated: frames that were taken again, where a clip or its last window has too few.
        num_moved: frames whose time stamps repeated others', in clips committed now.
        num_tried_again: clips in quarantine whose video, range or labels changed since.
        num_other_rules: clips committed now by later rules than those of the store.
        num_appended: frames written now, those of uncommitted clips included.
        num_bytes: bytes of their tokens.
        seconds: of each stage: "decode" and "write" are means over their processes and threads;
            "wait" is the time that the backbone was idle; "total" is wall-clock time.
        peak_bytes: peak memory of this process plus those of its decode processes.
        peak_device_bytes: peak memory of the GPU.
        num_clips: clips of this job that there are to extract, those done before among them.
        signal: number of the signal that ended the run early, 0 for none.
    """

    committed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[ClipFailed] = field(default_factory=list)
    quarantined: list[ClipFailed] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    num_over_limit: int = 0
    replaced: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    accepts_changed: bool = False
    left: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    num_compared: int = 0
    num_hashed: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    num_unlisted: int = 0
    num_in_work: int = 0
    num_frames: int = 0
    num_repeated: int = 0
    num_moved: int = 0
    num_tried_again: int = 0
    num_other_rules: int = 0
    num_appended: int = 0
    num_bytes: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys((*STAGES, "wait", "total"), 0.0)
    )
    peak_bytes: int = 0
    peak_device_bytes: int = 0
    num_clips: int = 0
    signal: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def wrote(self, num_frames: int, num_bytes: int) -> None:
        """Count frames that were written; from any thread."""
        with self._lock:
            self.num_appended += num_frames
            self.num_bytes += num_bytes

    @property
    def stopped(self) -> bool:
        """Whether a signal ended the run early."""
        return self.signal != 0

    @property
    def num_missing(self) -> int:
        """Clips that were not reached."""
        kept = self.changed.keys() - {*self.committed, *self.skipped}
        reached = len(self.committed) + len(self.skipped) + len(kept)
        return max(0, self.num_clips - reached - len(self.failed) - len(self.quarantined))

    @property
    def exit_status(self) -> int:
        """130 (Ctrl-C) or 143 where a signal left clips unreached, else 3 or 0.

        3 where a clip failed, changed, has old labels or was not reached, or something could not be
        read.
        """
        if self.stopped and (self.num_missing or not self.num_clips):
            return status_of_signal(self.signal)
        is_refused = bool(self.changed) and not self.accepts_changed
        is_partial = any((self.failed, self.quarantined, self.unreadable, self.labels))
        is_partial = is_partial or self.num_missing > 0
        return 3 if is_partial or is_refused else 0

    def require_reached(self) -> None:
        """End the process with 130 or 143 where a signal left clips unreached.

        For what goes on with the store: a part of the clips is not what was asked for.
        """
        if self.exit_status > 128:
            raise SystemExit(self.exit_status)

    def has_too_many_failures(self, max_failures: int | None) -> bool:
        """Whether more clips have failed than the user allows; None allows any number."""
        return max_failures is not None and len(self.failed) > max_failures

    def check_failures(self, max_failures: int | None) -> None:
        """Raise TokenReelError where more clips have failed than the user allows."""
        if self.has_too_many_failures(max_failures):
            raise TokenReelError(
                f"{len(self.failed)} clips failed, more than max_failures={max_failures}; "
                f"the last: {self.failed[-1]}"
            )

    def note_quarantine(self, records: Iterable[Mapping[str, Any]], names: Container[str]) -> None:
        """Add clips in quarantine that the report does not have: as failed in this run.

        Args:
            records: of the store's quarantine.
            names: ids of the clips of this run.
        """
        known = {failure.clip_id for failure in (*self.failed, *self.quarantined)}
        for record in records:
            if record["clip_id"] in names and record["clip_id"] not in known:
                stage, reason = str(record["stage"]), str(record["reason"])
                self.failed.append(ClipFailed(str(record["clip_id"]), stage=stage, reason=reason))

    def status(self) -> str:
        """Status at the end of the progress line: time share of each stage, bytes, failures."""
        total = max(self.seconds["total"], 1e-9)
        shares = ", ".join(f"{name} {self.seconds[name] / total:.0%}" for name in STAGES)
        return f"{shares}, {self.num_bytes / 1e9:.2f} GB, {len(self.failed)} failed"

    def table(self) -> str:
        """Summary of the run in a few lines."""
        total = self.seconds["total"]
        rate = self.num_frames / total if total else 0.0
        stages = ", ".join(f"{name} {self.seconds[name]:.1f} s" for name in (*STAGES, "wait"))
        held = f", {len(self.quarantined)} in quarantine" if self.quarantined else ""
        held += f", {self.num_over_limit} left out by --limit" if self.num_over_limit else ""
        held += f", {self.num_unlisted} without a listed time" if self.num_unlisted else ""
        changed = f", {len(self.changed)} changed" if self.changed else ""
        changed += f" ({len(self.replaced)} replaced)" if self.replaced else ""
        repeated = f", {self.num_repeated} repeated" if self.num_repeated else ""
        repeated += f", {self.num_moved} with repeated time stamps" if self.num_moved else ""
        device = f", GPU {self.peak_device_bytes / 1e9:.1f} GB" if self.peak_device_bytes else ""
        lines = [
            f"clips   {len(self.committed)} committed, {len(self.skipped)} skipped, "
            f"{len(self.failed)} failed{held}{changed}",
            f"frames  {self.num_frames} in {total:.1f} s ({rate:.1f}/s){repeated}",
            f"tokens  {self.num_bytes / 1e9:.3f} GB",
            f"stages  {stages}",
            f"memory  {self.peak_bytes / 1e9:.2f} GB at most{device}",
        ]
        refused = sum(failure.stage == "rules" for failure in (*self.failed, *self.quarantined))
        if refused:
            lines.append(
                f"{refused} clip(s) have other frames by the present rules of time and geometry "
                "than by those of the store: `extract run ... --changed replace` adds them"
            )
        lines += self._changes()
        if self.num_tried_again:
            lines.append(
                f"{self.num_tried_again} clip(s) in quarantine were tried again: their videos, "
                "ranges or labels changed since they failed"
            )
        if self.num_in_work:
            lines.append(
                f"{self.num_in_work} clip(s) are left to other writers, which have them in work: "
                "`tokenreel status STORE` says how far these are"
            )
        if self.quarantined:
            lines.append("retry clips in quarantine with `extract retry STORE`")
        if self.stopped:
            lines.append(f"stopped early, {self.num_missing} clips missing; rerun to resume")
        elif self.num_missing:
            lines.append(f"{self.num_missing} clip(s) were not extracted; rerun to resume")
        return "\n".join(lines)

    def _changes(self) -> list[str]:
        """What is not as it was when it was extracted, a line each; nothing where all is."""
        lines = []
        if self.num_hashed or self.changed or self.missing:
            lines.append(
                f"videos  {self.num_compared} compared with the store, {self.num_hashed} hashed, "
                f"{len(self.changed)} clip(s) changed, {len(self.missing)} without their video"
            )
        if self.changed:
            kept = "kept as they were extracted" if self.accepts_changed else "not extracted again"
            lines.append(
                f"{len(self.changed)} clip(s) are of videos or ranges that changed, {kept}: "
                "`extract run ... --changed replace` extracts them again"
                + ("" if self.accepts_changed else ", `--changed keep` keeps them")
            )
        if self.labels:
            lines += self.labels
            lines.append(
                "the store has the labels that were extracted: `tokenreel store relabel STORE "
                "--root ROOT` renews them once all fit, no video is read"
            )
        if self.left:
            lines.append(
                f"{len(self.left)} clip(s) of the store are no longer in the data set and stay: "
                + _some(self.left)
            )
        return lines

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _some(names: Sequence[str]) -> str:
    """The first names of a list."""
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
