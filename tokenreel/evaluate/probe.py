"""Phase classification: a classifier on frozen embeddings, and which clips it may learn from.

CARL, section 4.2: a multinomial logistic regression.  scikit-learn 1.0.2 fitted the published
numbers with multi_class="multinomial"; today's fit is the same model with float64 input,
tol = 1e-4 / n, and C = 2 where there are exactly two classes.  TCC: an RBF SVM on float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CLASSIFIERS", "Classified", "classify_phases", "draw_episodes", "fit_logistic",
    "labelled_prefix", "stratified_draw",
]  # fmt: skip

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Classified:
    """What the classifier did.

    Attributes:
        accuracy: share of the validation frames that are right.
        predicted: (n,) phase of each validation frame.
        num_classes: phases in the training frames.
    """

    accuracy: float
    predicted: Labels
    num_classes: int


def labelled_prefix(num_clips: int, fraction: float) -> int:
    """How many clips, from the first, a share of them is: max(1, int(fraction * n)).

    >>> labelled_prefix(7, 0.5), labelled_prefix(3, 0.1)
    (3, 1)
    """
    return max(1, int(fraction * num_clips))


def stratified_draw(labels: Sequence[Labels], count: int, *, seed: int) -> list[int]:
    """A random `count` of the clips, in order, with each phase in about its share of them.

    A clip stands for the phase of its own that the fewest clips have, so that rare phases keep
    their share; what is left over by rounding goes to the largest remainders.

    Args:
        labels: phases of each clip.
        count: how many clips.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    own = [np.unique(one) for one in labels]
    num_with = np.bincount(np.concatenate(own))
    rarest = np.array([int(phases[np.argmin(num_with[phases])]) for phases in own])
    strata = [rng.permutation(np.flatnonzero(rarest == phase)) for phase in np.unique(rarest)]
    quota = np.array([count * len(stratum) / len(labels) for stratum in strata])
    taken = quota.astype(int)
    # float rounding must not decide between equal remainders
    most = np.argsort(-np.round(quota - taken, 9), kind="stable")
    taken[most[: count - taken.sum()]] += 1
    chosen = [stratum[:some] for stratum, some in zip(strata, taken, strict=True)]
    return sorted(int(i) for i in np.concatenate(chosen))


def draw_episodes(num_clips: int, shots: int, num_episodes: int) -> list[list[int]]:
    """TCC's draws of `shots` clips: for each episode, the clips.

    Its code draws for 1, 2, 3... shots in turn from one generator seeded with 42; the draws for
    one number of shots are those that come after the draws for all smaller ones.
    """
    rng = np.random.RandomState(42)
    draws = [rng.permutation(num_clips) for _ in range(shots * num_episodes)]
    return [draw[:shots].tolist() for draw in draws[-num_episodes:]]


def classify_phases(
    train: Floats,
    train_labels: Labels,
    val: Floats,
    val_labels: Labels,
    *,
    classifier: Literal["logistic", "svc"] = "logistic",
) -> Classified:
    """Fit on the training frames, count right validation frames.

    Args:
        train: embeddings (n, C).
        train_labels: phases (n,), all >= 0.
        val: embeddings of the validation frames.
        val_labels: their phases; one that the training frames lack is never right.
        classifier: of CLASSIFIERS.

    Raises:
        ValueError: fewer than two phases in the training frames.
    """
    num_classes = len(np.unique(train_labels))
    if num_classes < 2:
        raise ValueError(f"the training frames hold {num_classes} phase(s), a classifier needs 2")
    predicted = CLASSIFIERS[classifier](train, train_labels, val)
    return Classified(float((predicted == val_labels).mean()), predicted, num_classes)


def fit_logistic(train: Floats, labels: Labels) -> Any:
    """The multinomial logistic regression of scikit-learn 1.0.2, by today's: a fitted model.

    The old one was over-parametrised: of two classes each had weights of its own, and paid for
    them; one vector w for both is the same model with twice the C.
    """
    from sklearn.linear_model import LogisticRegression  # half a second to import

    model = LogisticRegression(
        C=2.0 if len(np.unique(labels)) == 2 else 1.0, tol=1e-4 / len(train), max_iter=100_000
    )
    return model.fit(train.astype(np.float64), labels)


def _logistic(train: Floats, labels: Labels, val: Floats) -> Labels:
    return np.asarray(fit_logistic(train, labels).predict(val.astype(np.float64)))


def _svc(train: Floats, labels: Labels, val: Floats) -> Labels:
    from sklearn.svm import SVC

    return np.asarray(SVC(C=1.0, gamma="scale").fit(train, labels).predict(val))


CLASSIFIERS: dict[str, Callable[[Floats, Labels, Floats], Labels]] = {
    "logistic": _logistic,
    "svc": _svc,
}
