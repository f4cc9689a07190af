"""Checkpoints: whole or absent, and all that an exact resume needs.

There is no random state in them: the order of the clips and the windows are functions of data.seed
and epoch, the dropout of a step of seed, epoch and step.
"""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenreel.cache.canonical import field_differences, parse_object
from tokenreel.cache.errors import Damaged, UsageError, WrongIdentity
from tokenreel.cache.files import write_whole
from tokenreel.fuse.config.system import SystemConfig
from tokenreel.fuse.runs.provenance import with_later_fields

KINDS = {
    "config": str,
    "position": list,
    "losses": list,
    "model": dict,
    "optimiser": dict,
    "scaler": dict,
}
FIELDS = frozenset(KINDS)


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
        Damaged: the file is torn, altered or not a checkpoint.
    """
    file = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(file) as parts:
            # torch checks no sums, and leaves weights as they are whose part is marked a folder.
            if parts.testzip() or any(part.external_attr for part in parts.infolist()):
                raise ValueError("altered since it was written")
        file.seek(0)
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever comes of reading what is not one
        reason = str(error).partition("\n")[0]
        raise Damaged(
            f"{path}: not a checkpoint ({reason}); delete the run and train again"
        ) from error
    held = state if isinstance(state, dict) else {}
    missing = [name for name, kind in KINDS.items() if not isinstance(held.get(name), kind)]
    if missing:
        raise Damaged(f"{path}: a checkpoint without {', '.join(sorted(missing))}")
    return state


def require_config(path: Path, config: SystemConfig, state: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that a run of another config wrote.

    Raises:
        WrongIdentity: the fields that differ.
    """
    held = with_later_fields(parse_object(state["config"], where=path))
    rows = field_differences(held, config.model_dump(mode="json"), "config")
    if rows:
        table = _table(rows)
        raise WrongIdentity(f"{path} is a checkpoint of another run:\n{table}\nuse another --out")


def restore_weights(
    path: Path, model: nn.Module, config: SystemConfig, state: Mapping[str, Any]
) -> None:
    """Load the weights of a checkpoint into a model of a config.

    Raises:
        WrongIdentity: the checkpoint is of another model; the fields and tensors that differ.
    """
    shapes, theirs = (
        {name: tuple(value.shape) for name, value in weights.items()}
        for weights in (model.state_dict(), state["model"])
    )
    held, asked = (
        with_later_fields(parse_object(state["config"], where=path)),
        config.model_dump(mode="json"),
    )
    groups = ("system", *config.weight_fields)
    rows = [row for row in field_differences(held, asked) if row[0].split(".")[0] in groups]
    is_same = all(name.startswith(config.free_fields) for name, _, _ in rows)
    if shapes != theirs or not is_same:
        hint = "" if rows else "\nof a store of the same width and blocks it would be this one"
        rows += field_differences(theirs, shapes)[:6]
        raise WrongIdentity(f"{path} is a checkpoint of another model:\n{_table(rows)}{hint}")
    model.load_state_dict(state["model"])


def initialise(
    run: Path,
    model: nn.Module,
    config: SystemConfig,
    weights_from: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
) -> None:
    """Give a model the last weights of another run, such as one of another store.

    Args:
        run: its folder.
        model: that begins with them.
        config: of the model.
        weights_from: the part of them that it begins with, under the names of the model.

    Raises:
        UsageError: the run has no checkpoint, or nothing of it fits this system.
        WrongIdentity: its model is another one, or its weights are of other shapes.
    """
    path = run / "checkpoint.pt"
    if not path.exists():
        raise UsageError(f"init={run}: no {path}; name the folder of a trained run")
    state = load_checkpoint(path)
    part = weights_from(state["model"])
    if part is state["model"]:
        restore_weights(path, model, config, state)
        return
    if not part:
        raise UsageError(f"init={run}: nothing of {path} is for system={config.system}")
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in part.items()}
    rows = field_differences(theirs, {name: shapes.get(name) for name in theirs})
    if rows:
        raise WrongIdentity(f"{path} is a checkpoint of another model:\n{_table(rows[:6])}")
    model.load_state_dict(part, strict=False)


def _table(rows: Sequence[tuple[str, Any, Any]]) -> str:
    return "\n".join(f"  {name}: it has {a!r}, asked {b!r}" for name, a, b in rows)
