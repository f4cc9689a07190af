"""How many runs fit in memory together, and how many frames one reads at once."""

import math
from collections.abc import Sequence

import torch

from tokenreel.cache.read.store_reader import Store
from tokenreel.fuse.config.run import FuseConfig
from tokenreel.fuse.data.epoch_plan import Sampling, hold_out, plan_epoch
from tokenreel.fuse.data.requirements import training_clips
from tokenreel.fuse.data.source import TokenSource
from tokenreel.fuse.embed.embed import FRAMES_AT_ONCE
from tokenreel.fuse.systems.mvformer import build_model
from tokenreel.fuse.train.shared_attention import may_share


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
    """Bytes of a run that trains with others: what it holds while another takes its step, float32.

    Weights, gradients and the two moments of Adam, what it attended to in a step, and the
    embeddings of all clips.
    """
    frames = sum(record.num_frames for record in source.store.records.values())
    embeddings = frames * config.temporal.embedding * 4
    with torch.device("meta"):
        model = build_model(
            config,
            dim=source.dim(config),
            cls_dim=source.cls_dim,
            num_classes=source.num_classes,
            grid=source.grid,
        )
    weights = 16 * sum(parameter.numel() for parameter in model.parameters())
    return weights + attended_bytes(config, source) + embeddings


def attended_bytes(config: FuseConfig, source: TokenSource) -> int:
    """Of what its queries took from the frames of a batch, the gradient of that, and all scores.

    It is held for all runs in lock-step at once where they share a pass over the codes.
    """
    if not (config.optim.epochs and may_share(config, source.device)):
        return 0
    grid = source.grid[0] * source.grid[1]
    row = 2 * source.dim(config) + grid
    return 4 * source.frames_at_once * config.pooling.total_entities * row


def most_frames(config: FuseConfig, store: Store, *, world: int = 1) -> int:
    """Frames of which a process never reads more at once: of a batch, or to embed a clip.

    Args:
        config: of the run.
        store: that it reads.
        world: processes that share a batch.
    """
    longest = max(record.num_frames for record in store.records.values())
    most = min(FRAMES_AT_ONCE, longest)
    if not config.optim.epochs:
        return most
    views = 1 if config.data.views == "clean" else 2
    for clips in hold_out(training_clips(config, store), config.data.held_out):
        sizes = [len(numbers) for numbers in plan_epoch(clips, Sampling.of(config), 0)]
        own = math.ceil(max(sizes, default=0) / world)
        frames = sorted(min(2 * config.data.num_frames, views * c.num_frames) for c in clips)
        most = max(most, sum(frames[len(frames) - own :]))
    return most
