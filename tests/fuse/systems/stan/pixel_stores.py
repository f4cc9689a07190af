"""Stores of scenes, of pictures and of tokens, as extractions would make them, from arrays."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from tokenreel.cache.codec import codec_from_identity, codec_identity
from tokenreel.cache.format.clip import SourceInfo
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.manifest import Clip
from tokenreel.cache.write.store_writer import StoreWriter

SOURCE = SourceInfo("v.mp4", 10, "0" * 64, "pyav", "1", {})
FRAMES = {"centre": 1, "all": 12}


def jpeg(picture):
    """The JPEG of a picture, uint8 (H, W, 3)."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=95)
    return data.getvalue()


def write_pixel_store(
    path: Path,
    scenes,
    *,
    kind="centre",
    size=(32, 32),
    tags=None,
    colour=lambda clip_id, scene: 128,
    frames=0,
    seed=0,
):
    """A store of pictures of noise around a grey level.

    Args:
        path: of the store.
        scenes: clip id -> its number of scenes; the split is the id without its digits.
        kind: "centre" or "all".
        size: H and W.
        tags: clip id -> its tags.
        colour: the level of a scene of a clip.
        frames: pictures of a scene, by default those of the kind.
        seed: of the noise.
    """
    count = frames or FRAMES[kind]
    rng = np.random.default_rng(seed)
    identity = StoreIdentity(
        architecture=f"pixels:{kind}",
        weights_sha256="0" * 64,
        blocks=(),
        cls="none",
        grid=(1, 1),
        dim=1,
        image_size=size,
        transform={"name": "t", "jpeg": {"quality": 95, "subsampling": "4:2:0"}},
        frames={"policy": "scenes", "sha256": "0" * 64},
        codec=codec_identity("fp16"),
        unit="scene",
        frames_per_window=count,
    )

    def append(begun, clip_id, number):
        for scene in range(number):
            noise = rng.integers(-40, 41, (count, *size, 3))
            pictures = np.clip(colour(clip_id, scene) + noise, 0, 255).astype(np.uint8)
            begun.append_bytes("pixels", [b"".join(map(jpeg, pictures))])

    return _write(path, identity, scenes, tags, append, ("pixels",))


def write_scenes(
    path: Path, scenes, *, tags=None, blocks=(1, 3), grid=(2, 3), dim=8, codec="fp16", cls=False
):
    """A store of tokens of noise, of the same clips and units as one of pictures."""
    rng = np.random.default_rng(0)
    identity = StoreIdentity(
        architecture="tiny",
        weights_sha256="0" * 64,
        blocks=blocks,
        cls="blocks+normed" if cls else "none",
        grid=grid,
        dim=dim,
        image_size=(64, 64),
        transform={"name": "t"},
        frames={"policy": "scenes", "sha256": "0" * 64},
        codec=codec_identity(codec),
        unit="scene",
    )
    code = codec_from_identity(identity.codec, {})

    def append(begun, clip_id, number):
        shape = (number, grid[0] * grid[1], dim)
        tokens = {block: rng.standard_normal(shape).astype(np.float32) for block in blocks}
        encoded = {b: code.encode(t, block=b, grid=grid) for b, t in tokens.items()}
        vectors = {b: t[:, 0] for b, t in tokens.items()} if cls else {}
        begun.append(0, encoded, vectors, vectors[blocks[-1]] if cls else None)

    return _write(path, identity, scenes, tags, append)


def _write(path, identity, scenes, tags, append, byte_arrays=()):
    """A store whose clips `append` fills; unit number k lasts from tick k to the next."""
    create_store(path, identity, made_with={"dataset": "tiny", "frames": "scenes:scenes/tiny"})
    with StoreWriter(path, writer_id="test") as writer:
        for clip_id, number in scenes.items():
            split = clip_id.rstrip("0123456789")
            clip = Clip(clip_id, f"{clip_id}.mp4", split=split, tags=(tags or {}).get(clip_id, ()))
            begun = writer.begin(
                clip,
                dataset="tiny",
                phases=(),
                source=SOURCE,
                time_base=Fraction(1, 25),
                byte_arrays=byte_arrays,
            )
            append(begun, clip_id, number)
            places = np.arange(number)
            begun.commit(places, places, -np.ones(number, np.int16), np.zeros(number, np.uint8))
    return path
