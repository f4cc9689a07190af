"""Phase classification: a linear classifier on frozen embeddings (spec: CARL, section 4.2).

scikit-learn 1.0.2 fitted the published numbers with multi_class="multinomial".  Today's fit is the
same model with float64 input, tol = 1e-4 / n, and C = 2 where there are exactly two classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

__all__ = ["Classified", "classify_phases", "labelled_prefix"]


@dataclass(frozen=True, eq=False)
class Classified:
    """What the classifier did.

    Attributes:
        accuracy: share of the validation frames that are right.
        predicted: (n,) phase of each validation frame.
        num_classes: phases in the training frames.
    """

    accuracy: float
    predicted: NDArray[np.int64]
    num_classes: int


def labelled_prefix(num_clips: int, fraction: float) -> int:
    """How many clips, from the first, a share of them is: max(1, int(fraction * n)).

    >>> labelled_prefix(7, 0.5), labelled_prefix(3, 0.1)
    (3, 1)
    """
    return max(1, int(fraction * num_clips))


def classify_phases(
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    val: NDArray[np.float32],
    val_labels: NDArray[np.int64],
) -> Classified:
    """Fit on the training frames, count right validation frames.

    Args:
        train: embeddings (n, C).
        train_labels: phases (n,), all >= 0.
        val: embeddings of the validation frames.
        val_labels: their phases.

    Raises:
        ValueError: fewer than two phases in the training frames.
    """
    num_classes = len(np.unique(train_labels))
    if num_classes < 2:
        raise ValueError(f"the training frames hold {num_classes} phase(s), a classifier needs 2")
    model = LogisticRegression(
        C=2.0 if num_classes == 2 else 1.0, tol=1e-4 / len(train), max_iter=100_000
    )
    model.fit(train.astype(np.float64), train_labels)
    predicted = model.predict(val.astype(np.float64))
    return Classified(float((predicted == val_labels).mean()), predicted, num_classes)
