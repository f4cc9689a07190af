"""Checkpoints: whole or absent, and all that an exact resume needs.

There is no random state in them: the order of the clips, the views and the dropout of a step are
functions of seed, epoch and step.
"""

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokenreel.cache.errors import Damaged, UsageError, WrongRecipe
from tokenreel.cache.files import write_whole
from tokenreel.cache.recipe import field_differences
from tokenreel.fuse.config import FuseConfig

__all__ = ["FIELDS", "initialise", "load_checkpoint", "restore_weights", "save_checkpoint"]

FIELDS = frozenset({"config", "position", "losses", "model", "optimiser", "scaler"})
MODEL_FIELDS = ("model", "pooling", "temporal", "loss")  # of a config: what has weights


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run in one step.  The same state gives the same bytes.

    Args:
        path: the file.
        state: the FIELDS: config (JSON text), position (epoch, step), the losses of the steps of
            the epoch so far, and the states of model, optimiser and scaler.
    """
    assert set(state) == FIELDS
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_whole(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU, without running any code in it.

    Raises:
        Damaged: the file is torn or not a checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise Damaged(
            f"{path}: not a checkpoint ({error}); delete the run and train again"
        ) from error
    missing = FIELDS - set(state) if isinstance(state, dict) else FIELDS
    if missing:
        raise Damaged(f"{path}: a checkpoint without {', '.join(sorted(missing))}")
    return state


def restore_weights(
    path: Path, model: nn.Module, config: FuseConfig, state: Mapping[str, Any]
) -> None:
    """Load the weights of a checkpoint into a model of a config.

    Raises:
        WrongRecipe: the checkpoint is of another model; the fields and tensors that differ.
    """
    mine = model.state_dict()
    shapes = {name: tuple(value.shape) for name, value in mine.items()}
    theirs = {name: tuple(value.shape) for name, value in state["model"].items()}
    if shapes != theirs:
        asked = config.model_dump(mode="json")
        held = json.loads(state["config"])
        rows = field_differences(
            {name: held.get(name) for name in MODEL_FIELDS},
            {name: asked[name] for name in MODEL_FIELDS},
        )
        hint = "" if rows else "\nof a store of the same width and blocks it would be this one"
        rows += field_differences(theirs, shapes)[:6]
        table = "\n".join(f"  {name}: it has {a!r}, asked {b!r}" for name, a, b in rows)
        raise WrongRecipe(f"{path} is a checkpoint of another model:\n{table}{hint}")
    model.load_state_dict(state["model"])


def initialise(run: Path, model: nn.Module, config: FuseConfig) -> None:
    """Give a model the last weights of another run, such as one of another store.

    Raises:
        UsageError: the run has no checkpoint.
        WrongRecipe: its model is another one.
    """
    path = run / "checkpoint.pt"
    if not path.exists():
        raise UsageError(f"init={run}: no {path}; name the folder of a trained run")
    restore_weights(path, model, config, load_checkpoint(path))
