"""Where the codes of a store stay while a model trains: disk, memory or the GPU.

What fits stays resident as codes, never as tokens: int8 codes are a quarter of float32 tokens.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from tokenreel.cache.errors import UsageError
from tokenreel.cache.reader import ClipRecord, Store

__all__ = ["PLACEMENTS", "Placement", "available_memory_bytes", "choose_placement", "code_bytes"]

log = logging.getLogger(__name__)

PLACEMENTS = ("auto", "disk", "ram", "gpu")
RAM_SHARE = 0.5  # of what is available: the rest is the model's, the batches' and the system's
GPU_SHARE = 0.6


@dataclass(frozen=True)
class Placement:
    """What was chosen.

    Attributes:
        kind: "disk", "ram" or "gpu".
        num_bytes: of the codes that stay there.
        reason: one line for the log.
    """

    kind: str
    num_bytes: int
    reason: str


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
        folders += [here, *(one for one in here.parents if one.is_relative_to(top))]
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


def code_bytes(
    store: Store, clips: Sequence[ClipRecord], blocks: Sequence[int], *, cls: bool = False,
    every_view: bool = True,
) -> int:  # fmt: skip
    """Bytes of the codes and scales of some clips, as they are kept.

    Args:
        store: that holds them.
        clips: which.
        blocks: of the tokens.
        cls: count their CLS vectors.
        every_view: count the augmented views too.
    """
    recipe, codec = store.recipe, store.codec
    shape = (recipe.num_tokens, recipe.dim, recipe.grid)
    scales = codec.scale_shape(*shape)
    frame = prod(codec.stored_shape(*shape)) * codec.dtype.itemsize
    frame += prod(scales) * 4 if scales else 0
    frames = sum(clip.num_frames * (clip.num_views if every_view else 1) for clip in clips)
    return frames * (frame * len(blocks) + (4 * recipe.dim if cls else 0))


def choose_placement(
    wanted: str, num_bytes: int, device: torch.device, *, memory_bytes: int | None = None
) -> Placement:
    """Decide, and say why.

    Args:
        wanted: one of PLACEMENTS.
        num_bytes: of the codes that would stay.
        device: of the model.
        memory_bytes: most that may stay in memory; half of what is available when None.

    Raises:
        UsageError: an unknown word, or a placement that does not fit.
    """
    if wanted not in PLACEMENTS:
        raise UsageError(f"placement {wanted!r} is none of {', '.join(PLACEMENTS)}")
    if wanted == "gpu" and device.type != "cuda":
        raise UsageError(f"placement gpu: the model runs on {device}; use ram, disk or auto")
    ram = int(available_memory_bytes() * RAM_SHARE) if memory_bytes is None else memory_bytes
    rooms = {"ram": ram, "disk": num_bytes}
    if device.type == "cuda":
        rooms = {"gpu": int(torch.cuda.mem_get_info(device)[0] * GPU_SHARE), **rooms}
    order = [wanted] if wanted != "auto" else list(rooms)
    for kind in order:
        if num_bytes <= rooms[kind]:
            why = "asked for" if wanted != "auto" else _why(kind, rooms, num_bytes)
            return Placement(kind, 0 if kind == "disk" else num_bytes, why)
    raise UsageError(
        f"placement {wanted}: {num_bytes / 1e9:.2f} GB of codes, {rooms[wanted] / 1e9:.2f} GB may "
        "be used: take placement=disk, fewer blocks, or a store with smaller codes"
    )


def _why(kind: str, rooms: dict[str, int], num_bytes: int) -> str:
    if kind == "disk":
        parts = [f"{rooms[other] / 1e9:.2f} GB of {other}" for other in rooms if other != "disk"]
        return f"more than {' and '.join(parts)}"
    return f"within {rooms[kind] / 1e9:.2f} GB"
