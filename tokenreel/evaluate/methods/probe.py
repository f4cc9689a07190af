"""Phase classification: classifiers on frozen embeddings, and the choice of labelled clips.

CARL, section 4.2: a multinomial logistic regression, which scikit-learn 1.0.2 fitted for the
published numbers.  TCC: an RBF SVM.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenreel.evaluate.methods.finite import require_frames, require_labels

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Classified:
    """Result of a classifier.

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

    Raises:
        ValueError: a fraction that is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is above 0 and at most 1, got {fraction}")
    return max(1, int(fraction * num_clips))


def stratified_draw(labels: Sequence[Labels], count: int, *, seed: int) -> list[int]:
    """A random `count` of the clips, in order, with each phase in about its share of them.

    A clip counts for the rarest of its phases among all clips, so that rare phases keep
    their share; what is left over by rounding goes to the largest remainders.

    Args:
        labels: phases of each clip.
        count: how many clips.
        seed: of the draw.

    Raises:
        TypeError: labels that are not whole numbers.
        ValueError: a clip without labels.
    """
    require_labels("labels", labels)
    if empty := [i for i, phases in enumerate(labels) if not len(phases)]:
        raise ValueError(f"labels[{empty[0]}] is empty: a clip without a label has no phase")
    rng = np.random.default_rng(seed)
    own = [np.unique(phases) for phases in labels]
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
        ValueError: fewer than two phases in the training frames; NaN or infinity; labels of another
            number than frames.
        TypeError: labels that are not whole numbers.
    """
    require_frames("train", train)
    require_frames("val", val)
    require_labels("train_labels", train_labels, train)
    require_labels("val_labels", val_labels, val)
    num_classes = len(np.unique(train_labels))
    if num_classes < 2:
        raise ValueError(f"the training frames hold {num_classes} phase(s), a classifier needs 2")
    predicted = CLASSIFIERS[classifier](train, train_labels, val)
    return Classified(float((predicted == val_labels).mean()), predicted, num_classes)


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """A fitted multinomial logistic regression.

    Attributes:
        classes: (k,) phases in rising order.
        weight: (k, C) float64.
        bias: (k,) float64.
        num_iterations: of L-BFGS.
    """

    classes: Labels
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    num_iterations: int

    def predict(self, frames: Floats) -> Labels:
        """The phase of each frame (n, C), (n,).

        Raises:
            ValueError: NaN or infinity.
        """
        require_frames("frames", frames)
        logits = frames.astype(np.float64) @ self.weight.T + self.bias
        return np.asarray(self.classes[logits.argmax(axis=1)])


def fit_logistic(train: Floats, labels: Labels) -> LogisticFit:
    """The multinomial logistic regression of scikit-learn 1.0.2, step for step.

    Summed cross-entropy and half the squared weights, a weight vector a class, two classes
    included, L-BFGS from zero until no gradient is above 1e-4.  Today's scikit-learn scales the
    loss by 1 / n and gives two classes one vector: tol=1e-4 / n and C=2 bring it near (within
    5e-5 of the weights), this gives the old weights to 1e-9, and does not take it to import.

    Raises:
        ValueError: NaN or infinity; labels of another number than frames.
        TypeError: labels that are not whole numbers.
    """
    from scipy.optimize import minimize

    require_frames("train", train)
    require_labels("labels", labels, train)
    classes, which = np.unique(labels, return_inverse=True)
    frames = train.astype(np.float64)
    num_frames, channels = frames.shape
    turned, rows = np.ascontiguousarray(frames.T), np.arange(num_frames)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        matrix = flat.reshape(len(classes), channels + 1)
        weight = matrix[:, :channels]
        logits = weight @ turned + matrix[:, channels:]
        logits -= logits.max(axis=0)
        shares = np.exp(logits)
        totals = shares.sum(axis=0)
        value = (np.log(totals) - logits[which, rows]).sum() + 0.5 * np.square(weight).sum()
        shares /= totals
        shares[which, rows] -= 1
        gradient = np.column_stack([shares @ frames + weight, shares.sum(axis=1)])
        return float(value), gradient.ravel()

    start = np.zeros(len(classes) * (channels + 1))
    found = minimize(
        loss, start, method="L-BFGS-B", jac=True, options={"gtol": 1e-4, "maxiter": 100_000}
    )
    matrix = found.x.reshape(len(classes), channels + 1)
    return LogisticFit(classes, matrix[:, :channels], matrix[:, channels], int(found.nit))


def _logistic(train: Floats, labels: Labels, val: Floats) -> Labels:
    return fit_logistic(train, labels).predict(val)


def _svc(train: Floats, labels: Labels, val: Floats) -> Labels:
    from sklearn.svm import SVC

    return np.asarray(SVC(C=1.0, gamma="scale").fit(train, labels).predict(val))


CLASSIFIERS: dict[str, Callable[[Floats, Labels, Floats], Labels]] = {
    "logistic": _logistic,
    "svc": _svc,
}
