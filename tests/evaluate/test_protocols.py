"""Named protocols: who wins, which labels, few-shot, FineGym, shared events, TCC's boundaries."""

import dataclasses

import numpy as np
import pytest
from pydantic import ValidationError

from tests.evaluate.clips import labelled_clips, make_clip, write_run
from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.cache.errors import EmbeddingFileError
from tokenreel.evaluate.commands.check import check_file
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.methods.probe import draw_episodes, stratified_draw
from tokenreel.evaluate.methods.progression import progression_targets
from tokenreel.evaluate.protocol import PROTOCOLS, EvaluateConfig, resolve, settings_of
from tokenreel.pipeline.phases.evaluation import compare_words


def evaluate(tmp_path, clips, config=None, **provenance):
    path = write_run(tmp_path / "run", clips, **provenance)
    return evaluate_files(
        [path], config=config or EvaluateConfig(), out=tmp_path / "out", progress=False
    )


def row(report, task, action="mean", **wanted):
    [found] = [
        score
        for score in report.scores
        if (score.task, score.action) == (task, action)
        and not score.is_clock
        and all(getattr(score, name) == value for name, value in wanted.items())
    ]
    return found


def test_a_user_wins_over_the_recipe_and_the_recipe_over_the_protocol():
    recipe = {"tau_stride": 3, "retrieval_stride": 4}
    [settings] = resolve(EvaluateConfig(tau_stride=7), recipe)
    assert (settings.protocol, settings.tau_stride, settings.retrieval_stride) == ("carl", 7, 4)


def test_a_recipe_of_another_protocol_changes_nothing():
    [settings] = resolve(EvaluateConfig(protocol="tcc"), {"tau_stride": 3})
    assert settings == PROTOCOLS["tcc"]
    [settings] = resolve(EvaluateConfig(), {"protocol": "finegym", "epochs": 5})
    assert settings == PROTOCOLS["finegym"].model_copy(update={"epochs": 5})


@pytest.mark.parametrize(
    "bad",
    [
        {"fractions": (0.0,)},
        {"fractions": ()},
        {"ks": (0,)},
        {"protocol": ()},
        {"protocol": "karl"},
        {"tau_stride": 0},
    ],
)
def test_settings_that_mean_nothing_are_refused(bad):
    with pytest.raises(ValidationError):
        EvaluateConfig.model_validate(bad)


def test_settings_of_a_recipe_that_do_not_exist_are_a_problem_of_that_file(tmp_path):
    report = evaluate(tmp_path, labelled_clips(), evaluate={"tau_strid": 2})
    assert report.exit_status == 3
    path = tmp_path / "run/embeddings.h5"
    assert report.problems[0].startswith(
        f"{path}: settings of its recipe: evaluate.tau_strid: no such setting, did you mean "
        "tau_stride? (there are protocol, tasks, "
    )
    assert check_file(path).problems == report.problems
    with pytest.raises(EmbeddingFileError, match=r"evaluate\.tau_strid: no such setting"):
        compare_words(path, path, [], resamples=10, progress=False)
    good = write_run(tmp_path / "good", labelled_clips())
    found, problems = compare_words(good, tmp_path, [], resamples=10, progress=False)
    assert len(found) > 0
    assert problems == list(report.problems[:1])


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"tau_stride": "x"}, r"evaluate\.tau_stride is 'x': input should be a valid integer"),
        ({"fractions": [2]}, r"evaluate\.fractions is \[2\]: shares lie above 0 and up to 1"),
        ({"ks": [5, "y"]}, r"evaluate\.ks\.1 is 'y': input should be a valid integer"),
        (
            {"protocol": "karl"},
            r"evaluate\.protocol is 'karl': choose carl, tcc, finegym, tags, act",
        ),
        ({"stride": 1, "taks": 2}, r"evaluate\.stride: no such .*; evaluate\.taks: no such"),
    ],
)
def test_settings_of_a_recipe_that_are_wrong_are_one_sentence_with_file_and_key(
    tmp_path, own, words
):
    file = EmbeddingFile(tmp_path / "e.h5", {"evaluate": own}, ())
    with pytest.raises(EmbeddingFileError, match=rf"e\.h5: settings of its .*{words}") as raised:
        settings_of(file, EvaluateConfig())
    assert "\n" not in str(raised.value)


def test_two_protocols_stand_in_one_table(tmp_path):
    config = EvaluateConfig(protocol=("carl", "tcc"), episodes=2, shots=(1, 2))
    report = evaluate(tmp_path, labelled_clips(), config)
    assert row(report, "tau", protocol="carl").stride == 2
    assert row(report, "tau", protocol="tcc").stride == 5
    svm = row(report, "classification", protocol="tcc", fraction=1.0)
    assert (svm.classifier, svm.value) == ("svc", 1.0)
    assert not [
        score for score in report.scores if score.task == "ap@5" and score.protocol == "tcc"
    ]
    assert row(report, "few-shot@2", "act").num_train_clips == 2
    assert row(report, "few-shot@1").value == 1.0
    text = (tmp_path / "out/summary.md").read_text()
    assert "| r (carl) |" in text
    assert "| r (tcc, 50% of labels) |" in text


