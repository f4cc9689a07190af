"""Metrics on clips that are drawn several times, and what their settings change."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluate.clips import labelled_clips, make_clip
from tests.evaluate.tasks.test_paired import ACTIONS, CLIPS, PAIRS, action_clips
from tests.evaluate.tasks.test_tags import NAMES, make_clips
from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.data.clips import ActionData, Side
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.methods.probe import draw_episodes
from tokenreel.evaluate.protocol import PROTOCOLS
from tokenreel.evaluate.tasks import retrieval, tau
from tokenreel.evaluate.tasks.classification import classify_action
from tokenreel.evaluate.tasks.labelled import choose_labelled
from tokenreel.evaluate.tasks.retrieval import _mean_of
from tokenreel.evaluate.tasks.task import Limits, Request, RowPlan, load_task

DRAWN = np.array([2, 0, 3, 1])
BLANK = Score("r", "r", "", "0", "d", "", "act", "val", 1.0, float("nan"), "carl")


def side(clips):
    labels = [clip.labels.astype(np.int64) for clip in clips]
    return Side([clip.clip_id for clip in clips], [clip.embeddings for clip in clips], labels, 0)


def action_data(num_train=6, num_val=4, noise=0.7):
    """Clips of different lengths, with noise that leaves some frames wrong."""
    train = [make_clip(f"t{i}", "train", frames=9 + i, noise=noise) for i in range(num_train)]
    val = [make_clip(f"v{i}", "val", frames=10 + 3 * i, noise=noise) for i in range(num_val)]
    return ActionData(side(train), side(val), 3, [False] * num_val)


def repeated(data):
    places = np.repeat(np.arange(len(DRAWN)), DRAWN)
    own = data.val
    val = Side(
        [own.clip_ids[i] for i in places],
        [own.embeddings[i] for i in places],
        [own.labels[i] for i in places],
        0,
    )
    return replace(data, val=val, is_shared=[False] * len(places))


def settings_of(protocol="carl", **changes):
    return PROTOCOLS[protocol].model_copy(update=changes)


def compute(task, data, settings, *, split="val", **plan):
    name = {"retrieval": "ap@5"}.get(task, task)
    request = Request(settings, RowPlan((name,), **plan), replace(BLANK, split=split))
    return {row.task: row for row in load_task(task).compute(data, request)}


@pytest.mark.parametrize("task", ["classification", "progression"])
def test_an_action_drawn_is_as_its_clips_given_as_often(task):
    settings = settings_of(fractions=(0.5, 1.0), absent_phase="error")
    data = action_data()
    metric = load_task(task).resampled(data, settings)[task]
    wanted = compute(task, repeated(data), settings)[task].value
    assert metric(DRAWN) == pytest.approx(wanted, abs=1e-9)
    assert metric(np.ones(4, int)) == pytest.approx(compute(task, data, settings)[task].value)


def test_progression_of_one_frame_of_a_boundary_has_no_spread():
    data = action_data()
    one = Side(["v"], [data.val.embeddings[0][:1]], [data.val.labels[0][:1]], 0)
    settings = settings_of(absent_phase="tcc2021")
    metric = load_task("progression").resampled(replace(data, val=one), settings)["progression"]
    assert np.isnan(metric(np.array([1])))


def test_tau_drawn_is_the_mean_of_the_pairs_of_the_clips_drawn():
    data, settings = action_data(), settings_of(tau_stride=3)
    data.val.embeddings[1][:] = 0.5  # no order: its pairs are NaN
    metric = load_task("tau").resampled(data, settings)["tau"]
    pairs = {}
    for i in range(4):
        for j in range(4):
            if i != j:
                own = [data.val.embeddings[place] for place in (i, j)]
                two = replace(data, val=Side(["a", "b"], own, [data.val.labels[0]] * 2, 0))
                # both directions of a pair are one value each: the mean of a file of two
                pairs[i, j] = compute("tau", two, settings)["tau"]
    drawn = np.array([1, 5, 2, 1])
    known = {pair: row for pair, row in pairs.items() if not np.isnan(row.value)}
    weight = {pair: drawn[pair[0]] * drawn[pair[1]] for pair in known}
    wanted = sum(known[pair].value * weight[pair] for pair in known) / sum(weight.values())
    assert all(1 not in pair for pair in known)
    assert metric(drawn) == pytest.approx(wanted)
    row = compute("tau", data, settings)["tau"]
    assert (row.num_pairs, row.num_nan, row.stride) == (12, 6, 3)
    assert np.isnan(metric(np.array([0, 4, 1, 0])))


def test_ap_drawn_is_the_mean_of_the_clips_that_have_it():
    data = action_data()
    data.val.labels[1][:] = 9  # no other clip has its phase
    settings = settings_of(retrieval_stride=2, ks=(3, 5))
    found = load_task("retrieval").resampled(data, settings)
    assert set(found) == {"ap@3", "ap@5"}
    each = [found["ap@3"](np.eye(4, dtype=int)[place]) for place in range(4)]
    known = [place for place in range(4) if not np.isnan(each[place])]
    wanted = sum(each[p] * DRAWN[p] for p in known) / sum(DRAWN[p] for p in known)
    assert found["ap@3"](DRAWN) == pytest.approx(wanted)
    every = found["ap@3"](np.ones(4, int))
    assert every == pytest.approx(compute("retrieval", data, settings)["ap@3"].value)
    assert compute("retrieval", data, settings)["ap@3"].stride == 2


def file_of(clips, names=(), **provenance):
    return EmbeddingFile("x.h5", provenance, tuple(clips), "clip", tuple(names))


def drawn_files(protocol):
    """A file and the same with its clips of the split test given as often as DRAWN."""
    if protocol == "tags":
        rng = np.random.default_rng(3)
        clips = make_clips(noise=1.5, each=4, tags=lambda *_: rng.integers(0, 2, 4) | [1, 0, 0, 0])
        names = NAMES
    else:
        scores = [[0.9, 0.1, 0.2], [0.2, 0.3, 0.4], [0.1, 0.8, 0.3], [0.5, 0.1, 0.4]]
        clips = action_clips(scores, ["jump", "run", "run", "walk"], "test")
        clips += action_clips(scores[::-1], ["jump", "run", "run", "walk"], "val")
        names = ACTIONS
    own = [clip for clip in clips if clip.split == "test"]
    often = [clip for clip, count in zip(own, DRAWN, strict=True) for _ in range(count)]
    return file_of(clips, names), file_of(often, names)


@pytest.mark.parametrize(
    ("protocol", "task"),
    [("tags", "map"), ("tags", "f1"), ("actions", "top"), ("actions", "mean-class")],
)
@pytest.mark.parametrize("absent", ["left_out", "zero"])
def test_clips_of_a_file_drawn_are_as_given_as_often(protocol, task, absent):
    settings = settings_of(protocol, split="test", threshold=0.45, absent_tag=absent)
    file, often = drawn_files(protocol)
    plan = load_task(task).rows(settings, often)[0].names
    request = Request(settings, RowPlan(plan), replace(BLANK, split="test"))
    wanted = {row.task: row.value for row in load_task(task).compute(often, request)}
    found = load_task(task).resampled(file, settings)
    assert found
    for name, metric in found.items():
        assert metric(DRAWN) == pytest.approx(wanted[name]), name


def test_a_draw_of_clips_without_a_tag_has_no_accuracy():
    file, _ = drawn_files("actions")
    bare = replace(file.clips[0], targets=file.clips[0].targets * 0)
    file = replace(file, clips=(bare, *file.clips[1:4]))
    settings = settings_of("actions", split="test")
    for task, name in (("top", "top@1"), ("mean-class", "mean-class")):
        metric = load_task(task).resampled(file, settings)[name]
        assert np.isnan(metric(np.array([3, 0, 0, 0])))
        assert metric(np.array([3, 0, 1, 0])) == metric(np.array([0, 0, 1, 0])) == 1


def test_pairs_drawn_count_as_queries_of_each_prompt():
    file = file_of(CLIPS, pairs=PAIRS)
    for task in ("t2v", "v2t"):
        metric = load_task(task).resampled(file, settings_of("pairs"))[f"{task}@1"]
        rows = compute(task, file, settings_of("pairs"))
        assert metric(np.ones(3, int)) == pytest.approx(rows[f"{task}@1"].value)
        # of v2 alone, prompt A is right and prompt B has no text
        assert metric(np.array([0, 0, 2])) == 1
    # text 0, of v0, finds v1 first by prompt A, itself by prompt B
    t2v = load_task("t2v").resampled(file, settings_of("pairs"))["t2v@1"]
    assert t2v(np.array([4, 0, 0])) == 0.5
    assert t2v(np.array([1, 0, 3])) == pytest.approx((3 / 4 + 1) / 2)


def test_a_layer_by_sgd_has_the_settings_of_its_protocol():
    data = action_data(num_train=12, noise=1.0)
    settings = settings_of("finegym", epochs=2, learning_rate=0.5, seed=1)
    chosen = list(range(12))

    def predicted(**changes):
        return classify_action(data, settings.model_copy(update=changes), chosen).predicted

    first = predicted()
    np.testing.assert_array_equal(predicted(), first)
    for change in ({"epochs": 9}, {"learning_rate": 50.0}, {"seed": 2}, {"classifier": "svc"}):
        assert (predicted(**change) != first).any(), change


@pytest.mark.parametrize(
    ("changes", "count"), [({}, 3), ({"classifier": "sgd"}, 10), ({"labelled": "stratified"}, 3)]
)
def test_labels_are_of_the_first_clips_or_drawn_and_enough_for_a_batch(changes, count):
    train = action_data(num_train=12).train
    chosen = choose_labelled(train, settings_of(**changes), 0.25)
    assert len(chosen) == count
    drawn = changes.get("labelled") == "stratified"
    assert (chosen == list(range(count))) is not drawn
    few = action_data(num_train=4).train
    assert len(choose_labelled(few, settings_of(**changes), 1.0)) == 4


def test_few_shot_is_the_mean_of_the_draws_that_have_two_phases():
    data = action_data(num_train=3, noise=0.3)
    data.train.labels[0][:] = 0
    data.train.labels[1][:] = np.minimum(data.train.labels[1], 1)
    episodes = next(
        count
        for count in range(5, 30)
        if {2} < set(drawn := [draw[0] for draw in draw_episodes(3, 1, count)])
        and [clip for clip in drawn if clip][-1] == 1
    )  # the last draw that counts has two phases, one before it three
    settings = settings_of("tcc", episodes=episodes)
    row = compute("few-shot", data, settings, shots=1)["few-shot"]
    assert 0 < row.num_nan < episodes
    assert (row.num_pairs, row.num_train_clips, row.num_classes) == (episodes, 1, 3)
    assert row.status == "ok"
    assert 0.3 < row.value < 1
    whole = compute("few-shot", data, settings, shots=3)["few-shot"]
    assert (whole.num_nan, whole.num_classes) == (0, 3)
    data.train.labels[1][:] = data.train.labels[2][:] = 0
    none = compute("few-shot", data, settings, shots=1)["few-shot"]
    assert (none.status, none.note) == ("undefined", "every draw has one phase only")
    assert np.isnan(none.value)


def test_progression_counts_its_clips_and_needs_two_phases():
    data, settings = action_data(), settings_of(absent_phase="tcc2021")
    data.train.labels[0][data.train.labels[0] == 1] = 2
    data.train.labels[1][:] = 2  # of three phases two are absent
    request = Request(settings, RowPlan(("progression",), 0.5), replace(BLANK, fraction=0.5))
    [row] = load_task("progression").compute(data, request)
    assert (row.num_absent, row.num_train_clips, row.absent_phase) == (2, 3, "tcc2021")
    assert row.num_train_frames == 9 + 10 + 11
    with pytest.raises(ValueError, match="one phase has no boundary"):
        load_task("progression").compute(replace(data, num_phases=1), request)


def test_clips_whose_value_is_unknown_are_in_no_mean():
    mean = _mean_of(np.array([0.5, np.nan, 1.0]))
    assert mean(np.array([1, 5, 3])) == (0.5 + 3) / 4
    assert np.isnan(mean(np.array([0, 5, 0])))


def test_searches_keep_to_the_memory_and_the_threads_of_the_job(monkeypatch):
    given = {}

    def recorded(name):
        function = getattr(modules[name], name)
        return lambda *args, **named: given.update({name: named}) or function(*args, **named)

    modules = {"retrieve_frames": retrieval, "align_clips": tau}
    for name, module in modules.items():
        monkeypatch.setattr(module, name, recorded(name))
    data, limits = action_data(), Limits(memory_bytes=10**7, threads=2)
    for task in ("retrieval", "tau"):
        request = Request(settings_of(), RowPlan((task,)), BLANK, limits)
        load_task(task).compute(data, request)
    assert given["retrieve_frames"] == {"memory_bytes": 10**7, "threads": 2}
    assert given["align_clips"] == {"memory_bytes": 10**7}


def test_a_clip_without_a_class_is_in_no_mean_and_a_class_of_one_clip_needs_no_note():
    file, _ = drawn_files("actions")
    settings = settings_of("actions", split="test")
    bare = replace(file.clips[1], targets=file.clips[1].targets * 0)
    lacking = replace(file, clips=(file.clips[0], bare, *file.clips[2:4]))
    names = ("mean-class", *(f"mean-class@{name}" for name in ACTIONS))
    request = Request(settings, RowPlan(names), replace(BLANK, split="test"))
    rows = load_task("mean-class").compute(lacking, request)
    assert [row.value for row in rows] == [pytest.approx(2 / 3), 1, 1, 0]
    assert [(row.num_positives, row.note) for row in rows[1:]] == [(1, "")] * 3


def test_one_labelled_clip_is_a_problem_of_metrics_of_pairs():
    data = action_data(num_val=1)
    for task in ("tau", "retrieval"):
        missing = load_task(task).missing
        assert missing(data) == ("1 labelled clip(s) of the split val, it needs 2", "problem")
        assert missing(action_data(num_val=2)) == ("", "")
        assert missing(action_data(num_val=0))[1] == "skipped"


def test_shared_validation_clips_alone_leave_no_accuracy():
    data = replace(action_data(), is_shared=[True] * 4)
    names = ("classification", "classification-unshared")
    request = Request(settings_of(), RowPlan(names), replace(BLANK, num_clips=4))
    every, rest = load_task("classification").compute(data, request)
    assert (every.status, every.num_clips) == ("ok", 4)
    assert (rest.status, rest.num_clips, rest.num_frames) == ("undefined", 0, 0)
    assert np.isnan(rest.value)


def test_top_5_is_of_more_than_five_tags():
    names = tuple("abcdef")
    scores = [[6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1]]
    clips = [
        replace(c, targets=np.eye(6, dtype=int)[own], embeddings=np.array([s], np.float32))
        for c, own, s in zip(make_clips(each=2, splits=("val",)), (4, 5), scores, strict=True)
    ]
    file, settings = file_of(clips, names), settings_of("actions")
    [plan] = load_task("top").rows(settings, file)
    assert plan.names == ("top@1", "top@5")
    rows = load_task("top").compute(file, Request(settings, plan, BLANK))
    assert [row.value for row in rows] == [0, 0.5]
    assert load_task("top").rows(settings, replace(file, class_names=names[:5]))[0].names == (
        "top@1",
    )


def test_clips_without_labels_have_tau_alone():
    clips = labelled_clips()
    request = Request(settings_of(), RowPlan(("tau",)), BLANK)
    [row] = load_task("tau").unlabelled([clip.embeddings for clip in clips], request)
    assert (row.task, row.num_pairs, row.status) == ("tau", 20, "ok")
    others = [name for name in ("classification", "retrieval") if load_task(name).unlabelled]
    assert others == []
