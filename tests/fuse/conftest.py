"""A tiny store for the tests of training: two actions, a few clips, tokens that drift with time."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.codec import calibrate, codec_from_recipe, codec_recipe
from tokenreel.cache.manifest import Clip
from tokenreel.cache.recipe import StoreRecipe
from tokenreel.cache.writer import SourceInfo, StoreWriter, create_store

BLOCKS, GRID, DIM = (1, 3), (2, 3), 8
SOURCE = SourceInfo("v.mp4", 10, "0" * 64, "pyav", "1", {})


def write_store(path: Path, *, codec: str = "int8", train: int = 5, val: int = 2) -> Path:
    rng = np.random.default_rng(0)
    samples = {b: rng.standard_normal((4, 6, DIM)).astype(np.float32) for b in BLOCKS}
    calibration = calibrate(codec, samples, grid=GRID)
    recipe = StoreRecipe(
        architecture="tiny",
        weights_sha256="0" * 64,
        blocks=BLOCKS,
        grid=GRID,
        dim=DIM,
        image_size=(64, 64),
        transform={"name": "t"},
        frames={"policy": "all"},
        codec=codec_recipe(codec, calibration),
    )
    create_store(path, recipe, made_with={"dataset": "tiny"}, calibration=calibration)
    code = codec_from_recipe(recipe.codec, calibration)
    with StoreWriter(path, writer_id="test") as writer:
        for split, count in (("train", train), ("val", val)):
            for index in range(count):
                frames = 6 + 3 * index
                clip = Clip(f"{split}{index}", "v.mp4", split=split, action="act")
                open_clip = writer.begin(
                    clip, dataset="tiny", phases=("a", "b"), source=SOURCE,
                    time_base=Fraction(1, 25),
                )  # fmt: skip
                drift = np.linspace(-1, 1, frames, dtype=np.float32)[:, None, None]
                tokens = {
                    b: rng.standard_normal((frames, 6, DIM)).astype(np.float32) * 0.3 + drift
                    for b in BLOCKS
                }
                encoded = {b: code.encode(t, block=b, grid=GRID) for b, t in tokens.items()}
                cls = {b: t[:, 0] for b, t in tokens.items()}
                open_clip.append(0, encoded, cls, cls[3])
                numbers = np.arange(frames)
                open_clip.commit(
                    numbers, numbers, (numbers >= frames // 2).astype(np.int16),
                    np.zeros(frames, np.uint8),
                )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s")


@pytest.fixture
def smaller_store(tmp_path):
    """A store of the same recipe with fewer clips."""
    return write_store(tmp_path / "smaller", train=3)
