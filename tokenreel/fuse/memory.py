"""How many runs fit in memory together."""

from collections.abc import Sequence

import torch

from tokenreel.fuse.config import FuseConfig
from tokenreel.fuse.model import build_model
from tokenreel.fuse.source import TokenSource

__all__ = ["run_bytes", "split_by_memory"]


def split_by_memory(sizes: Sequence[int], room: float) -> list[list[int]]:
    """Cut a list into parts, in order, that fit in memory; one that fits nowhere is alone.

    Args:
        sizes: bytes of each.
        room: bytes that a part may take.

    Returns:
        The numbers of each part.

    >>> split_by_memory([4, 4, 9, 2], room=8)
    [[0, 1], [2], [3]]
    """
    parts: list[list[int]] = [[]]
    taken = 0
    for number, size in enumerate(sizes):
        if parts[-1] and taken + size > room:
            parts.append([])
            taken = 0
        parts[-1].append(number)
        taken += size
    return parts


def run_bytes(config: FuseConfig, source: TokenSource) -> int:
    """Weights, gradients and the two moments of Adam, float32, and the embeddings of all clips."""
    frames = sum(record.num_frames for record in source.store.records.values())
    embeddings = frames * config.temporal.embedding * 4
    if config.model == "frozen":
        return frames * source.dim(config) * 4
    with torch.device("meta"):
        model = build_model(
            config, dim=source.dim(config), cls_dim=source.cls_dim,
            num_classes=source.num_classes, grid=source.grid,
        )  # fmt: skip
    return 16 * sum(parameter.numel() for parameter in model.parameters()) + embeddings
