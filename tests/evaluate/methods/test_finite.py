"""NaN, infinity and numbers of other kinds are refused by the name of the argument."""

import numpy as np
import pytest

from tokenreel.evaluate.methods.finite import require_finite
from tokenreel.evaluate.methods.nearest import nearest_in_each_clip, nearest_in_other_clips
from tokenreel.evaluate.methods.probe import classify_phases, fit_logistic
from tokenreel.evaluate.methods.progression import fit_progression
from tokenreel.evaluate.methods.retrieval import retrieve_frames
from tokenreel.evaluate.methods.sgd_probe import train_layer
from tokenreel.evaluate.methods.tau import align_clips

GOOD = np.eye(4, 3, dtype=np.float32)
LABELS = np.array([0, 1, 0, 1])
TARGETS = [np.ones((4, 1))]

CALLS = [
    ("train", lambda x: classify_phases(x, LABELS, GOOD, LABELS)),
    ("val", lambda x: classify_phases(GOOD, LABELS, x, LABELS)),
    ("train", lambda x: classify_phases(x, LABELS, GOOD, LABELS, classifier="svc")),
    ("train", lambda x: fit_logistic(x, LABELS)),
    ("train", lambda x: fit_progression(x, TARGETS, GOOD, TARGETS)),
    ("val", lambda x: fit_progression(GOOD, TARGETS, x, TARGETS)),
    (r"train_targets\[0\]", lambda x: fit_progression(GOOD, [x], GOOD, TARGETS)),
    (r"val_targets\[0\]", lambda x: fit_progression(GOOD, TARGETS, GOOD, [x])),
    (r"clips\[1\]", lambda x: align_clips([GOOD, x])),
    (r"clips\[1\]", lambda x: retrieve_frames([GOOD, x], [LABELS, LABELS], [1])),
    (r"clips\[1\]", lambda x: nearest_in_other_clips([GOOD, x], 1)),
    (r"clips\[0\]", lambda x: list(nearest_in_each_clip([x, GOOD]))),
    (r"clips\[9\]", lambda x: train_layer([GOOD] * 9 + [x], [LABELS] * 10, num_classes=2)),
]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "call"), CALLS, ids=[f"{i} {name}" for i, (name, _) in enumerate(CALLS)]
)
def test_a_value_that_is_not_finite_is_refused_by_the_name_of_the_argument(name, call, bad):
    frames = GOOD.copy()
    frames[2, 1] = bad
    words = rf"^{name} holds 1 value.s. that are NaN or infinite, the first in row 2"
    with pytest.raises(ValueError, match=words):
        call(frames)


@pytest.mark.parametrize("array", [np.ones((2, 2), complex), np.array([["a"]]), np.array([[None]])])
def test_other_kinds_of_numbers_are_of_the_wrong_type(array):
    with pytest.raises(TypeError, match=r"frames holds .*, wanted real numbers"):
        require_finite("frames", array)
