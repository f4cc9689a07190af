"""What the benchmarks of phase 2 share: a config, a store, a link that is slow."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenreel.cache.codec import calibrate, codec_from_identity, codec_identity
from tokenreel.cache.format.clip import SourceInfo
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.manifest import Clip
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.fuse.config import (
    DataConfig,
    FuseConfig,
    LstpConfig,
    OptimConfig,
    SclConfig,
    TemporalConfig,
)
from tokenreel.fuse.data.frames import Frames, Piece
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.systems.base import make_source
from tokenreel.fuse.train.run import Run

CPU = torch.device("cpu")


def small_config(
    *, num_frames: int, batch_clips: int, temperature: float = 0.1, **pooling: Any
) -> FuseConfig:
    """MV-Former with the small head of the recipe `sample`, one epoch."""
    return FuseConfig(
        data=DataConfig(num_frames=num_frames, batch_clips=batch_clips),
        pooling=LstpConfig(**{"num_entities": 3, "channels": 96} | pooling),
        temporal=TemporalConfig(
            fc_width=128,
            hidden=128,
            heads=4,
            feed_forward=256,
            layers=2,
            output="avg",
            embedding=64,
        ),
        loss=SclConfig(temperature=temperature),
        optim=OptimConfig(name="adamw", lr=5e-4, epochs=1),
    )


def make_store(
    path: Path,
    codec: str,
    *,
    grid: tuple[int, int],
    clips: int,
    frames: int,
    blocks: tuple[int, ...] = (3, 7, 11),
    dim: int = 768,
) -> Path:
    """A store of random tokens, as wide as those of B/8 unless told otherwise."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((frames, grid[0] * grid[1], dim), np.float32)
    calibration = calibrate(codec, dict.fromkeys(blocks, tokens[:2]), grid=grid)
    recipe = StoreIdentity(
        architecture="random",
        weights_sha256="0" * 64,
        blocks=blocks,
        grid=grid,
        dim=dim,
        image_size=(224, 224),
        transform={"name": "none"},
        frames={"policy": "all"},
        cls="none",
        codec=codec_identity(codec, calibration),
    )
    create_store(path, recipe, made_with={}, calibration=calibration)
    code = codec_from_identity(recipe.codec, calibration)
    encoded = {block: code.encode(tokens, block=block, grid=grid) for block in blocks}
    numbers = np.arange(frames)
    with StoreWriter(path, writer_id="bench") as writer:
        for index in range(clips):
            clip = writer.begin(
                Clip(f"c{index}", f"{index}.mp4"),
                dataset="random",
                phases=(),
                source=SourceInfo("v.mp4", 0, "", "none", "0", {}),
                time_base=Fraction(1, 25),
            )
            clip.append(0, encoded, {}, None)
            clip.commit(numbers, numbers, numbers * 0, numbers * 0)
    return path


@dataclass(frozen=True, eq=False)
class OnlineFrames:
    """Tokens that were never codes, in the place of a batch's frames."""

    found: Tensor
    cls: None = None

    def tokens(self, blocks: Sequence[int] | None = None) -> Tensor:
        """All of them, (F, n, D of the blocks end to end): the backbone gave the blocks wanted."""
        return self.found

    coded = tokens


def make_runs(
    configs: Sequence[FuseConfig],
    store: Path,
    folder: Path,
    *,
    placement: str,
    device: torch.device = CPU,
) -> tuple[list[Run], TokenSource]:
    """Runs that share a source, at their first step."""
    source = make_source(open_store(store), configs, device, placement=placement)
    runs = []
    for number, config in enumerate(configs):
        out = folder / f"{placement}-{len(configs)}-{number}"
        out.mkdir(parents=True)
        runs.append(Run(config, source, out))
    return runs, source


def bytes_of(frames: Frames) -> int:
    """Bytes of the codes and scales of some frames."""
    parts = [*frames.codes.values(), *frames.scales.values()]
    return sum(part.nbytes for part in parts)


@contextmanager
def throttled(bytes_per_second: float) -> Iterator[None]:
    """Every read of a store takes at least the time of a link of that speed."""
    original = TokenSource._read

    def slow(self: TokenSource, pieces: Sequence[Piece], **options: Any) -> Frames:
        start = time.perf_counter()
        frames = original(self, pieces, **options)
        left = bytes_of(frames) / bytes_per_second - (time.perf_counter() - start)
        time.sleep(max(0.0, left))
        return frames

    TokenSource._read = slow  # type: ignore[method-assign]
    try:
        yield
    finally:
        TokenSource._read = original  # type: ignore[method-assign]
