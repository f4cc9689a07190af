"""A trained run as files that need this package no longer: weights, and a program of plain torch.

The program is `torch.export`'s: its length is dynamic, and `torch.export.load` runs it.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.system import SystemConfig
from tokenreel.fuse.embed.embed import load_model
from tokenreel.fuse.systems.base import (
    Portable,
    Shapes,
    shape_of_stream,
    shapes_of_stores,
    system_of,
    wanted_of,
)

EXAMPLE_ROWS = 3  # torch.export takes a length of 0 or 1 for a constant


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """What is written of a model.

    Attributes:
        weights: bytes of a safetensors file: its tensors by name.
        program: bytes of a .pt2 file.
        inputs: of the program, by name: sizes of a row.
        longest: most rows that it takes at a time.
        says: how its inputs are made.
    """

    weights: bytes
    program: bytes
    inputs: Mapping[str, tuple[int, ...]]
    longest: int
    says: str


def export_model(
    run: Path, identities: Mapping[str, StoreIdentity], *, stores: StoreSet | None = None
) -> ExportedModel:
    """The weights and the program of a trained run, made on the CPU.

    Args:
        run: its folder.
        identities: of the stores that it was trained on, by name, or of others of the same
            backbone.
        stores: the stores; None for a run with a checkpoint, which says all that a model needs of
            their clips, or for a loss that has no classes.

    Raises:
        UsageError: a run that is not trained yet, or of a system that has no such program; stores
            without what it reads.
    """
    streams = {name: shape_of_stream(identity) for name, identity in identities.items()}
    found: list[Shapes] = []

    def sizes_of(config: SystemConfig) -> Shapes:
        if stores is not None:
            wanted_of([config], stores)
            found.append(shapes_of_stores(stores, config))
        else:
            found.append(Shapes(streams))
        return found[0]

    embedder = load_model(run, sizes_of)
    model, config = embedder.model.eval(), embedder.config
    portable = system_of(config).portable(run, model, config, found[0])
    tensors: dict[str, Tensor] = {
        name: value.detach().clone().contiguous() for name, value in model.state_dict().items()
    }
    return ExportedModel(
        save(tensors), _program(portable), portable.inputs, portable.longest, portable.says
    )


def _program(portable: Portable) -> bytes:
    rows = torch.export.Dim("rows", min=1, max=portable.longest)
    program = torch.export.export(
        portable.module.eval(),
        (),
        kwargs={name: torch.zeros(EXAMPLE_ROWS, *size) for name, size in portable.inputs.items()},
        dynamic_shapes={name: {0: rows} for name in portable.inputs},
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()
