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

from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config.system import SystemConfig
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.embed.embed import load_run
from tokenreel.fuse.runs.provenance import describe_stores, require_same_tokens
from tokenreel.fuse.systems.base import Portable, make_source, shapes_of, system_of

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


def export_model(run: Path, stores: StoreSet) -> ExportedModel:
    """The weights and the program of a trained run, made on the CPU.

    Args:
        run: its folder.
        stores: that it was trained on, or others of the same backbone.

    Raises:
        UsageError: a run without a checkpoint, or of a system that has no such program.
        WrongIdentity: stores of another backbone or weights.
    """
    require_same_tokens(run, describe_stores(stores))
    found: list[TokenSource] = []

    def source_of(config: SystemConfig) -> TokenSource:
        found.append(make_source(stores, [config], torch.device("cpu"), placement="disk"))
        return found[0]

    embedder = load_run(run, source_of)
    model, config = embedder.model.eval(), embedder.config
    portable = system_of(config).portable(run, model, config, shapes_of(found[0]))
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
