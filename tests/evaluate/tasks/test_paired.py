"""Files of actions and of pairs, from embedding files to rows."""

import numpy as np
import pytest

from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.evaluate.commands.compare import compare_files
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig

ACTIONS = ("jump", "run", "walk")


def clip(clip_id, action, values, targets, split="val"):
    return EmbeddedClip(
        clip_id=clip_id,
        split=split,
        action=action,
        group="",
        embeddings=np.array([values], np.float32),
        labels=np.array([-1], np.int16),
        times_seconds=np.zeros(1),
        targets=np.array(targets),
    )


def evaluate(tmp_path, clips, *, names=(), config=None, **provenance):
    path = write(tmp_path / "run", clips, names=names, **provenance)
    report = evaluate_files(
        [path], config=config or EvaluateConfig(), out=tmp_path / "out", progress=False
    )
    rows = {row.task: row for row in report.scores if not row.is_clock}
    return report, rows, {row.task: row for row in report.scores if row.is_clock}


def write(folder, clips, *, names=(), **provenance):
    about = {"run": folder.name, "recipe": "r", "seed": 0, "dataset": "d", **provenance}
    return write_embeddings(
        folder / "embeddings.h5", clips, provenance=about, unit="clip", class_names=names
    )


def action_clips(scores, actions, split="val"):
    return [
        clip(f"{split}{n}", action, values, [name == action for name in ACTIONS], split)
        for n, (values, action) in enumerate(zip(scores, actions, strict=True))
    ]


SCORES = [[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]]
OWN = ["jump", "run", "run", "walk"]


def test_scores_of_actions_have_their_own_protocol_and_each_class_counts_once(tmp_path):
    train = action_clips([[1, 0, 0]] * 2, ["jump", "run"], "train")
    report, rows, clock = evaluate(tmp_path, [*action_clips(SCORES, OWN), *train], names=ACTIONS)
    assert {row.protocol for row in rows.values()} == {"actions"}
    assert rows["top@1"].value == 0.5
    assert rows["mean-class"].value == pytest.approx((1 + 0.5 + 0) / 3)
    each = [rows[f"mean-class@{name}"] for name in ACTIONS]
    assert [row.value for row in each] == [1, 0.5, 0]
    assert [row.num_positives for row in each] == [1, 2, 1]
    assert clock["mean-class"].value == pytest.approx(1 / 3)  # it says one class of every clip
    assert "mean-class@run" not in report.summary


def test_a_class_without_a_clip_has_no_accuracy_and_is_in_no_mean(tmp_path):
    clips = action_clips(SCORES[:2], OWN[:2])
    _, rows, _ = evaluate(tmp_path, clips, names=ACTIONS)
    assert rows["mean-class"].value == 1
    assert rows["mean-class@walk"].status == "undefined"
    assert rows["mean-class@walk"].note == "no clip of the split val is of this class"


def test_tags_are_not_taken_for_actions(tmp_path):
    clips = action_clips(SCORES, OWN)
    other = clip("other", "jump", [0, 0, 1], [False, True, False])
    _, rows, _ = evaluate(tmp_path, [*clips, other], names=ACTIONS)
    assert {row.protocol for row in rows.values()} == {"tags"}


PAIRS = {"prompts": ["A", "B"], "channels": 2, "classes": ["jump", "run"]}
TEXTS = {0: [1.0, 0.0], 1: [0.0, 1.0], -1: [0.0, 0.0]}


def pair(clip_id, action, visual, numbers, scores=(0.0, 0.0)):
    """Visual vectors of prompts A and B, and which of two texts each has."""
    text = [value for number in numbers for value in TEXTS[number]]
    return clip(clip_id, action, [*visual, *scores], [*text, *map(float, numbers)])


