"""Stores of pictures of scenes as an extraction with pixels= would make them, from arrays."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from tokenreel.cache.codec import codec_identity
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
                byte_arrays=("pixels",),
            )
            for scene in range(number):
                level = colour(clip_id, scene)
                noise = rng.integers(-40, 41, (count, *size, 3))
                pictures = np.clip(level + noise, 0, 255).astype(np.uint8)
                begun.append_bytes("pixels", [b"".join(map(jpeg, pictures))])
            places = np.arange(number)
            begun.commit(places, places, -np.ones(number, np.int16), np.zeros(number, np.uint8))
    return path
