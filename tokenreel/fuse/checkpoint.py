"""Checkpoints: whole or absent, and all that an exact resume needs."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokenreel.cache.errors import Damaged
from tokenreel.cache.files import write_whole

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(
    path: Path, *, model: nn.Module, optimiser: torch.optim.Optimizer, epoch: int
) -> None:
    """Write weights, optimiser, random state and the number of epochs done, in one step.

    The same state gives the same bytes.
    """
    state = {
        "epoch": epoch,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU, without running any code in it.

    Raises:
        Damaged: the file is torn or not a checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise Damaged(
            f"{path}: not a checkpoint ({error}); delete the run and train again"
        ) from error
    missing = {"epoch", "model", "optimiser", "rng", "cuda_rng"} - set(state)
    if missing:
        raise Damaged(f"{path}: a checkpoint without {', '.join(sorted(missing))}")
    return state
