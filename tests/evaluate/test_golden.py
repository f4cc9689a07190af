"""The metrics against the official code: the same inputs, the same numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from tokenreel.evaluate.methods.nearest import squared_distances
from tokenreel.evaluate.methods.probe import classify_phases, fit_logistic, labelled_prefix
from tokenreel.evaluate.methods.progression import (
    AbsentPhase,
    fit_progression,
    progression_targets,
)
from tokenreel.evaluate.methods.retrieval import retrieve_frames
from tokenreel.evaluate.methods.tau import align_clips, tau_b

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "metrics_cases.json").read_text())
WANTED = json.loads((GOLDEN / "metrics_expected_sklearn102.json").read_text())["results"]
STABLE = json.loads((GOLDEN / "retrieval_stable_ties.json").read_text())["AP"]
RULES = json.loads((GOLDEN / "progression_absent_class_rules.json").read_text())
NUM_PHASES = {
    "baseball_pitch": 4,
    "baseball_swing": 3,
    "bench_press": 2,
    "bowl": 3,
    "clean_and_jerk": 6,
    "golf_swing": 3,
    "jumping_jacks": 4,
    "pushup": 2,
    "pullup": 2,
    "situp": 2,
    "squat": 4,
    "tennis_forehand": 3,
    "tennis_serve": 4,
    "pouring": 5,
}


def read_side(case, split):
    """Embeddings and labels by clip, frames without a label left out."""
    with np.load(GOLDEN / "metrics_inputs.npz") as file:
        arrays = [file[f"{case}/{split}/{name}"] for name in ("embs", "labels", "lens")]
    edges = np.cumsum(arrays[2])[:-1]
    clips = zip(np.split(arrays[0], edges), np.split(arrays[1], edges), strict=True)
    kept = [(one[labels >= 0], labels[labels >= 0].astype(np.int64)) for one, labels in clips]
    return [one for one, _ in kept], [labels for _, labels in kept]


def logged(case, metric, part):
    values = WANTED[case][metric].get("logged") or {}
    return next((value for key, value in values.items() if part in key), None)


@pytest.mark.parametrize("case", CASES)
def test_tau_equals_the_official_value(case):
    wanted = WANTED[case]["kendalls_tau"]
    embeddings, _ = read_side(case, "val")
    found = align_clips([one[:: CASES[case]["stride"]] for one in embeddings])
    if wanted.get("returned") is None:
        assert np.isnan(found.tau)
    else:
        assert found.tau == pytest.approx(wanted["returned"], abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_tau_of_every_pair_equals_scipy(case):
    with np.load(GOLDEN / "kendall_per_pair.npz") as file:
        wanted = file[case] if case in file.files else None
    if wanted is None:
        pytest.skip("the official code recorded no pairs for this case")
    embeddings = [one[:: CASES[case]["stride"]] for one in read_side(case, "val")[0]]
    found = [
        tau_b(squared_distances(one, other).argmin(axis=1))
        for i, one in enumerate(embeddings)
        for j, other in enumerate(embeddings)
        if i != j
    ]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", STABLE)
def test_precision_at_k_with_stable_ties_equals_the_official_value(case):
    embeddings, labels = read_side(case, "val")
    stride = CASES[case]["stride"]
    found = retrieve_frames(
        [one[::stride] for one in embeddings], [one[::stride] for one in labels], (5, 10, 15)
    )
    for k, value in STABLE[case].items():
        assert found.precision[int(k)] == pytest.approx(value, abs=1e-6)


def has_values(metric):
    return [case for case in CASES if WANTED[case][metric].get("logged")]


@pytest.mark.parametrize("case", has_values("classification"))
def test_classification_is_within_a_frame_of_the_official_value(case):
    train, train_labels = read_side(case, "train")
    val, val_labels = read_side(case, "val")
    for fraction in CASES[case]["fractions"]:
        wanted = logged(case, "classification", f"val_{CASES[case]['dataset']}_{fraction}_acc")
        if wanted is None:
            continue
        count = labelled_prefix(len(train), fraction)
        found = classify_phases(
            np.concatenate(train[:count]),
            np.concatenate(train_labels[:count]),
            np.concatenate(val),
            np.concatenate(val_labels),
        )
        assert found.accuracy == pytest.approx(wanted, abs=1.001 / sum(map(len, val)))


@pytest.mark.parametrize("case", has_values("event_completion"))
def test_progression_equals_the_official_value(case):
    num_phases = NUM_PHASES[CASES[case]["dataset"]]
    train, train_labels = read_side(case, "train")
    val, val_labels = read_side(case, "val")
    for fraction in CASES[case]["fractions"]:
        wanted = logged(case, "event_completion", f"val_{CASES[case]['dataset']}_{fraction}_score")
        if wanted is None:
            continue
        count = labelled_prefix(len(train), fraction)
        found = fit_progression(
            np.concatenate(train[:count]),
            [progression_targets(labels, num_phases) for labels in train_labels[:count]],
            np.concatenate(val),
            [progression_targets(labels, num_phases) for labels in val_labels],
        )
        # One ill-conditioned case moves by 2e-6 between two builds of the least-squares solver.
        assert found.score == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("case", RULES)
@pytest.mark.parametrize(("rule", "key"), [("tcc2021", "tcc"), ("lav", "lav"), ("casa", "casa")])
def test_targets_of_an_absent_phase_follow_the_named_rule(case, rule, key):
    with np.load(GOLDEN / "progression_absent_class_rules.npz") as file:
        labels = file[f"{case}/labels"].astype(np.int64)
        name = f"{case}/{key}_targets"
        wanted = file[name] if name in file.files else None
    num_phases = RULES[case]["num_classes"]
    if wanted is None:
        with pytest.raises(AbsentPhase, match="phase 0 is absent"):
            progression_targets(labels, num_phases, rule)
    else:
        found = progression_targets(labels, num_phases, rule)
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_the_official_targets_of_a_pouring_like_set():
    with np.load(GOLDEN / "progression_targets.npz") as file:
        wanted = file["pouring_like"]
    found = [progression_targets(one, 5) for one in read_side("pouring_like", "val")[1]]
    np.testing.assert_allclose(np.concatenate(found), wanted, atol=1e-6)


def test_an_absent_phase_is_an_error_by_default():
    with pytest.raises(AbsentPhase, match="phase 1 is absent from a clip: choose absent_phase"):
        progression_targets(np.array([0, 0, 2]), 3)


def test_one_phase_in_the_training_frames_is_refused():
    one = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"hold 1 phase\(s\)"):
        classify_phases(one, np.zeros(3, int), one, np.zeros(3, int))


def logistic_runs():
    with np.load(GOLDEN / "logreg_official_sklearn102.npz") as file:
        return sorted({name.rpartition("/")[0] for name in file.files})


@pytest.mark.parametrize("run", logistic_runs())
def test_the_logistic_fit_is_the_old_one_step_for_step(run):
    with np.load(GOLDEN / "logreg_official_sklearn102.npz") as file:
        wanted, intercept, steps = (file[f"{run}/{n}"] for n in ("coef", "intercept", "n_iter"))
    case, _, fraction = run.rpartition("/")
    train, labels = read_side(case, "train")
    count = labelled_prefix(len(train), float(fraction))
    found = fit_logistic(np.concatenate(train[:count]), np.concatenate(labels[:count]))
    assert found.num_iterations == steps[0]
    np.testing.assert_allclose(found.weight, wanted, atol=1e-9)
    np.testing.assert_allclose(found.bias, intercept, atol=1e-9)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_logistic_fit_is_that_of_scikit_learn_of_today_with_its_settings(num_classes):
    rng = np.random.default_rng(num_classes)
    frames = rng.standard_normal((90, 3)).astype(np.float32)
    labels = 2 * (frames @ rng.standard_normal((3, num_classes))).argmax(axis=1)
    model = LogisticRegression(
        C=2.0 if num_classes == 2 else 1.0, tol=1e-4 / len(frames), max_iter=100_000
    ).fit(frames.astype(np.float64), labels)
    found = fit_logistic(frames, labels)
    weight = found.weight[1:] - found.weight[:1] if num_classes == 2 else found.weight
    np.testing.assert_allclose(weight, model.coef_, atol=1e-3)
    np.testing.assert_array_equal(found.predict(frames), model.predict(frames.astype(np.float64)))


@pytest.mark.parametrize("run", logistic_runs())
def test_the_logistic_fit_predicts_as_the_old_multinomial_one(run):
    with np.load(GOLDEN / "logreg_official_sklearn102.npz") as file:
        wanted, accuracies = file[f"{run}/val_pred"], file[f"{run}/acc"]
    case, _, fraction = run.rpartition("/")
    train, train_labels = read_side(case, "train")
    val, val_labels = (np.concatenate(part) for part in read_side(case, "val"))
    count = labelled_prefix(len(train), float(fraction))
    found = classify_phases(
        np.concatenate(train[:count]), np.concatenate(train_labels[:count]), val, val_labels
    )
    assert np.count_nonzero(found.predicted != wanted) <= 1
    assert found.accuracy == pytest.approx(accuracies[1], abs=1.001 / len(val))


@pytest.mark.parametrize(
    "case", [c for c in CASES if WANTED[c].get("svc_rbf_tcc_lav_style", {}).get("val_acc")]
)
def test_the_svm_of_tcc_gives_the_official_accuracy(case):
    train, train_labels = (np.concatenate(part) for part in read_side(case, "train"))
    val, val_labels = (np.concatenate(part) for part in read_side(case, "val"))
    found = classify_phases(train, train_labels, val, val_labels, classifier="svc")
    wanted = WANTED[case]["svc_rbf_tcc_lav_style"]["val_acc"]
    assert found.accuracy == pytest.approx(wanted, abs=1.001 / len(val))


def test_regressions_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    train, val = (rng.standard_normal((n, 8)).astype(np.float32) for n in (70, 30))
    targets = [rng.standard_normal((n, 2)) for n in (70, 30)]
    found = fit_progression(train, targets[:1], val, targets[1:])
    model = LinearRegression().fit(train, targets[0])
    np.testing.assert_allclose(found.predicted, model.predict(val), atol=1e-5)
    assert found.score == pytest.approx(model.score(val, targets[1]), abs=1e-6)
