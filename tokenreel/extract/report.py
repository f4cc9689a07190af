"""What an extraction did."""

from dataclasses import dataclass, field

from tokenreel.cache.errors import ClipFailed

__all__ = ["ExtractReport"]


@dataclass
class ExtractReport:
    """Counts of one run.

    Attributes:
        committed: ids of the clips written now.
        skipped: ids of clips that were committed already, or that another writer works on.
        failed: clips in quarantine, each with its stage and reason.
        num_frames: frames written now.
        num_bytes: bytes of their tokens.
        seconds: of each stage: "decode" summed over processes, "compute", "write"; "wait" is
            the time the backbone had nothing to do; "total" is the clock's.
        stopped: whether the run was told to end early.
    """

    committed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[ClipFailed] = field(default_factory=list)
    num_frames: int = 0
    num_bytes: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("decode", "compute", "write", "wait", "total"), 0.0)
    )
    stopped: bool = False

    def table(self) -> str:
        """A few lines for people."""
        total = self.seconds["total"]
        rate = self.num_frames / total if total else 0.0
        stages = ", ".join(
            f"{name} {self.seconds[name]:.1f} s" for name in ("decode", "compute", "write", "wait")
        )
        lines = [
            f"clips   {len(self.committed)} committed, {len(self.skipped)} skipped, "
            f"{len(self.failed)} failed",
            f"frames  {self.num_frames} in {total:.1f} s ({rate:.1f}/s)",
            f"tokens  {self.num_bytes / 1e9:.3f} GB",
            f"stages  {stages}",
        ]
        return "\n".join(
            [*lines, "stopped early: run it again to go on"][: 5 if self.stopped else 4]
        )