def test_few_shot_draws_are_those_of_tcc():
    # numpy's generator of old, seeded with 42: one permutation a draw, shots after shots
    rng = np.random.RandomState(42)
    wanted = {shots: [rng.permutation(6)[:shots].tolist() for _ in range(3)] for shots in (1, 2, 3)}
    for shots, draws in wanted.items():
        assert draw_episodes(6, shots, 3) == draws


def test_a_draw_with_one_phase_is_counted_and_left_out(tmp_path):
    clips = labelled_clips()
    clips[0].labels[:] = 0
    config = EvaluateConfig(protocol="tcc", tasks=("few-shot",), shots=(1, 3), episodes=8)
    report = evaluate(tmp_path, clips, config)
    draws = [draw[0] for draw in draw_episodes(2, 1, 8)]
    found = row(report, "few-shot@1", "act")
    assert (found.num_pairs, found.num_nan) == (8, draws.count(0))
    assert 0 < found.num_nan < 8
    assert row(report, "few-shot@3", "act").note == "2 training clips, 3 shots are wanted"
    assert report.exit_status == 3


def test_a_stratified_draw_keeps_the_share_of_rare_phases():
    labels = [np.array([0, 1])] * 8 + [np.array([0, 1, 2])] * 2
    for seed in range(20):
        chosen = stratified_draw(labels, 5, seed=seed)
        assert len(set(chosen)) == 5
        assert sum(i >= 8 for i in chosen) == 1
    assert stratified_draw(labels, 5, seed=0) == stratified_draw(labels, 5, seed=0)
    assert len({tuple(stratified_draw(labels, 5, seed=seed)) for seed in range(20)}) > 5
    assert stratified_draw(labels, 10, seed=3) == list(range(10))
    assert len(stratified_draw(labels, 1, seed=3)) == 1


def test_a_stratified_fraction_is_named_in_its_row(tmp_path):
    clips = [make_clip(f"t{i}", "train", frames=6 + i) for i in range(8)] + labelled_clips()[2:]
    config = EvaluateConfig(labelled="stratified", fractions=(0.25,))
    found = [
        evaluate(tmp_path, clips, config.model_copy(update={"seed": seed})) for seed in (0, 1, 2)
    ]
    rows = [row(report, "classification") for report in found]
    assert [one.labelled for one in rows] == ["stratified"] * 3
    assert [one.num_train_clips for one in rows] == [2] * 3
    assert len({one.num_train_frames for one in rows}) > 1


def gym_clips():
    clips = []
    for i in range(14):
        split = "train" if i < 10 else "val"
        group = "shared:e" if i in (0, 10) else f"event {i}"
        clips.append(make_clip(f"{split}/{i}", split, action="gym99", group=group))
    clips[10].embeddings[:] = clips[10].embeddings[::-1]  # the shared event is all wrong but one
    return clips


def test_finegym_is_the_sgd_probe_with_and_without_shared_events(tmp_path):
    config = EvaluateConfig(epochs=30)
    report = evaluate(tmp_path, gym_clips(), config, evaluate={"protocol": "finegym"})
    assert {score.task for score in report.scores} == {"classification", "classification-unshared"}
    assert sorted({score.fraction for score in report.scores}) == [0.1, 0.5, 1.0]
    every = row(report, "classification", "gym99", fraction=0.1)
    assert (every.classifier, every.num_train_clips, every.num_frames) == ("sgd", 10, 48)
    rest = row(report, "classification-unshared", "gym99", fraction=0.1)
    assert (rest.num_clips, rest.num_frames, rest.value) == (3, 36, 1.0)
    assert every.value == pytest.approx((36 + 4) / 48)
    assert "without 1 clips whose video is among the training clips too" in rest.note


def test_validation_clips_of_a_video_to_learn_from_are_told_apart_under_any_protocol(tmp_path):
    clips = labelled_clips()
    groups = ("scene", "", "scene", "", "other")
    clips = [dataclasses.replace(c, group=g) for c, g in zip(clips, groups, strict=True)]
    report = evaluate(tmp_path, clips)
    assert row(report, "classification", "act").num_clips == 3
    assert row(report, "classification-unshared", "act").num_clips == 2
    assert "classification-unshared" in (tmp_path / "out/summary.md").read_text()


def test_fewer_training_clips_than_a_batch_of_sgd_are_a_problem(tmp_path):
    report = evaluate(tmp_path, labelled_clips(), EvaluateConfig(classifier="sgd"))
    assert "2 labelled clips to learn from, a batch holds 10" in report.problems[0]


def test_tcc_ends_a_phase_at_the_first_later_frame():
    # by hand: phase 0 ends before frame 1 (label 2); phase 1 is absent, frame 1 is later; 2 is last
    targets = progression_targets(np.array([0, 2, 0, 2]), 4, "tcc2021")
    np.testing.assert_array_equal(4 * targets[0], [0, -1, -3])
    # the rule of CARL takes the last frame of phase 0
    assert 4 * progression_targets(np.array([0, 1, 0, 1]), 2)[0, 0] == -2


def test_absent_phases_are_counted(tmp_path):
    clips = labelled_clips()
    clips[2].labels[clips[2].labels == 1] = 2
    report = evaluate(tmp_path, clips, EvaluateConfig(absent_phase="tcc2021"))
    found = row(report, "progression", "act")
    assert (found.num_absent, found.absent_phase, found.status) == (1, "tcc2021", "ok")
