"""Small videos, a small backbone, and what a store holds: shared by the tests of extraction."""

import shutil
from pathlib import Path

import av
import numpy as np

from tokenreel.extract.config import ExtractConfig

CONFIG = ExtractConfig(
    backbone="test_vit", weights="random:0", image_size=32, blocks=(1, 5),
    batch_frames=8, device="cpu",
)  # fmt: skip


def write_video(path: Path, num_frames: int, *, width: int = 64, height: int = 48) -> None:
    """Frames of 1/25 s that all differ."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            pixels = np.full((height, width, 3), (number * 5) % 256, np.uint8)
            pixels[:, number % width] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def copy_without_clips(store: Path, to: Path) -> Path:
    """The store as it was before its first clip: the same calibration and canary."""
    shutil.copytree(store, to)
    for name in ("clips", "manifest"):
        shutil.rmtree(to / name)
        (to / name).mkdir()
    return to


def content(store: Path) -> dict[str, bytes]:
    """Every file of a store but the writers' logs and the attempts counted in quarantine."""
    names = [path.relative_to(store) for path in store.rglob("*") if path.is_file()]
    kept = [name for name in names if name.parts[0] not in {"manifest", "failed"}]
    return {str(name): (store / name).read_bytes() for name in kept}


def differing(one: Path, other: Path) -> list[str]:
    """Files of which the stores hold different bytes, or that only one holds."""
    a, b = content(one), content(other)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
