"""NaN, infinity, labels and numbers of other kinds are refused by the name of the argument."""

import numpy as np
import pytest

from tokenreel.evaluate.data.clips import ActionData, Side
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.finite import require_finite, require_labels
from tokenreel.evaluate.methods.nearest import (
    nearest_in_each_clip,
    nearest_in_other_clips,
    squared_distances,
)
from tokenreel.evaluate.methods.probe import (
    classify_phases,
    fit_logistic,
    labelled_prefix,
    stratified_draw,
)
from tokenreel.evaluate.methods.progression import (
    count_absent,
    fit_progression,
    progression_targets,
)
from tokenreel.evaluate.methods.retrieval import retrieve_frames
from tokenreel.evaluate.methods.sgd_probe import Layer, train_layer
from tokenreel.evaluate.methods.tau import align_clips, tau_b, tau_b_rows
from tokenreel.evaluate.methods.warping import tiled_distances, warp, warp_frames
from tokenreel.evaluate.protocol import PROTOCOLS, TASKS
from tokenreel.evaluate.tasks.task import Request, load_task

GOOD = np.eye(4, 3, dtype=np.float32)
LABELS = np.array([0, 1, 0, 1])
TARGETS = [np.ones((4, 1))]
BLANK = Score("run", "", "", "0", "", "", "act", "val", 1.0, np.nan, "carl")
LAYER = Layer(np.eye(2, 3, dtype=np.float32), np.zeros(2, np.float32))

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
    ("frames", lambda x: fit_logistic(GOOD, LABELS).predict(x)),
    ("frames", lambda x: LAYER.predict(x)),
    ("queries", lambda x: squared_distances(x, GOOD)),
    ("gallery", lambda x: squared_distances(GOOD, x)),
    ("first", lambda x: tiled_distances(x, GOOD)),
    ("second", lambda x: tiled_distances(GOOD, x)),
    ("first", lambda x: warp_frames(x, GOOD)),
    ("second", lambda x: warp_frames(GOOD, x)),
    ("costs", warp),
    ("sequences", tau_b_rows),
    ("neighbours", lambda x: tau_b(x[:, 1])),
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


@pytest.mark.parametrize(
    "convert",
    [np.ndarray.tolist, np.matrix, lambda x: np.ma.masked_equal(x, 0)],
    ids=["list", "matrix", "masked"],
)
@pytest.mark.parametrize(
    ("name", "call"), CALLS[:-3], ids=[f"{i} {name}" for i, (name, _) in enumerate(CALLS[:-3])]
)
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_what_is_no_plain_array_is_of_the_wrong_type(name, call, convert):
    with pytest.raises(TypeError, match=rf"^{name}(\[\d\])? is a \w+, wanted an array of"):
        call(convert(GOOD))


TABLES = [(name, call) for name, call in CALLS[:-4] if "targets" not in name]


@pytest.mark.parametrize(
    "convert",
    [lambda x: x[:, 0], lambda x: x[None], lambda x: x[:, :0]],
    ids=["1d", "3d", "no channels"],
)
@pytest.mark.parametrize(
    ("name", "call"), TABLES, ids=[f"{i} {name}" for i, (name, _) in enumerate(TABLES)]
)
def test_frames_of_another_shape_are_refused_by_the_name_of_the_argument(name, call, convert):
    with pytest.raises(ValueError, match=rf"^{name} is (of shape|\(frames, channels\) >= 1, got)"):
        call(convert(GOOD))


def test_clips_of_different_channels_are_refused():
    for call in (align_clips, lambda x: nearest_in_other_clips(x, 1)):
        with pytest.raises(ValueError, match=r"clips\[1\] is of shape \(4, 2\), wanted .* 3 chan"):
            call([GOOD, GOOD[:, :2]])


def test_whole_numbers_are_regressed_as_their_floats():
    counts = (10 * GOOD).astype(np.uint8)
    found = fit_progression(counts, TARGETS, counts, TARGETS)
    wanted = fit_progression(10 * GOOD, TARGETS, 10 * GOOD, TARGETS)
    np.testing.assert_array_equal(found.predicted, wanted.predicted)


@pytest.mark.parametrize("ks", [[], [0], [-1], [2.5], ["5"]])
def test_ks_are_whole_numbers_from_1(ks):
    with pytest.raises(ValueError, match="ks are numbers of neighbours from 1"):
        retrieve_frames([GOOD, GOOD], [LABELS, LABELS], ks)


def test_sequences_are_rows_and_a_draw_needs_labels():
    with pytest.raises(ValueError, match="sequences are of shape"):
        tau_b_rows(LABELS)
    with pytest.raises(ValueError, match=r"labels\[1\] is empty"):
        stratified_draw([LABELS, LABELS[:0]], 1, seed=0)


@pytest.mark.parametrize("array", [np.ones((2, 2), complex), np.array([["a"]]), np.array([[None]])])
def test_other_kinds_of_numbers_are_of_the_wrong_type(array):
    with pytest.raises(TypeError, match=r"frames holds .*, wanted real numbers"):
        require_finite("frames", array)


