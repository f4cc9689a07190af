"""Linear classifiers of the phases of each action, on the embeddings of a run's training clips."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.data.clips import screen_clips
from tokenreel.evaluate.methods.probe import LogisticFit, fit_logistic

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Probe:
    """The classifier of the phases of one action.

    Attributes:
        fit: of the embeddings of its training clips.
        phases: names by number, () where the data set has none.
    """

    fit: LogisticFit
    phases: tuple[str, ...]

    def probabilities(self, frames: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of each of fit.classes for each frame: (n, C) -> (n, k)."""
        logits = frames.astype(np.float64) @ self.fit.weight.T + self.fit.bias
        shares: NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return shares

    def name(self, phase: int) -> str:
        """A phase as a user calls it."""
        return self.phases[phase] if phase < len(self.phases) else f"phase {phase}"


def labelled_actions(clips: Sequence[EmbeddedClip]) -> list[str]:
    """The actions whose training clips have two labelled phases or more, sorted."""
    return [action for action, _ in _by_action(clips)]


def fit_probes(
    clips: Sequence[EmbeddedClip], *, actions: Collection[str] | None = None
) -> dict[str, Probe]:
    """The classifier of each action whose training clips have two labelled phases or more.

    Args:
        clips: those of any split count, training clips alone are fitted on.
        actions: only these; None for all.
    """
    probes = {}
    for action, own in _by_action(clips):
        if actions is not None and action not in actions:
            continue
        labels = np.concatenate([clip.labels for clip in own]).astype(np.int64)
        frames = np.concatenate([clip.embeddings for clip in own])
        is_labelled = labels >= 0
        fit = fit_logistic(frames[is_labelled], labels[is_labelled])
        probes[action] = Probe(fit, tuple(own[0].phases))
    return probes


def _by_action(clips: Sequence[EmbeddedClip]) -> Iterator[tuple[str, list[EmbeddedClip]]]:
    """The sound training clips of each action that a classifier can be fitted on."""
    sound, left_out = screen_clips(clips)
    for reason in [reason for reasons in left_out.values() for reason in reasons]:
        log.warning("left out of the probe: %s", reason)
    train = [clip for clip in sound if clip.split == "train"]
    for action in sorted({clip.action for clip in train}):
        own = [clip for clip in train if clip.action == action]
        labels = np.concatenate([clip.labels for clip in own])
        if len(np.unique(labels[labels >= 0])) > 1:
            yield action, own
