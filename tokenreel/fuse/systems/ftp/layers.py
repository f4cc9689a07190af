"""Layers of FTP: feature processors, their integration with the map, and the blocks after it.

Shapes: B clips, T frames, h and w rows and columns of a frame's tokens, N = h w, D channels.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, scaled_dot_product_attention


@dataclass(frozen=True, eq=False)
class ClipMap:
    """The output m of the visual encoder, or its means alone.

    Attributes:
        spatial: (B, T, D), pooled over the places of each frame.
        temporal: (B, N, D), pooled over the frames at each place.
        grid: h and w.
        whole: (B, T, N, D); None where only its means are known.
    """

    spatial: Tensor
    temporal: Tensor
    grid: tuple[int, int]
    whole: Tensor | None = None

    @classmethod
    def of(cls, whole: Tensor, grid: tuple[int, int], *, pool: str = "mean") -> "ClipMap":
        """Of a whole map (B, T, N, D), pooled by "mean" or "max"."""
        if pool == "max":
            return cls(whole.amax(dim=2), whole.amax(dim=1), grid, whole)
        return cls(whole.mean(dim=2), whole.mean(dim=1), grid, whole)


class Processor(nn.Module):
    """A feature processor: its layers for the two pooled maps.  Source: FTP, Figure 2b.

    Args:
        dim: channels D.
        projections: 2, a layer for each pooled map, or 1 for both.
    """

    def __init__(self, dim: int, projections: int) -> None:
        super().__init__()
        self.spatial = nn.Linear(dim, dim)  # a Conv1d of kernel 1
        self.temporal = nn.Linear(dim, dim) if projections == 2 else self.spatial

    def forward(self, spatial: Tensor, temporal: Tensor) -> tuple[Tensor, Tensor]:
        """Of s (B, T, D) and t (B, N, D), s_i and t_i of the same shapes; v_i is both in a row."""
        return self.spatial(spatial), self.temporal(temporal)


class SumIntegration(nn.Module):
    """Reading `main`: r = s_i + t_i at every frame and place, 3x3 depthwise, then pointwise.

    Source: FTP, Figure 3.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.pointwise = nn.Linear(dim, dim)

    def forward(self, spatial: Tensor, temporal: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, D) and (B, N, D) -> (B, T, N, D), to be added to the map.

        The convolution is linear: it is that of t_i's grid, plus s_i times the sum of the weights
        that lie inside the grid at each place, so that no map is convolved frame by frame.
        """
        inside = self._inside(grid)  # (N, D)
        of_places = self._convolved(temporal, grid) + self._bias()
        joined = of_places[:, None] + spatial[:, :, None] * inside
        found: Tensor = self.pointwise(joined)
        return found

    def pooled(
        self, spatial: Tensor, temporal: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The means of :meth:`forward` over places (B, T, D) and over frames (B, N, D)."""
        inside = self._inside(grid)
        of_places = self._convolved(temporal, grid) + self._bias()
        over_places = of_places.mean(dim=1, keepdim=True) + spatial * inside.mean(dim=0)
        over_frames = of_places + spatial.mean(dim=1, keepdim=True) * inside
        return self.pointwise(over_places), self.pointwise(over_frames)

    def _bias(self) -> Tensor:
        assert self.depthwise.bias is not None
        return self.depthwise.bias

    def _convolved(self, temporal: Tensor, grid: tuple[int, int]) -> Tensor:
        """The depthwise convolution of a grid (B, N, D), without its bias."""
        height, width = grid
        image = rearrange(temporal, "b (h w) d -> b d h w", h=height, w=width)
        weight = self.depthwise.weight
        return rearrange(
            conv2d(image, weight, padding=1, groups=weight.shape[0]), "b d h w -> b (h w) d"
        )

    def _inside(self, grid: tuple[int, int]) -> Tensor:
        """Of each place, the sum of the weights that lie inside the grid: (N, D)."""
        weight = self.depthwise.weight
        ones = weight.new_ones((1, grid[0] * grid[1], weight.shape[0]))
        return self._convolved(ones, grid)[0]