CLIPS = [
    pair("v0", "jump", [0.8, 0.6, 1, 0], (0, 0), (0.9, 0.1)),
    pair("v1", "run", [1.0, 0.0, 0, 1], (1, 1), (0.8, 0.3)),
    pair("v2", "swim", [0.6, 0.8, 0, 1], (1, -1)),
]


def test_retrieval_of_pairs_in_both_directions_for_each_prompt_and_on_average(tmp_path):
    _, rows, clock = evaluate(tmp_path, CLIPS, pairs=PAIRS)
    assert {row.protocol for row in rows.values()} == {"pairs"}
    # prompt A: text 0 finds v1 (1.0) first; text 1 finds v2 first, which has it: 2 of 3 queries
    assert rows["t2v-A@1"].value == pytest.approx(2 / 3)
    assert rows["t2v-B@1"].value == 1
    assert rows["t2v@1"].value == pytest.approx((2 / 3 + 1) / 2)
    assert rows["t2v-A@5"].value == 1
    # v0 has text 0 and is nearer to it; v1 has text 1 and is at text 0; v2 is nearer to text 1
    assert rows["v2t-A@1"].value == pytest.approx(2 / 3)
    assert rows["t2v-B@1"].num_dropped == 1
    assert rows["t2v-B@1"].note == "chance 0.5000 at 1; 2 texts of 2 clips; 1 clips without a text"
    assert rows["zero-shot@1"].value == 0.5  # v0; v1 is said to jump; swim is no class
    assert rows["zero-shot@1"].num_dropped == 1
    assert clock["t2v@1"].value == 0  # vectors that are all the same find nothing


def test_files_without_pairs_or_scores_of_names_say_so(tmp_path):
    config = EvaluateConfig(tasks=("t2v", "zero-shot"))
    _, rows, _ = evaluate(tmp_path / "a", action_clips(SCORES, OWN), names=ACTIONS, config=config)
    assert "no vectors of clips beside those of texts" in rows["t2v@1"].note
    less = [pair(c.clip_id, c.action, c.embeddings[0, :4], (0, 1), ()) for c in CLIPS]
    pairs = {key: PAIRS[key] for key in ("prompts", "channels")}
    _, rows, _ = evaluate(tmp_path / "b", less, pairs=pairs, config=config)
    assert "no scores of the names of actions" in rows["zero-shot@1"].note
    wrong = {**PAIRS, "channels": 3}
    _, rows, _ = evaluate(tmp_path / "c", CLIPS, pairs=wrong, config=config)
    assert rows["t2v@1"].status == "skipped"


def test_too_few_texts_are_a_problem_of_the_row(tmp_path):
    clips = [pair("v0", "", [1, 0, 1, 0], (0, 0)), pair("v1", "", [1, 0, 1, 0], (1, -1))]
    report, _, _ = evaluate(tmp_path, clips, pairs=PAIRS)
    assert any("1 clips of the split val have a text of prompt B" in p for p in report.problems)


def test_compare_draws_clips_for_the_new_metrics(tmp_path):
    better = action_clips([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], OWN)
    files = [
        write(tmp_path / name, clips, names=ACTIONS)
        for name, clips in (("one", action_clips(SCORES, OWN)), ("two", better))
    ]
    found = {
        row.task: row
        for row in compare_files(
            files[:1], files[1:], config=EvaluateConfig(), resamples=50, progress=False
        )
    }
    assert (found["mean-class"].a, found["mean-class"].b) == (pytest.approx(0.5), 1)
    assert found["top@1"].gain == 0.5
    pairs = [
        write(tmp_path / name, clips, pairs=PAIRS)
        for name, clips in (("three", CLIPS), ("four", [*CLIPS[:2], CLIPS[2]]))
    ]
    found = {
        row.task: row
        for row in compare_files(
            pairs[:1], pairs[1:], config=EvaluateConfig(), resamples=50, progress=False
        )
    }
    assert found["t2v@1"].a == found["t2v@1"].b == pytest.approx((2 / 3 + 1) / 2)
