"""`evaluate compare`: values of the tables, intervals by hand, and what cannot be compared."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluate.clips import labelled_clips, make_clip, write_run
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.commands.compare import (
    FEWEST_CLIPS,
    Difference,
    compare_files,
    paired_bootstrap,
)
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig

CONFIG = EvaluateConfig()


def noisy_clips(noise, count=8):
    clips = []
    for action in ("one", "two"):
        clips += [make_clip(f"{action}/t{i}", "train", action=action, noise=noise) for i in (0, 1)]
        clips += [
            make_clip(f"{action}/v{i}", "val", action=action, noise=noise, frames=12 + i)
            for i in range(count)
        ]
    return clips


def compare(a, b, **changes):
    found = compare_files(a, b, config=CONFIG, resamples=200, progress=False, **changes)
    return {difference.task: difference for difference in found}


def test_the_values_are_those_of_the_table(tmp_path):
    a = [write_run(tmp_path / f"a{s}", noisy_clips(0.6 + s / 10), seed=s) for s in (0, 1)]
    b = [write_run(tmp_path / "b0", noisy_clips(0.2))]
    found = compare(a, b)
    report = evaluate_files(a + b, config=CONFIG, out=tmp_path / "out", progress=False)
    assert set(found) == {"classification", "progression", "tau", "ap@5", "ap@10", "ap@15"}
    for task, difference in found.items():
        means = {s.run: s.value for s in report.scores if (s.task, s.action) == (task, "mean")}
        assert difference.a == pytest.approx((means["a0"] + means["a1"]) / 2, abs=1e-9)
        assert difference.b == pytest.approx(means["b0"], abs=1e-9)
        assert difference.gain == pytest.approx(difference.b - difference.a)
        assert difference.low <= difference.high
    assert (found["tau"].num_clips, found["tau"].num_actions) == (16, 2)


def test_a_clear_gain_is_real_and_the_same_runs_differ_by_nothing(tmp_path):
    a = [write_run(tmp_path / "a", noisy_clips(1.0))]
    b = [write_run(tmp_path / "b", noisy_clips(0.05))]
    better = compare(a, b)["ap@5"]
    assert better.is_real
    assert better.low > 0
    assert better.p_value == 2 / 201  # no draw on the other side
    same = compare(a, a)["ap@5"]
    assert (same.gain, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert not same.is_real


def test_clips_in_another_order_are_the_same_clips(tmp_path):
    a = [write_run(tmp_path / "a", noisy_clips(1.0))]
    clips = noisy_clips(0.6)
    train = [clip for clip in clips if clip.split == "train"]
    val = [clip for clip in clips if clip.split == "val"]
    b = [write_run(tmp_path / "b", clips)]
    c = [write_run(tmp_path / "c", [*train, *reversed(val)])]
    for task, difference in compare(a, b).items():
        other = compare(a, c)[task]
        assert other.num_clips == difference.num_clips
        for name in ("a", "b", "low", "high"):
            assert getattr(other, name) == pytest.approx(getattr(difference, name), abs=1e-6)


def test_the_interval_is_that_of_the_resampled_means():
    values = np.array([0.0, 1.0, 2.0, 5.0])

    def zero(drawn):
        return 0.0

    def mean(drawn):
        return float(drawn @ values / drawn.sum())

    found = paired_bootstrap("x", [[zero]], [[mean]], [4], resamples=4000, seed=1)
    rng = np.random.default_rng(7)
    wanted = np.quantile(values[rng.integers(0, 4, (100_000, 4))].mean(axis=1), [0.025, 0.975])
    assert found.gain == 2.0
    np.testing.assert_allclose([found.low, found.high], wanted, atol=0.15)
    again = paired_bootstrap("x", [[zero]], [[mean]], [4], resamples=4000, seed=1)
    assert again == found


def test_a_draw_of_one_clip_alone_gives_no_tau(tmp_path):
    a = [write_run(tmp_path / "a", noisy_clips(0.6, count=3))]
    b = [write_run(tmp_path / "b", noisy_clips(0.6, count=3))]
    found = compare(a, b)
    assert all(
        difference.num_resamples == 200 for difference in found.values() if difference.task != "tau"
    )
    assert found["tau"].num_resamples < 200  # one clip drawn three times has no pair


def test_other_clips_or_settings_cannot_be_compared(tmp_path):
    a = [write_run(tmp_path / "a", labelled_clips())]
    b = [write_run(tmp_path / "b", labelled_clips()[:-1])]
    with pytest.raises(UsageError, match=r"different validation clips \(3 and 2\)"):
        compare(a, b)
    c = [write_run(tmp_path / "c", labelled_clips(), evaluate={"tau_stride": 3})]
    with pytest.raises(UsageError, match="have different evaluation settings: give them"):
        compare(a, c)
    d = [write_run(tmp_path / "d", labelled_clips(labelled=False))]
    with pytest.raises(UsageError, match="no labelled clips of the split val"):
        compare(d, d)


def test_labels_that_changed_between_two_runs_cannot_be_compared(tmp_path):
    clips = labelled_clips()
    val = next(i for i, clip in enumerate(clips) if clip.split == "val")
    labels = clips[val].labels.copy()
    labels[0] = 1 - labels[0]
    changed = [replace(clip, labels=labels) if i == val else clip for i, clip in enumerate(clips)]
    a, b = write_run(tmp_path / "a", clips), write_run(tmp_path / "b", changed)
    with pytest.raises(UsageError, match=rf"different labels of {clips[val].clip_id} \(1 of"):
        compare([a], [b])


def test_an_action_without_a_value_is_named(tmp_path):
    clips = noisy_clips(0.1)
    for clip in clips[:10]:
        clip.labels[clip.labels == 1] = 2
    a = [write_run(tmp_path / "a", clips)]
    found = compare(a, a)
    assert found["progression"].num_actions == 1
    assert found["progression"].note.startswith("without one: phase 1 is absent")
    assert found["tau"].note == ""


@pytest.mark.parametrize(
    ("count", "verdict"), [(3, "no verdict: 6 clips, 8 are needed"), (4, "real")]
)
def test_there_is_no_verdict_under_8_clips(tmp_path, count, verdict):
    a = [write_run(tmp_path / "a", noisy_clips(1.0, count))]
    b = [write_run(tmp_path / "b", noisy_clips(0.02, count))]
    found = compare(a, b)["ap@5"]
    assert found.low > 0
    assert (found.verdict, found.is_real) == (verdict, count == 4)


def test_there_is_no_verdict_where_every_draw_gives_the_same(tmp_path):
    a = [write_run(tmp_path / "a", noisy_clips(0.1))]
    found = compare(a, a)["classification"]
    assert found.verdict == "no verdict: every draw gives the same"


def test_runs_of_several_recipes_are_not_averaged(tmp_path):
    a = [write_run(tmp_path / name, noisy_clips(0.1), recipe=name) for name in ("one", "two")]
    with pytest.raises(UsageError, match=r"A holds runs of 2 recipes .one, two.*recipe=NAME"):
        compare(a, a[:1])
    with pytest.raises(UsageError, match="B holds runs of 2 recipes"):
        compare(a[:1], a)


def test_metrics_that_cannot_be_resampled_are_refused(tmp_path):
    a = [write_run(tmp_path / "a", noisy_clips(0.1))]
    with pytest.raises(UsageError, match="none of the metrics few-shot can be resampled"):
        compare_files(a, a, config=EvaluateConfig(tasks=("few-shot",)), progress=False)


def test_metrics_of_tags_are_passed_over_where_runs_have_phases(tmp_path):
    a = [write_run(tmp_path / "a", noisy_clips(0.1))]
    both = EvaluateConfig(tasks=("tau", "f1"))
    found = compare_files(a, a, config=both, resamples=20, progress=False)
    assert [difference.task for difference in found] == ["tau"]
    with pytest.raises(UsageError, match="none of the metrics f1 can be resampled"):
        compare_files(a, a, config=EvaluateConfig(tasks=("f1",)), progress=False)


def difference(low, high, *, clips=FEWEST_CLIPS):
    gain = (low + high) / 2
    return Difference("tau", 0.0, gain, gain, low, high, 0.01, clips, 1, 100)


@pytest.mark.parametrize(
    ("found", "verdict", "is_real"),
    [
        (difference(0.1, 0.2), "real", True),
        (difference(-0.2, -0.1), "real", True),
        (difference(-0.1, 0.1), "within chance", False),
        (difference(0.0, 0.1), "within chance", False),
        (difference(0.1, 0.1), "no verdict: every draw gives the same", False),
        (difference(np.nan, np.nan), "no verdict: no value", False),
        (difference(0.1, 0.2, clips=7), "no verdict: 7 clips, 8 are needed", False),
    ],
)
def test_verdicts(found, verdict, is_real):
    assert (found.verdict, found.is_real) == (verdict, is_real)


def bootstrap(first, second, sizes, resamples=400):
    return paired_bootstrap("x", first, second, sizes, resamples=resamples, seed=3)


def test_both_sides_are_measured_on_the_same_draw_and_each_draw_is_of_all_clips():
    draws = []

    def seen(drawn):
        draws.append(drawn.tolist())
        return float(drawn[0])

    found = bootstrap([[seen]], [[seen]], [5], resamples=20)
    assert draws[:2] == [[1] * 5] * 2
    assert draws[2::2] == draws[3::2]
    assert all(sum(draw) == 5 for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 10
    # of draws that give the same on both sides the p-value is 1
    assert (found.gain, found.p_value, found.num_resamples) == (0.0, 1.0, 20)


def test_draws_without_a_value_are_left_out_of_the_interval():
    def sometimes(drawn):
        return float("nan") if drawn[0] == 0 else 1.0

    found = bootstrap([[lambda drawn: 0.0]], [[sometimes]], [4])
    assert 200 < found.num_resamples < 330  # (3 / 4) ** 4 = 0.32 of 400 have no value
    assert (found.low, found.high) == (1.0, 1.0)
    assert found.p_value == 2 / (found.num_resamples + 1)
    never = bootstrap([[lambda drawn: 0.0]], [[lambda drawn: float("nan")]], [4])
    assert np.isnan([never.low, never.high, never.p_value]).all()
    assert never.num_resamples == 0
    assert never.verdict == "no verdict: 4 clips, 8 are needed"


def test_a_loss_is_as_real_as_a_gain_and_its_sign_is_b_minus_a():
    values = np.array([0.5, 0.6, 0.7, 0.8, 0.5, 0.6, 0.7, 0.8])

    def mean(drawn):
        return float(drawn @ values / drawn.sum())

    worse = bootstrap([[mean]], [[lambda drawn: mean(drawn) ** 2]], [8])
    assert (worse.a, worse.b) == (pytest.approx(0.65), pytest.approx(0.4225))
    assert worse.gain == pytest.approx(-0.2275)
    assert worse.low < worse.high < 0
    assert worse.verdict == "real"
    assert worse.p_value == 2 / 401


def test_actions_and_runs_count_alike():
    runs = [[lambda drawn: 1.0, lambda drawn: 2.0], [lambda drawn: 3.0, lambda drawn: 6.0]]
    found = bootstrap([[lambda drawn: 0.0], [lambda drawn: 0.0]], runs, [3, 9])
    assert (found.a, found.b) == (0.0, 3.0)
    assert (found.num_clips, found.num_actions) == (12, 2)


def test_clips_of_the_test_split_are_not_compared(tmp_path):
    clips = noisy_clips(0.3)
    clips.append(make_clip("one/x", "test", action="one"))
    a = [write_run(tmp_path / "a", clips)]
    assert compare(a, a)["tau"].num_clips == 16


def test_settings_of_the_recipe_are_those_that_are_compared_with(tmp_path):
    a = [write_run(tmp_path / "a", noisy_clips(0.3), evaluate={"ks": [2]})]
    assert {task for task in compare(a, a) if task.startswith("ap")} == {"ap@2"}
