"""Temporal fusion by 3D convolutions over the token grid, what CARL's Table 5 calls C3D.

TCC and LAV convolve the map of a frame with that of a context frame some 15 frames before; here a
frame's neighbours in the sequence are its context, as the cache gives them, so it is a variant.

Shapes: B sequences, T frames, E = H W tokens of a frame, C channels.
Source: CARL, section 4.4 (two 3D convolutions before the spatial pooling); TCC's encoder.
"""

import itertools

from torch import Tensor, nn

from tokenreel.fuse.config.model import TemporalConfig

KERNEL = 3  # frames, rows and columns


class ConvolutionalFusion(nn.Module):
    """3D convolutions, the maximum over the grid, FC layers, one output a frame.

    Padded frames repeat the last one of a clip and are its neighbours, as frames beyond its end.

    Args:
        config: `layers` convolutions to `hidden` channels, two layers of `fc_width`, `embedding`.
        channels: of a token.
        grid: rows H and columns W of the tokens of a frame.
    """

    def __init__(self, config: TemporalConfig, *, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.grid = config, grid
        widths = [channels, *[config.hidden] * config.layers]
        self.convolutions = nn.ModuleList(
            nn.Conv3d(before, after, KERNEL, padding=KERNEL // 2)
            for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])
        layers: list[nn.Module] = []
        for before in (widths[-1], config.fc_width):
            layers += [nn.Linear(before, config.fc_width), nn.BatchNorm1d(config.fc_width)]
            layers += [nn.ReLU()]
        self.fc = nn.Sequential(*layers)
        self.leave = nn.Linear(config.fc_width, config.embedding)

    def forward(self, entities: Tensor, valid: Tensor | None = None) -> Tensor:
        """Fuse.

        Args:
            entities: (B, T, E, C), the tokens of each frame row by row.
            valid: of no effect: a convolution sees its neighbours, padding or not.

        Returns:
            Embeddings (B, T, C of an embedding).
        """
        x = entities.unflatten(2, self.grid)  # (B, T, H, W, C)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = convolution(x.movedim(-1, 1)).movedim(1, -1)
            x = norm(x.flatten(0, -2)).view_as(x).relu()
        pooled = x.amax(dim=(2, 3))  # (B, T, C)
        out: Tensor = self.leave(self.fc(pooled.flatten(0, 1))).unflatten(0, pooled.shape[:2])
        return nn.functional.normalize(out, dim=-1) if self.config.l2_normalise else out
