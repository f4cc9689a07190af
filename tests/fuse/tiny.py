"""A tiny store and a tiny config: a few clips of two actions, tokens that drift with time."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import numpy as np

from tokenreel.cache.codec import calibrate, codec_from_identity, codec_identity
from tokenreel.cache.format.clip import SourceInfo
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.manifest import Clip
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.fuse.config import (
    DataConfig,
    FuseConfig,
    LstpConfig,
    OptimConfig,
    TemporalConfig,
)

GRID, DIM = (2, 3), 8
TINY_SETTINGS = {
    "data.num_frames": 6,
    "data.batch_clips": 2,
    "pooling.channels": 8,
    "temporal.hidden": 8,
    "temporal.heads": 2,
    "temporal.fc_width": 8,
    "temporal.feed_forward": 8,
    "optim.epochs": 1,
}  # of a training
SOURCE = SourceInfo("v.mp4", 10, "0" * 64, "pyav", "1", {})


def write_store(
    path: Path,
    *,
    codec: str = "int8",
    train: int = 5,
    val: int = 2,
    blocks: tuple[int, ...] = (1, 3),
    views: int = 1,
    actions: tuple[str, ...] = ("act",),
    labelled: bool = True,
    first_frames: int = 6,
    more_frames: int = 3,
    architecture: str = "tiny",
    weights_sha256: str = "0" * 64,
    image_size: tuple[int, int] = (64, 64),
    cls: bool = True,
    phases: tuple[str, ...] = ("a", "b"),
    dataset: str = "tiny",
    tags: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    drift: bool = True,
    noise: float = 0.3,
    shift: Callable[[str, int], float] = lambda clip_id, frame: 0.0,
    grid: tuple[int, int] = GRID,
    dim: int = DIM,
) -> Path:
    """Clips train0, train1, ... and val0, ...; each has `more_frames` more than the one before.

    Tokens are noise about -1 to 1 over a clip, with `drift`, and about `shift` of clip and frame.
    """
    rng = np.random.default_rng(0)
    samples = {
        b: rng.standard_normal((4, grid[0] * grid[1], dim)).astype(np.float32) for b in blocks
    }
    calibration = calibrate(codec, samples, grid=grid)
    recipe = StoreIdentity(
        architecture=architecture,
        weights_sha256=weights_sha256,
        blocks=blocks,
        grid=grid,
        dim=dim,
        image_size=image_size,
        transform={"name": "t"},
        frames={"policy": "all"},
        cls="blocks+normed" if cls else "none",
        views=tuple({"name": "clean" if view == 0 else f"view{view}"} for view in range(views)),
        codec=codec_identity(codec, calibration),
    )
    create_store(path, recipe, made_with={"dataset": dataset}, calibration=calibration)
    code = codec_from_identity(recipe.codec, calibration)
    with StoreWriter(path, writer_id="test") as writer:
        for split, count in (("train", train), ("val", val)):
            for index in range(count):
                frames = first_frames + more_frames * index
                action = actions[index % len(actions)]
                name = f"{split}{index}"
                clip = Clip(
                    name, f"{name}.mp4", split=split, action=action, tags=tags.get(name, ())
                )
                open_clip = writer.begin(
                    clip,
                    dataset="tiny",
                    phases=phases,
                    source=SOURCE,
                    time_base=Fraction(1, 25),
                )
                means = np.array([shift(name, frame) for frame in range(frames)], np.float32)
                if drift:
                    means += np.linspace(-1, 1, frames, dtype=np.float32)
                for view in range(views):
                    drawn = {
                        b: rng.standard_normal((frames, grid[0] * grid[1], dim)).astype(np.float32)
                        for b in blocks
                    }
                    tokens = {b: noise * drawn[b] + means[:, None, None] + view for b in blocks}
                    encoded = {b: code.encode(t, block=b, grid=grid) for b, t in tokens.items()}
                    vectors = {b: t[:, 0] for b, t in tokens.items()} if cls else {}
                    last = vectors[blocks[-1]] if cls else None
                    open_clip.append(view, encoded, vectors, last)
                numbers = np.arange(frames)
                labels = (
                    (numbers >= frames // 2).astype(np.int16)
                    if labelled
                    else -np.ones(frames, np.int16)
                )
                open_clip.commit(numbers, numbers, labels, np.zeros(frames, np.uint8))
    return path


def tiny_config(**changes: object) -> FuseConfig:
    """A config that trains in a fraction of a second."""
    config = FuseConfig(
        data=DataConfig(num_frames=6, batch_clips=2),
        pooling=LstpConfig(num_entities=2, channels=8),
        temporal=TemporalConfig(
            fc_width=8, hidden=8, heads=2, feed_forward=16, layers=1, embedding=4
        ),
        optim=OptimConfig(lr=1e-2, epochs=4, checkpoint_epochs=1),
    )
    return config.with_(**changes)


def scl(**changes: object) -> object:
    """The loss of :func:`tiny_config` with changes."""
    return tiny_config().loss.with_(**changes)