LABELLED = [
    ("train_labels", lambda x: classify_phases(GOOD, x, GOOD, LABELS)),
    ("val_labels", lambda x: classify_phases(GOOD, LABELS, GOOD, x)),
    ("labels", lambda x: fit_logistic(GOOD, x)),
    (r"labels\[1\]", lambda x: retrieve_frames([GOOD, GOOD], [LABELS, x], [1])),
    (r"labels\[9\]", lambda x: train_layer([GOOD] * 10, [LABELS] * 9 + [x], num_classes=2)),
    (r"labels\[1\]", lambda x: stratified_draw([LABELS, x], 1, seed=0)),
    ("labels", lambda x: progression_targets(x, 2)),
    ("labels", lambda x: count_absent(x, 2)),
]
NAMED = pytest.mark.parametrize(
    ("name", "call"), LABELLED, ids=[f"{i} {name}" for i, (name, _) in enumerate(LABELLED)]
)


@NAMED
@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_labels_are_whole_numbers(name, call, bad):
    labels = LABELS.astype(float)
    labels[2] = bad
    with pytest.raises(TypeError, match=rf"^{name} holds float64, wanted whole numbers from 0"):
        call(labels)


@NAMED
def test_a_label_below_zero_is_refused(name, call):
    with pytest.raises(ValueError, match=rf"^{name} goes from -1 to 1, wanted 0 (up|to 1)"):
        call(np.array([0, 1, -1, 1]))


@pytest.mark.parametrize(("name", "call"), LABELLED[:5])
def test_there_is_a_label_for_each_frame(name, call):
    with pytest.raises(
        ValueError, match=rf"^{name} is of shape \(3,\), wanted \(4,\): one a frame"
    ):
        call(np.array([0, 1, 1]))


def test_labels_of_another_number_of_clips_are_refused():
    with pytest.raises(ValueError, match=r"^labels is of 1 clips, embeddings of 2"):
        retrieve_frames([GOOD, GOOD], [LABELS], [1])


def test_a_label_that_no_class_has_is_refused():
    with pytest.raises(ValueError, match=r"^labels goes from 0 to 2, wanted 0 to 1"):
        require_labels("labels", np.array([0, 2]), num_classes=2)
    with pytest.raises(ValueError, match=r"^labels\[9\] goes from 0 to 2, wanted 0 to 1"):
        train_layer([GOOD] * 10, [LABELS] * 9 + [LABELS * 2], num_classes=2)
    with pytest.raises(ValueError, match=r"^labels goes from 0 to 2, wanted 0 to 1"):
        progression_targets(LABELS * 2, 2, "lav")


def test_an_error_names_the_lowest_and_the_highest_label_and_no_label_is_right():
    for labels, words in (([-3, -2], "from -3 to -2, wanted 0 up"), ([5, 7], "from 5 to 7, want")):
        with pytest.raises(ValueError, match=rf"^labels goes {words}"):
            require_labels("labels", np.array(labels), num_classes=None if labels[0] < 0 else 3)
    require_labels("labels", LABELS[:0], num_classes=2)


def test_truth_values_are_numbers_and_no_labels():
    require_finite("frames", np.array([[True, False]]))
    with pytest.raises(TypeError, match=r"^labels holds bool, wanted whole numbers"):
        require_labels("labels", np.array([True]))


@pytest.mark.parametrize("ks", [(), (0,), (5, -1)])
def test_numbers_of_neighbours_are_from_one(ks):
    with pytest.raises(ValueError, match=r"^ks are numbers of neighbours from 1, got \("):
        retrieve_frames([GOOD, GOOD], [LABELS, LABELS], ks)
    for count, threads in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"at least 1, got {count} and {threads}"):
            nearest_in_other_clips([GOOD, GOOD], count, threads=threads)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -0.5, 1.5])
def test_a_share_of_clips_is_above_zero_and_at_most_one(value):
    with pytest.raises(ValueError, match=f"^fraction is above 0 and at most 1, got {value}"):
        labelled_prefix(7, value)


@pytest.mark.parametrize("rate", [np.nan, np.inf])
def test_a_learning_rate_that_is_not_finite_is_refused(rate):
    with pytest.raises(ValueError, match=f"^learning_rate is {rate}"):
        train_layer([GOOD] * 10, [LABELS] * 10, num_classes=2, learning_rate=rate)


@pytest.mark.parametrize(
    ("task", "side"),
    [
        (name, side)
        for name in TASKS.ours
        for side in ("train", "val")
        if load_task(name).scope == "action"
        and not (side == "train" and name in ("tau", "retrieval"))  # validation clips alone
    ],
)
def test_no_metric_of_the_table_gives_a_number_of_nan(task, side):
    clips = [GOOD + i / 8 for i in range(3)]
    spoilt = [*clips[:2], np.full_like(GOOD, np.nan)]
    sides = {
        name: Side(list("abc"), spoilt if name == side else clips, [LABELS] * 3, 0)
        for name in ("train", "val")
    }
    data = ActionData(**sides, num_phases=2, is_shared=[False] * 3)
    metric = load_task(task)
    settings = PROTOCOLS["carl"].model_copy(update={"shots": (3,), "episodes": 1})
    request = Request(settings, metric.rows(settings, [])[0], BLANK)
    with pytest.raises(ValueError, match=rf"^({side}|clips\[2\]) holds \d+ value.s. that are NaN"):
        metric.compute(data, request)
