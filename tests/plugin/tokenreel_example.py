"""One of each thing that a package can add: data set, codec, backbone, system, loss, metric."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from tokenreel.cache.codec.base import Array, Calibration, Grid, Reducer, require_no_parameter
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.evaluate.data.clips import ActionData
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.task import Request, RowPlan, Task
from tokenreel.extract.backbone.base import BackboneShape, WindowFamily
from tokenreel.fuse.config import DataConfig, OptimConfig, SystemConfig
from tokenreel.fuse.config.loss import LossBase
from tokenreel.fuse.data.epoch_plan import Draw
from tokenreel.fuse.data.source import Wanted
from tokenreel.fuse.losses import Loss, LossInput
from tokenreel.fuse.systems.base import Embedded, Shapes, System


def example_videos(root: Path, options: Mapping[str, str]) -> Manifest:
    """Every .mp4 of a folder; phase 0 until 0.24 s, then phase 1 until 0.44 s."""
    videos = sorted(path.name for path in root.glob("*.mp4"))
    spans = (LabelSpan(0.0, 0.24, 0), LabelSpan(0.24, 0.44, 1))
    clips = tuple(
        Clip(name, name, split="val" if number % 2 else "train", action="act", spans=spans)
        for number, name in enumerate(videos)
    )
    return Manifest("example-videos", root, clips, phases={"act": ("begin", "end")})


class Average(Reducer):
    """The mean of all tokens of a frame: one token."""

    def __init__(self, parameter: str = "", calibration: Calibration | None = None) -> None:
        require_no_parameter("example-average", parameter)

    def shape(self, num_tokens: int, dim: int, grid: Grid) -> tuple[int, int, Grid]:
        """One token of as many channels."""
        return 1, dim, (1, 1)

    def apply(self, tokens: Array, *, block: int, grid: Grid) -> Array:
        """Average float32 (T, N, d) over N."""
        mean: Array = tokens.mean(axis=1, keepdims=True)
        return mean


def _rows(settings: Settings, clips: Sequence[object]) -> list[RowPlan]:
    return [RowPlan(("example-speed",))]


def _compute(data: ActionData, request: Request) -> list[Score]:
    steps = [np.linalg.norm(np.diff(clip, axis=0), axis=1) for clip in data.val.embeddings]
    value = float(np.concatenate(steps).mean())
    return [replace(request.blank, task="example-speed", value=value)]


SPEED = Task(
    "example-speed",
    title="Speed",
    is_percent=False,
    scope="action",
    missing=lambda data: ("", ""),
    rows=_rows,
    compute=_compute,
    columns=("example-speed",),
)


class LinearConfig(SystemConfig):
    """A linear layer over the mean of a frame's tokens."""

    system: Literal["example-linear"] = "example-linear"
    data: DataConfig = DataConfig(num_frames=6, batch_clips=2)
    optim: OptimConfig = OptimConfig(lr=1e-2, epochs=1)
    channels: int = Field(default=4, ge=1, description="channels of an embedding")


class Linear(System):
    """Embeddings of neighbouring frames are near, those of a clip's ends are far."""

    config = LinearConfig

    def requirements(self, config: LinearConfig, stores: StoreSet) -> None:
        """Any store will do."""

    def wanted(self, config: LinearConfig, stores: StoreSet) -> dict[str, Wanted]:
        """All blocks of the first store."""
        [(name, store)] = stores.items()
        return {name: Wanted(store.identity.blocks, False, False, frozenset([None]))}

    def draw(self, record: ClipRecord, config: LinearConfig, rng: np.random.Generator) -> Draw:
        """Frames at even distances."""
        units = np.linspace(0, record.num_frames - 1, config.data.num_frames).astype(np.int64)
        return Draw(units[None], np.ones((1, len(units)), bool))

    def build(self, config: LinearConfig, shapes: Shapes) -> torch.nn.Module:
        """One layer."""
        torch.manual_seed(config.seed)
        return torch.nn.Linear(shapes.first.dim * len(shapes.first.blocks), config.channels)

    def loss(self, model, batch, config, *, rng, world, shared=None):
        """Small steps, distant ends."""
        embeddings = model(batch.frames.tokens().mean(dim=1))[batch.gather]  # (B, V, T, C)
        steps = embeddings.diff(dim=2).square().mean()
        ends = (embeddings[:, :, -1] - embeddings[:, :, 0]).square().mean()
        return steps + (1 - ends).square()

    def embed(self, model, config, source, record) -> Embedded:
        """A row a frame."""
        frames = source.frames(record.clip_id, np.arange(record.num_frames))
        return Embedded(model(frames.tokens().mean(dim=1)).numpy())


class SlownessConfig(LossBase):
    """Neighbouring frames are near."""

    name: Literal["example-slowness"] = "example-slowness"
    weight: float = Field(default=1.0, gt=0, description="of the squared steps")


def slowness(inputs: LossInput, config: SlownessConfig) -> torch.Tensor:
    """The mean squared step of the embeddings, and of their length's distance from 1."""
    embeddings = inputs.embeddings
    steps = embeddings.diff(dim=2).square().mean()
    return config.weight * steps + (embeddings.norm(dim=-1) - 1).square().mean()


SLOWNESS = Loss(SlownessConfig, slowness)


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
