"""A family of another package: F frames of a window to R rows, by one matrix."""

import torch
from torch import nn

from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone.base import BackboneShape, WindowFamily

SIDE, PATCH, DIM = 32, 8, 16


class Movement(WindowFamily):
    """Names are FxR: a row is its part of the frames, minus the first frame of the window."""

    def shape(self, name, blocks, image_size):
        frames, cross, rows = name.partition("x")
        if not cross or blocks != (0,):
            raise UsageError(f"backbone movement:{name}: a name is FxR, and the only block is 0")
        grid = (SIDE // PATCH, SIDE // PATCH)
        sizes = {"frames_per_window": int(frames), "rows_per_window": int(rows)}
        return BackboneShape((0,), grid, DIM, (SIDE, SIDE), has_cls=False, **sizes)

    def model(self, name):
        return nn.Conv2d(3, DIM, PATCH, PATCH)

    def run(self, model, images, shape):
        batch, frames = images.shape[:2]
        maps = model(images.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, (batch, frames))
        places = torch.arange(shape.rows_per_window) * frames // shape.rows_per_window
        return {0: maps[:, places] - 0.5 * maps[:, :1]}


class Liar(Movement):
    """Gives one row too many."""

    def run(self, model, images, shape):
        found = super().run(model, images, shape)
        return {0: torch.cat([found[0], found[0][:, :1]], dim=1)}


def install(folder, monkeypatch):
    """Make the families of this module those of an installed package."""
    info = folder / "backbones_of_others-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: backbones-of-others\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[tokenreel.backbones]\nmovement = tests.extract.backbone.plugin:Movement\n"
        "liar = tests.extract.backbone.plugin:Liar\n"
    )
    monkeypatch.syspath_prepend(folder)
