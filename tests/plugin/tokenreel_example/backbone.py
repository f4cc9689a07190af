"""A family of backbones: windows of frames to tokens."""

import torch

from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone.base import BackboneShape, WindowFamily


class Pairs(WindowFamily):
    """Two neighbouring frames give one row: their patches, averaged and subtracted."""

    def shape(
        self, name: str, blocks: tuple[int, ...], image_size: int | tuple[int, int] | None
    ) -> BackboneShape:
        """One block of 2 x 2 patches of a picture of 32 x 32."""
        if name != "difference" or blocks != (0,):
            raise UsageError(f"backbone example:{name}: it has `difference`, with block 0")
        return BackboneShape((0,), (2, 2), 12, (32, 32), has_cls=False, frames_per_window=2)

    def model(self, name: str) -> torch.nn.Module:
        """One layer, with random weights."""
        return torch.nn.Conv2d(3, 6, 16, 16)

    def run(
        self, model: torch.nn.Module, images: torch.Tensor, shape: BackboneShape
    ) -> dict[int, torch.Tensor]:
        """(B, 2, 3, 32, 32) -> (B, 1, 4, 12) of block 0."""
        batch = images.shape[0]
        maps = model(images.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, (batch, 2))
        pair = torch.cat([maps.mean(dim=1), maps[:, 1] - maps[:, 0]], dim=-1)
        return {0: pair[:, None]}
