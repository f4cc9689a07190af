"""How many runs fit in memory together, and how many frames one reads at once."""

import math
from collections.abc import Sequence

import torch

from tokenreel.cache.read.store_reader import Store
from tokenreel.fuse.config.system import SystemConfig
from tokenreel.fuse.data.epoch_plan import hold_out, plan_epoch
from tokenreel.fuse.data.requirements import training_clips
from tokenreel.fuse.data.source import FRAMES_AT_ONCE, TokenSource
from tokenreel.fuse.systems.base import sampling_of, shapes_of, system_of


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


def run_bytes(config: SystemConfig, source: TokenSource) -> int:
    """Bytes of a run that trains with others: what it holds while another takes its step, float32.

    Weights, gradients and the two moments of Adam, what is shared with others in a step, and the
    embeddings of all clips.
    """
    system = system_of(config)
    frames = sum(record.num_frames for record in source.store.records.values())
    embeddings = frames * config.embedding_channels * 4
    with torch.device("meta"):
        model = system.build(config, shapes_of(source, config))
    weights = 16 * sum(parameter.numel() for parameter in model.parameters())
    return weights + system.shared_bytes(config, source) + embeddings


def most_frames(config: SystemConfig, store: Store, *, world: int = 1) -> int:
    """Frames of which a process never reads more at once: of a batch, or to embed a clip.

    Args:
        config: of the run.
        store: that it reads.
        world: processes that share a batch.
    """
    longest = max(record.num_frames for record in store.records.values())
    most = min(FRAMES_AT_ONCE, longest)
    for stage in system_of(config).stages(config):
        if stage.config.optim.epochs:
            most = max(most, _most_in_a_batch(stage.config, store, world))
    return most


def _most_in_a_batch(config: SystemConfig, store: Store, world: int) -> int:
    most, views = 0, 1 if config.data.views == "clean" else 2
    for clips in hold_out(training_clips(config, store), config.data.held_out):
        sizes = [len(numbers) for numbers in plan_epoch(clips, sampling_of(config), 0)]
        own = math.ceil(max(sizes, default=0) / world)
        frames = sorted(min(config.units_per_clip, views * c.num_frames) for c in clips)
        most = max(most, sum(frames[len(frames) - own :]))
    return most
