"""Small videos, a small backbone, and what a store holds: shared by the tests of extraction."""

import os
import shutil
from pathlib import Path

import av
import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from tokenreel.extract.backbone.base import Backbone, BackboneShape
from tokenreel.extract.backbone.timm_backbone import TimmBackbone
from tokenreel.extract.config import ExtractConfig

CONFIG = ExtractConfig(
    backbone="test_vit",
    weights="random:0",
    image_size=32,
    blocks=(1, 5),
    batch_frames=8,
    device="cpu",
)


def official_dino() -> tuple[Backbone, dict[str, torch.Tensor]]:
    """A backbone of every block with golden weights; golden images "x" and what comes of them."""
    with np.load(Path(__file__).parents[1] / "golden/dino_vit_small.npz") as file:
        golden = {
            k.removeprefix("small/"): torch.from_numpy(file[k]) for k in file if "small/" in k
        }
    state = {k.removeprefix("state/"): golden[k] for k in golden if "state/" in k}
    width, depth = state["pos_embed"].shape[-1], len(golden["block_outputs_no_norm"])
    hidden = len(state["blocks.0.mlp.fc1.bias"])
    model = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=width,
        depth=depth,
        num_classes=0,
        num_heads=golden["dino_last_selfattention"].shape[1],
        mlp_ratio=hidden / width,
    )
    model.load_state_dict(state)
    shape = BackboneShape(tuple(range(depth)), (4, 4), width, (32, 32), True)
    return TimmBackbone(model, shape, numeric="float32"), golden


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


def files_below(folder: Path) -> list[Path]:
    """The files below a folder, while a process writes there.

    `os.walk`, for it passes over a folder that is renamed or removed meanwhile: rglob raises.
    """
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def shards(store: Path) -> list[Path]:
    """Files of whole segments and of those being written, while a process writes the store."""
    return [file for file in files_below(store / "clips") if file.match("tokens/*/c/*/0/0")]