class KernelIntegration(nn.Module):
    """Reading `appendix`: a depthwise-separable convolution of kernel (T, N).  Source: Table A1.

    Its channels are the T + N rows of v_i.  A kernel (T, N) without padding gives T x N places for
    no number of copies, so this is a stand-in: the D values of each row are repeated, cut to T x N
    and padded so that as many come out.
    """

    def __init__(self, dim: int, num_frames: int, num_places: int) -> None:
        super().__init__()
        rows = num_frames + num_places
        self.size = (num_frames, num_places)
        self.depthwise = nn.Conv2d(rows, rows, self.size, groups=rows)
        self.pointwise = nn.Conv2d(rows, dim, 1)

    def forward(self, spatial: Tensor, temporal: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, D) and (B, N, D) -> (B, T, N, D), to be added to the map."""
        rows = torch.cat([spatial, temporal], dim=1)
        frames, places = self.size
        copies = -(-frames * places // rows.shape[2])
        image = rows.repeat(1, 1, copies)[..., : frames * places]
        image = rearrange(image, "b r (t n) -> b r t n", t=frames)
        edges = [(size - 1) // 2 for size in self.size]
        image = pad(image, (edges[1], places - 1 - edges[1], edges[0], frames - 1 - edges[0]))
        found = self.pointwise(self.depthwise(image))
        return rearrange(found, "b d t n -> b t n d")


Integration = SumIntegration | KernelIntegration


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, dim: int, head_channels: int) -> None:
        super().__init__()
        self.heads = max(1, dim // head_channels)
        if dim % self.heads:
            raise ValueError(
                f"head_channels={head_channels}: {dim} channels do not divide into "
                f"{self.heads} heads"
            )
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        q, k, v = rearrange(self.qkv(x), "b l (three h c) -> three b h l c", three=3, h=self.heads)
        found = rearrange(scaled_dot_product_attention(q, k, v), "b h l c -> b l (h c)")
        mixed: Tensor = self.out(found)
        return mixed


class Block(nn.Module):
    """A transformer block of the reading `main`: attention and a feed-forward of 4 D, pre-norm."""

    def __init__(self, dim: int, head_channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, head_channels)
        self.wide, self.narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, num_frames: int, grid: tuple[int, int]) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = x + self.attention(self.norm1(x))
        found: Tensor = x + self.narrow(nn.functional.gelu(self.wide(self.norm2(x))))
        return found


class ConvBlock(nn.Module):
    """A block of the reading `appendix`: attention and a 3x3 convolution of each frame, pre-norm.

    Table A1 has no padding, which would leave nothing to add the input to: one place of zeros.
    """

    def __init__(self, dim: int, head_channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, head_channels)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, num_frames: int, grid: tuple[int, int]) -> Tensor:
        """(B, T N, D) -> (B, T N, D)."""
        x = x + self.attention(self.norm1(x))
        return x + convolve_frames(self.conv, self.norm2(x), num_frames, grid)


def convolve_frames(conv: nn.Conv2d, x: Tensor, num_frames: int, grid: tuple[int, int]) -> Tensor:
    """A convolution of the grid of each frame: (B, T N, D) -> (B, T N, D)."""
    image = rearrange(x, "b (t h w) d -> (b t) d h w", t=num_frames, h=grid[0], w=grid[1])
    return rearrange(conv(image), "(b t) d h w -> b (t h w) d", t=num_frames)


class ClassHead(nn.Module):
    """Scores of classes: a linear layer, or one of `width` before it.

    The first layer has the 2,048 channels of appendix B.2 where width is that; a GELU follows it.
    """

    def __init__(self, dim: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, width) if width else nn.Identity()
        self.is_wide = bool(width)
        self.last = nn.Linear(width or dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, D) -> what the last layer sees."""
        found: Tensor = self.first(x)
        return nn.functional.gelu(found) if self.is_wide else found

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, K)."""
        scores: Tensor = self.last(self.features(x))
        return scores


def average_2x2(x: Tensor, num_frames: int, grid: tuple[int, int]) -> Tensor:
    """Means of 2x2 places of each frame, a last odd row or column left out, as AvgPool2d does.

    A grid that is one wide is left as it is there.

    Args:
        x: (B, T N, D).
        num_frames: T.
        grid: h and w.

    Returns:
        (B, T N', D).
    """
    image = rearrange(x, "b (t h w) d -> (b t) d h w", t=num_frames, h=grid[0], w=grid[1])
    kernel = (min(2, grid[0]), min(2, grid[1]))
    pooled = nn.functional.avg_pool2d(image, kernel)
    return rearrange(pooled, "(b t) d h w -> b (t h w) d", t=num_frames)
