"""Train one fusion model on a store, then embed every clip: lock-step training of one.

A run that was killed goes on from its last checkpoint and ends with the same bytes.  What its
folder holds is told in folder.py.
"""

from pathlib import Path
from typing import Any

from tokenreel.fuse.config.run import FuseConfig
from tokenreel.fuse.train.sweep import Job, RunResult, train_together

__all__ = ["RunResult", "train"]


def train(
    config: FuseConfig,
    *,
    store: Path,
    out: Path,
    device: str = "auto",
    placement: str = "auto",
    memory_bytes: int | None = None,
    progress: bool = True,
    provenance: dict[str, Any] | None = None,
) -> RunResult:
    """Train, or go on training, and write the embeddings of every split.

    Args:
        config: the run.
        store: its token store.
        out: folder of the run.
        device: "auto", "cpu" or "cuda".
        placement: where codes stay: "disk", "ram", "gpu" or "auto".
        memory_bytes: most that codes may take in memory, those that stay and the batches on their
            way; None for half of what is available.
        progress: show bars.
        provenance: recipe, commit and the like, copied into the embedding file.

    Raises:
        UsageError: a store without training clips or without what the config needs.
        WrongIdentity: the folder holds another run.
        RunLocked: another process works in it.
        TokenReelError: a loss that is not finite.
    """
    job = Job(config, store, out, provenance or {})
    [result] = train_together(
        [job], device=device, placement=placement, memory_bytes=memory_bytes, progress=progress
    )
    if result.error is not None:
        raise result.error
    return result
