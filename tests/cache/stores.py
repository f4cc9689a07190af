"""Tiny stores for the tests of the cache."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from tokenreel.cache.codec import calibrate, codec_from_identity, codec_identity
from tokenreel.cache.format.clip import ClipRecord, SourceInfo
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.manifest import Clip
from tokenreel.cache.write.store_writer import StoreWriter

BLOCKS, GRID, DIM = (1, 3), (4, 4), 16
SOURCE = SourceInfo("a/v.mp4", 10, "0" * 64, "pyav", "1", {"frames": 3})


def make_identity(codec: str = "int8", views: int = 1) -> tuple[StoreIdentity, dict]:
    rng = np.random.default_rng(1)
    samples = {b: rng.standard_normal((4, 16, DIM)).astype(np.float32) + b for b in BLOCKS}
    calibration = calibrate(codec, samples, grid=GRID)
    identity = StoreIdentity(
        architecture="tiny",
        weights_sha256="0" * 64,
        blocks=BLOCKS,
        grid=GRID,
        dim=DIM,
        image_size=(64, 64),
        transform={"name": "t"},
        frames={"policy": "all"},
        views=tuple({"name": f"v{i}"} for i in range(views)),
        codec=codec_identity(codec, calibration),
    )
    return identity, calibration


def make_store(path: Path, codec: str = "int8", views: int = 1) -> Path:
    identity, calibration = make_identity(codec, views)
    return create_store(path, identity, made_with={"numpy": "any"}, calibration=calibration)


def make_tokens(clip_id: str, view: int, block: int, frames: int) -> np.ndarray:
    rng = np.random.default_rng([*clip_id.encode(), view, block])
    return rng.standard_normal((frames, 16, DIM)).astype(np.float32)


def make_clip(clip_id: str) -> Clip:
    return Clip(clip_id, "a/v.mp4", split="val" if clip_id.startswith("v") else "train")


def begin(writer: StoreWriter, clip_id: str, byte_arrays: tuple[str, ...] = (), replaces=None):
    return writer.begin(
        make_clip(clip_id),
        dataset="d",
        phases=("x", "y"),
        source=SOURCE,
        time_base=Fraction(1, 25),
        byte_arrays=byte_arrays,
        replaces=replaces,
    )


def append(writer: StoreWriter, clip, clip_id: str, frames: int, batch: int = 7) -> None:
    for view in range(writer.identity.num_views):
        for start in range(clip.resume_frames, frames, batch):
            part = slice(start, min(start + batch, frames))
            encoded, cls = {}, {}
            for block in BLOCKS:
                tokens = make_tokens(clip_id, view, block, frames)[part]
                encoded[block] = writer.codec.encode(tokens, block=block, grid=GRID)
                cls[block] = tokens[:, 0]
            clip.append(view, encoded, cls, cls[BLOCKS[-1]] * 2)


def write_clip(writer: StoreWriter, clip_id: str, frames: int = 70, batch: int = 7) -> ClipRecord:
    clip = begin(writer, clip_id)
    append(writer, clip, clip_id, frames, batch)
    count = np.arange(frames)
    return clip.commit(count, count * 2, count % 2, np.zeros(frames, np.uint8))


def expected(
    path_identity: StoreIdentity,
    calibration: dict,
    clip_id: str,
    block: int,
    frames: int,
    view: int = 0,
):
    codec = codec_from_identity(path_identity.codec, calibration)
    return codec.encode(make_tokens(clip_id, view, block, frames), block=block, grid=GRID)
