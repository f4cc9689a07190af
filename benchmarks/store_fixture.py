"""A store of random int8 tokens for the store benchmarks."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from tokenreel.cache.codec import Encoded, codec_identity
from tokenreel.cache.format.clip import (
    ClipRecord,
    SourceInfo,
    clip_group,
    clip_key,
    folder_of,
    load_clip,
)
from tokenreel.cache.format.identity import FORMAT_VERSION, StoreIdentity
from tokenreel.cache.format.index import log_commit
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.manifest import Clip
from tokenreel.cache.write.store_writer import StoreWriter

BLOCKS = (3, 7, 11)


def empty_store(path: Path, *, grid: tuple[int, int], dim: int = 768) -> Path:
    """A store without clips, of a codec whose calibration is trivial."""
    calibration = {f"mean/{b}": np.zeros(dim, np.float32) for b in BLOCKS}
    calibration |= {f"sd/{b}": np.ones(dim, np.float32) for b in BLOCKS}
    identity = StoreIdentity(
        architecture="random",
        weights_sha256="0" * 64,
        blocks=BLOCKS,
        grid=grid,
        dim=dim,
        image_size=(224, 224),
        transform={"name": "none"},
        frames={"policy": "all"},
        codec=codec_identity("int8", calibration),
    )
    return create_store(path, identity, made_with={}, calibration=calibration)


def write_clip(writer: StoreWriter, name: str, codes: np.ndarray, frames: int) -> None:
    """Write a clip whose every block and segment is `codes`, (64, N, D) int8."""
    source = SourceInfo("v.mp4", 0, "", "none", "0", {})
    clip = writer.begin(
        Clip(name, "v.mp4"), dataset="random", phases=(), source=source, time_base=Fraction(1, 25)
    )
    cls = np.zeros((64, codes.shape[-1]), np.float16)
    scales = np.ones(codes.shape[:2], np.float32)
    for start in range(0, frames, 64):
        part = slice(0, min(64, frames - start))
        encoded = {b: Encoded(codes[part], scales[part]) for b in BLOCKS}
        clip.append(0, encoded, dict.fromkeys(BLOCKS, cls[part]), cls[part])
    count = np.arange(frames)
    clip.commit(count, count, count * 0, count * 0)


def make_codes(grid: tuple[int, int], dim: int = 768) -> np.ndarray:
    """A segment of random codes."""
    shape = (64, grid[0] * grid[1], dim)
    return np.random.default_rng(0).integers(-127, 128, shape, dtype=np.int8)


def make_store(path: Path, *, grid: tuple[int, int], clips: int, frames: int) -> Path:
    """A store of that many clips."""
    empty_store(path, grid=grid)
    codes = make_codes(grid)
    with StoreWriter(path, writer_id="bench") as writer:
        for i in range(clips):
            write_clip(writer, f"c{i}", codes, frames)
    return path


def make_many_clips(path: Path, clips: int) -> Path:
    """A store to open, not to read: every clip but the first has a group and a log line only.

    The records are as large as real ones: six phases, the facts of a container.
    """
    empty_store(path, grid=(2, 2), dim=8)
    container = {"codec": "h264", "duration_seconds": 12.48, "frames": 312, "width": 1280}
    with StoreWriter(path, writer_id="bench") as writer:
        write_clip(writer, "c0", make_codes((2, 2), 8), 64)
        record, seals = load_clip(path / folder_of(clip_key("c0")), clip_key("c0"))
        for i in range(1, clips):
            video = f"videos/action_{i % 13}/clip_{i:05}.mp4"
            copy = ClipRecord.from_dict(
                record.to_dict(format_version=FORMAT_VERSION)
                | {
                    "clip_id": f"c{i}",
                    "key": clip_key(f"c{i}"),
                    "video": video,
                    "split": "train",
                    "action": f"action_{i % 13}",
                    "phases": [f"phase {n} of it" for n in range(6)],
                    "source": record.source
                    | {"video": video, "sha256": f"{i:064x}", "container": container},
                }
            )
            target = path / folder_of(copy.key)
            target.mkdir(parents=True)
            (target / "zarr.json").write_bytes(clip_group(copy, seals, identity=writer.identity))
            log_commit(path, copy, writer_name=writer.name, format_version=FORMAT_VERSION)
    return path
