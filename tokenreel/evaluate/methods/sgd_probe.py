"""FineGym's linear evaluation: one layer by SGD on the frames of some clips at a time.

Spec 1.6.  First weights as torch draws them (uniform within 1 / sqrt(C)), mean cross-entropy over
the frames of a batch, momentum 0.9, weight decay 1e-6, a learning rate of
lr (1 + cos(pi e / epochs)) / 2 in epoch e, batches of 10 shuffled clips with all their labelled
frames, the last clips of an epoch that fill no batch left out.  The accuracy is that of the last
epoch.  The gradient of one layer is two matrix products, so numpy will do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.evaluate.methods.finite import require_frames, require_labels

BATCH_CLIPS = 10
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-6

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer: weight (classes, C), bias (classes,), float32."""

    weight: Floats
    bias: Floats

    def predict(self, frames: Floats) -> Labels:
        """The class of each frame (n, C), (n,).

        Raises:
            ValueError: NaN or infinity.
        """
        require_frames("frames", frames)
        return np.asarray((frames @ self.weight.T + self.bias).argmax(axis=1))


def train_layer(
    clips: Sequence[Floats],
    labels: Sequence[Labels],
    *,
    num_classes: int,
    learning_rate: float = 50.0,
    epochs: int = 100,
    seed: int = 0,
    first: Layer | None = None,
    orders: Sequence[Sequence[int]] | None = None,
) -> Layer:
    """Train the layer.

    Args:
        clips: embeddings (T_i, C) of the labelled frames of each training clip.
        labels: their classes (T_i,).
        num_classes: of the data set: 99 or 288.
        learning_rate: 50 is for unit embeddings.
        epochs: how many.
        seed: of the first weights and of the orders.
        first: weights to begin with instead of drawn ones.
        orders: the clips of each epoch instead of drawn ones.

    Raises:
        ValueError: fewer clips than a batch, which would train nothing; NaN or infinity; a label
            out of range; a learning rate that is not finite.
        TypeError: labels that are not whole numbers.
    """
    require_frames("clips", clips)
    require_labels("labels", labels, clips, num_classes=num_classes)
    if not math.isfinite(learning_rate):
        raise ValueError(f"learning_rate is {learning_rate}, wanted a finite number")
    if len(clips) < BATCH_CLIPS:
        raise ValueError(f"{len(clips)} labelled clips to learn from, a batch holds {BATCH_CLIPS}")
    rng = np.random.default_rng(seed)
    layer = first or _draw_layer(rng, clips[0].shape[1], num_classes)
    weight, bias = layer.weight.copy(), layer.bias.copy()
    speeds = [np.zeros_like(weight), np.zeros_like(bias)]
    for epoch in range(epochs):
        rate = np.float32(learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2)
        order = rng.permutation(len(clips)) if orders is None else orders[epoch]
        for start in range(0, len(order) - BATCH_CLIPS + 1, BATCH_CLIPS):
            batch = order[start : start + BATCH_CLIPS]
            frames = np.concatenate([clips[i] for i in batch])
            error = _error(frames, np.concatenate([labels[i] for i in batch]), weight, bias)
            gradients = (error.T @ frames, error.sum(axis=0))
            for value, speed, gradient in zip((weight, bias), speeds, gradients, strict=True):
                speed *= np.float32(MOMENTUM)
                speed += gradient + np.float32(WEIGHT_DECAY) * value
                value -= rate * speed
    return Layer(weight, bias)


def _error(frames: Floats, labels: Labels, weight: Floats, bias: Floats) -> Floats:
    """Gradient of the mean cross-entropy by the logits, (n, classes): (softmax - one-hot) / n."""
    logits = frames @ weight.T + bias
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    logits[np.arange(len(labels)), labels] -= 1
    logits /= np.float32(len(labels))
    return logits


def _draw_layer(rng: np.random.Generator, channels: int, num_classes: int) -> Layer:
    bound = 1 / math.sqrt(channels)
    weight = rng.uniform(-bound, bound, (num_classes, channels))
    return Layer(
        weight.astype(np.float32), rng.uniform(-bound, bound, num_classes).astype(np.float32)
    )
