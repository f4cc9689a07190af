"""Training on a share of the labelled clips.  Source: CARL, Table 11.

A draw is an order of the labelled clips of an action that depends on the seed alone; a share of
them is its beginning, so that a smaller share is within a larger one.  The embedding file of such a
run lists them in that order: a probe that learns from the first tenth of a file, as those of the
papers do, has the labels that a model of a tenth had, and no others.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.fuse.config.system import SystemConfig

Labels = NDArray[np.integer]


def draw_labelled(
    actions: Sequence[str], labels: Sequence[Labels], *, share: float, seed: int
) -> list[int]:
    """The places of a share of the labelled clips of each action, in the order of their draw.

    As many of each as a probe takes: max(1, int(share * n)).

    Args:
        actions: of each clip.
        labels: (T_i,) phase of each of its frames, -1 unlabelled; one without any is not drawn.
        share: of the labelled clips.
        seed: of the draw.
    """
    chosen = []
    for action in sorted(set(actions)):
        own = [i for i, name in enumerate(actions) if name == action]
        order = _order([labels[i] for i in own], seed)
        count = max(1, int(share * len(order)))
        chosen += [own[i] for i in order[:count]]
    return chosen


def _order(labels: Sequence[Labels], seed: int) -> list[int]:
    """A clip of each phase, the rare phases first, then the others; by chance within that."""
    phases = [set(clip[clip >= 0].tolist()) for clip in labels]
    drawn = np.random.default_rng(seed).permutation([i for i, own in enumerate(phases) if own])
    order = [int(i) for i in drawn]
    num_clips = {phase: sum(phase in own for own in phases) for phase in set().union(*phases)}
    first: list[int] = []
    for phase in sorted(num_clips, key=lambda phase: (num_clips[phase], phase)):
        if not any(phase in phases[i] for i in first):
            first.append(next(i for i in order if phase in phases[i]))
    return first + [i for i in order if i not in first]


def in_order_of_draw(clips: Sequence[EmbeddedClip], config: SystemConfig) -> list[EmbeddedClip]:
    """The labelled training clips as a run drew them, then all others; all as they are without."""
    if config.data.label_share == 1:
        return list(clips)
    train = [i for i, clip in enumerate(clips) if clip.split == "train"]
    order = draw_labelled(
        [clips[i].action for i in train],
        [clips[i].labels for i in train],
        share=1,
        seed=config.seed,
    )
    first = [train[i] for i in order]
    return [clips[i] for i in (*first, *sorted(set(range(len(clips))) - set(first)))]
