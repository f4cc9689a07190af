"""Where the codes of a store stay while a model trains: disk, memory or the GPU.

What fits stays resident as codes, never as tokens: int8 codes are a quarter of float32 tokens.
The bound is of all codes in memory: those that stay, and the batches that are on their way.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import ClipRecord
from tokenreel.cache.read.pictures import PIXELS
from tokenreel.cache.read.store_reader import Store

log = logging.getLogger(__name__)

PLACEMENTS = ("auto", "disk", "ram", "gpu")
RAM_SHARE = 0.5  # of what is available: the rest is the model's, the batches' and the system's
GPU_SHARE = 0.6
AHEAD = 2  # batches that wait while a step runs
IN_HAND = 2  # that of the step and the one that is being read


@dataclass(frozen=True)
class Placement:
    """What was chosen.

    Attributes:
        kind: "disk", "ram" or "gpu".
        num_bytes: of the codes that stay there.
        reason: one line for the log.
        ahead: batches that may wait while a step runs; with 0 none is read ahead.
    """

    kind: str
    num_bytes: int
    reason: str
    ahead: int = AHEAD


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Memory that a process may still take: MemAvailable, or what its cgroups leave where less.

    Page cache that can be dropped counts as available; MemFree would call a machine full that has
    only read files.  The processes that torchrun started on this machine share it.

    Args:
        root: above proc and sys/fs/cgroup, for tests.
    """
    lines = (root / "proc/meminfo").read_text().splitlines()
    fields = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (x.partition(":") for x in lines)
    }
    limits = [left for folder in _cgroups(root) if (left := _left_in(folder)) is not None]
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min([fields["MemAvailable"], *limits])) // processes


def _cgroups(root: Path) -> list[Path]:
    """The memory cgroups of this process and those above them, version 2 and 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        here = top / path.lstrip("/")
        folders += [here, *(above for above in here.parents if above.is_relative_to(top))]
    return folders


def _left_in(folder: Path) -> int | None:
    """Bytes a cgroup leaves, None where it sets no limit."""
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    for limit_name, used_name in names:
        try:
            limit, used = ((folder / name).read_text().strip() for name in (limit_name, used_name))
            stat = (folder / "memory.stat").read_text().splitlines()
        except OSError:
            continue
        if limit == "max":
            return None
        fields = dict(line.split(maxsplit=1) for line in stat if " " in line)
        droppable = int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
        return int(limit) - int(used) + droppable
    return None


def frame_bytes(store: Store, blocks: Sequence[int], *, cls: bool = False) -> int:
    """Bytes of the codes and scales of a frame, as they are kept.

    Args:
        store: that holds it.
        blocks: of the tokens.
        cls: count the CLS vector.
    """
    recipe, codec = store.identity, store.codec
    shape = (recipe.num_tokens, recipe.dim, recipe.grid)
    scales = codec.scale_shape(*shape)
    block = prod(codec.stored_shape(*shape)) * codec.dtype.itemsize
    block += prod(scales) * 4 if scales else 0
    return block * len(blocks) + (4 * recipe.dim if cls else 0)


def jpeg_bytes(store: Store, clips: Sequence[ClipRecord]) -> int:
    """Bytes of the pictures of clips as they are kept, JPEGs."""
    return sum(store.open_clip(clip).string_bytes(PIXELS) for clip in clips)


def picture_bytes(store: Store) -> int:
    """Bytes of the pictures of a unit, decoded."""
    return store.identity.frames_per_window * prod(store.identity.image_size) * 3


def choose_placement(
    wanted: str,
    num_bytes: int,
    device: torch.device,
    *,
    on_gpu: bool = True,
    memory_bytes: int | None = None,
    batch_bytes: int = 0,
    taken_bytes: int = 0,
) -> Placement:
    """Decide, and say why.

    Args:
        wanted: one of PLACEMENTS.
        num_bytes: of the codes that would stay.
        device: of the model.
        on_gpu: whether they can stay on a GPU; with "gpu" those that cannot stay where they fit.
        memory_bytes: most that codes may take in memory; half of what is available when None.
        batch_bytes: most of the codes that are read at once; 0 where the caller counts them.
        taken_bytes: of the room, what the codes of other stores will take.

    Raises:
        UsageError: an unknown word, or codes that do not fit.
    """
    if wanted not in PLACEMENTS:
        raise UsageError(f"placement {wanted!r} is none of {', '.join(PLACEMENTS)}")
    if wanted == "gpu" and device.type != "cuda":
        raise UsageError(f"placement gpu: the model runs on {device}; use ram, disk or auto")
    if wanted == "gpu" and not on_gpu:
        wanted = "auto"
    ram = int(available_memory_bytes() * RAM_SHARE) if memory_bytes is None else memory_bytes
    rooms = {"ram": ram, "disk": ram}
    if device.type == "cuda" and on_gpu:
        rooms = {"gpu": int(torch.cuda.mem_get_info(device)[0] * GPU_SHARE), **rooms}
    rooms = {kind: max(0, room - taken_bytes) for kind, room in rooms.items()}
    for kind in [wanted] if wanted != "auto" else list(rooms):
        stays = 0 if kind == "disk" else num_bytes
        if stays + batch_bytes <= rooms[kind]:
            fit = (rooms[kind] - stays) // max(1, batch_bytes)
            why = "requested" if wanted != "auto" else _why(kind, rooms)
            return Placement(kind, stays, why, max(0, min(AHEAD, fit - IN_HAND)))
    raise UsageError(_refusal(wanted, num_bytes, batch_bytes, rooms))


def _why(kind: str, rooms: dict[str, int]) -> str:
    if kind == "disk":
        parts = [f"{rooms[other] / 1e9:.2f} GB of {other}" for other in rooms if other != "disk"]
        return f"more than {' and '.join(parts)}"
    return f"within {rooms[kind] / 1e9:.2f} GB"


def _refusal(wanted: str, num_bytes: int, batch_bytes: int, rooms: dict[str, int]) -> str:
    if wanted not in ("auto", "disk"):
        return (
            f"placement {wanted}: {(num_bytes + batch_bytes) / 1e9:.2f} GB of codes, "
            f"{rooms[wanted] / 1e9:.2f} GB may be used: take placement=disk, fewer blocks, or a "
            "store with smaller codes"
        )
    return (
        f"up to {batch_bytes / 1e9:.2f} GB of codes are read at once, {rooms['disk'] / 1e9:.2f} GB "
        "may be used: set a smaller data.batch_clips or data.num_frames, take fewer blocks, or a "
        "store with smaller codes"
    )
