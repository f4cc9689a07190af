"""Frozen features as a control that is fair to them."""

from dataclasses import replace

import numpy as np

from tokenreel.cache.embeddings import EmbeddedClip

__all__ = ["standardise"]


def standardise(clips: list[EmbeddedClip]) -> list[EmbeddedClip]:
    """Frozen features as a fair control: channels standardised, then unit length, as a model's are.

    Mean and standard deviation are those of the training clips, or of all where there are none; no
    label is used.  Frozen channels differ in scale by orders of magnitude, and distances and a
    linear classifier would see the largest alone.
    """
    chosen = [clip for clip in clips if clip.split == "train"] or clips
    together = np.concatenate([clip.embeddings for clip in chosen]).astype(np.float64)
    mean, sd = together.mean(0), together.std(0)
    sd[sd == 0] = 1.0
    out = []
    for clip in clips:
        standard = (clip.embeddings - mean) / sd
        length = np.linalg.norm(standard, axis=1, keepdims=True)
        unit = standard / np.where(length == 0, 1.0, length)
        out.append(replace(clip, embeddings=unit.astype(np.float32)))
    return out
