"""What an extraction did."""

import threading
from dataclasses import dataclass, field

from tokenreel.cache.errors import ClipFailed

__all__ = ["STAGES", "ExtractReport"]

STAGES = ("decode", "backbone", "encode", "write")


@dataclass
class ExtractReport:
    """Counts of one run.

    Attributes:
        committed: ids of the clips written now.
        skipped: ids of clips that were committed already, or that another writer works on.
        failed: clips put in quarantine now, each with its stage and reason.
        quarantined: clips that were in quarantine and were not tried.
        num_frames: frames of the clips committed now.
        num_appended: frames written now, of clips that are not committed yet, too.
        num_bytes: bytes of their tokens.
        seconds: of each stage: "decode" and "write" are means over their processes and threads;
            "wait" is the time the backbone had nothing to do; "total" is the clock's.
        peak_bytes: most memory held by this process and, summed, by its decode processes.
        peak_device_bytes: most memory of the GPU.
        stopped: whether the run was told to end early.
    """

    committed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[ClipFailed] = field(default_factory=list)
    quarantined: list[ClipFailed] = field(default_factory=list)
    num_frames: int = 0
    num_appended: int = 0
    num_bytes: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys((*STAGES, "wait", "total"), 0.0)
    )
    peak_bytes: int = 0
    peak_device_bytes: int = 0
    stopped: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def wrote(self, num_frames: int, num_bytes: int) -> None:
        """Count frames that were written; from any thread."""
        with self._lock:
            self.num_appended += num_frames
            self.num_bytes += num_bytes

    @property
    def exit_status(self) -> int:
        """3 where a clip is in quarantine, else 0."""
        return 3 if self.failed or self.quarantined else 0

    def status(self) -> str:
        """The end of the progress line: share of the time of each stage, bytes, failures."""
        total = max(self.seconds["total"], 1e-9)
        shares = ", ".join(f"{name} {self.seconds[name] / total:.0%}" for name in STAGES)
        return f"{shares}, {self.num_bytes / 1e9:.2f} GB, {len(self.failed)} failed"

    def table(self) -> str:
        """A few lines for people."""
        total = self.seconds["total"]
        rate = self.num_frames / total if total else 0.0
        stages = ", ".join(f"{name} {self.seconds[name]:.1f} s" for name in (*STAGES, "wait"))
        held = f", {len(self.quarantined)} in quarantine" if self.quarantined else ""
        device = f", GPU {self.peak_device_bytes / 1e9:.1f} GB" if self.peak_device_bytes else ""
        lines = [
            f"clips   {len(self.committed)} committed, {len(self.skipped)} skipped, "
            f"{len(self.failed)} failed{held}",
            f"frames  {self.num_frames} in {total:.1f} s ({rate:.1f}/s)",
            f"tokens  {self.num_bytes / 1e9:.3f} GB",
            f"stages  {stages}",
            f"memory  {self.peak_bytes / 1e9:.2f} GB at most{device}",
        ]
        if self.quarantined:
            lines.append("clips in quarantine are tried again by `extract retry STORE`")
        if self.stopped:
            lines.append("stopped early: run it again to go on")
        return "\n".join(lines)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
