"""Tags of clips from embedding files to tables: rows, counts, what lacks, the control, compare."""

import csv

import numpy as np
import pytest

from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.cache.errors import UsageError
from tokenreel.evaluate.commands.compare import compare_files
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.methods.tags import mean_average_precision
from tokenreel.evaluate.protocol import EvaluateConfig

NAMES = ("a tag", "b", "c", "d")


def make_clips(*, tags=None, noise=0.3, seed=0, splits=("train", "val", "test"), each=12):
    """Clips of each split: each tag by chance, and scores near them."""
    rng = np.random.default_rng(7)
    clips = []
    for split in splits:
        for number in range(each):
            drawn = (rng.random(len(NAMES)) < (0.9, 0.5, 0.3, 0.2)).astype(np.int64)
            targets = np.array(tags(split, number, drawn)) if tags else drawn
            own = np.random.default_rng([seed, number, *split.encode()])
            scores = 0.2 + 0.5 * targets + noise * own.standard_normal(len(NAMES))
            clips.append(
                EmbeddedClip(
                    clip_id=f"{split}{number}",
                    split=split,
                    action="",
                    group="",
                    embeddings=scores.astype(np.float32)[None],
                    labels=np.array([-1], np.int16),
                    times_seconds=np.zeros(1),
                    targets=targets,
                )
            )
    return clips


def write(folder, clips, *, unit="clip", names=NAMES, **provenance):
    about = {"run": folder.name, "recipe": "r", "seed": 0, **provenance}
    return write_embeddings(
        folder / "embeddings.h5", clips, provenance=about, unit=unit, class_names=names
    )


def evaluate(tmp_path, clips, config=None, **fields):
    path = write(tmp_path / "run", clips, **fields)
    out = tmp_path / "out"
    report = evaluate_files([path], config=config or EvaluateConfig(), out=out, progress=False)
    return report, {row.task: row for row in report.scores if not row.is_clock}


def of_split(clips, split):
    own = [clip for clip in clips if clip.split == split]
    return np.stack([c.targets for c in own]), np.concatenate([c.embeddings for c in own])


def test_a_file_of_scores_of_tags_has_its_own_protocol_and_all_rows(tmp_path):
    clips = make_clips()
    report, rows = evaluate(tmp_path, clips)
    assert list(rows) == [
        *("map", "map-macro", "map-micro", "map-samples"),
        *("f1", "f1-precision", "f1-recall", "f1@a tag", "f1@b", "f1@c", "f1@d"),
        "top@1",
    ]
    targets, scores = of_split(clips, "val")
    assert rows["map"].value == pytest.approx(mean_average_precision(targets, scores, "weighted"))
    assert (rows["map"].protocol, rows["map"].num_clips, rows["map"].num_classes) == ("tags", 12, 4)
    decided = scores > 0.3
    right, support = (decided & (targets > 0)).sum(axis=0), targets.sum(axis=0)
    f1 = 2 * right / (decided.sum(axis=0) + support)
    assert rows["f1"].value == pytest.approx((f1 * support).sum() / support.sum())
    assert rows["f1@b"].value == pytest.approx(f1[1])
    assert [rows[f"f1@{name}"].num_positives for name in NAMES] == support.tolist()
    assert (rows["f1"].threshold, rows["f1"].num_positives) == (0.3, support.sum())
    assert (rows["top@1"].status, report.exit_status) == ("skipped", 0)
    assert "clips have several tags" in rows["top@1"].note
    table = (tmp_path / "out" / "summary.md").read_text()
    assert "f1@b" not in table
    assert "tau" not in table.lower()
    header = next(csv.reader((tmp_path / "out" / "summary.csv").read_text().splitlines()))
    assert "f1@b mean" in header


def test_the_split_and_the_threshold_are_settings_and_columns(tmp_path):
    clips = make_clips()
    config = EvaluateConfig(split="test", threshold=0.6)
    rows = evaluate(tmp_path, clips, config)[1]
    targets, scores = of_split(clips, "test")
    decided, support = (scores > 0.6), targets.sum(axis=0)
    recall = (decided & (targets > 0)).sum() / targets.sum()
    assert rows["f1-recall"].value == pytest.approx(recall)
    assert {(row.split, row.threshold) for name, row in rows.items() if "f1" in name} == {
        ("test", 0.6)
    }
    again = evaluate(tmp_path / "own", clips, evaluate={"split": "test"})[1]
    assert again["map"].value == rows["map"].value
    assert support.sum() == rows["map"].num_positives


def test_tags_without_a_clip_and_clips_without_a_tag_are_counted_and_told(tmp_path):
    clips = make_clips(tags=lambda split, n, drawn: drawn * (n > 1) * [1, 1, 1, split != "val"])
    report, rows = evaluate(tmp_path, clips)
    row = rows["map-macro"]
    targets, scores = of_split(clips, "val")
    untagged = int((targets.sum(axis=1) == 0).sum())
    assert (row.num_dropped, row.num_nan) == (untagged, 1)
    told = f"1 of 4 tags have no clip of the split val: d; {untagged} of 12 clips have no tag"
    assert row.note == told
    assert told in report.summary
    assert row.value == pytest.approx(
        mean_average_precision(targets[:, :3], scores[:, :3], "macro")
    )
    assert (rows["f1@d"].status, rows["f1@d"].num_positives) == ("undefined", 0)
    config = EvaluateConfig(absent_tag="zero")
    zero = evaluate(tmp_path / "zero", clips, config)[1]["map-macro"]
    assert zero.value == pytest.approx(row.value * 3 / 4)


def test_clips_of_one_tag_each_have_an_accuracy(tmp_path):
    clips = make_clips(tags=lambda split, n, drawn: np.eye(4, dtype=np.int64)[n % 4], noise=1.0)
    rows = evaluate(tmp_path, clips)[1]
    targets, scores = of_split(clips, "val")
    assert rows["top@1"].value == (scores.argmax(axis=1) == targets.argmax(axis=1)).mean()
    assert "top@5" not in rows  # of four tags


def test_the_control_knows_how_common_a_tag_is_and_decides_every_tag(tmp_path):
    clips = make_clips()
    report, rows = evaluate(tmp_path, clips)
    control = {row.task: row for row in report.scores if row.is_clock}
    targets, _ = of_split(clips, "val")
    support = targets.sum(axis=0)
    assert control["f1-recall"].value == 1
    assert control["f1-precision"].value == pytest.approx(
        (support * support / 12).sum() / support.sum()
    )
    assert control["map"].value == pytest.approx(control["f1-precision"].value)  # equal scores
    assert rows["map"].clock_value == control["map"].value
    common = of_split(clips, "train")[0].mean(axis=0)
    ranked = np.tile((1 + common) / 2, (12, 1))
    assert control["map-micro"].value == pytest.approx(
        mean_average_precision(targets, ranked.astype(np.float32), "micro")
    )


@pytest.mark.parametrize(
    ("changes", "status", "note"),
    [
        (
            {"unit": "frame", "names": NAMES},
            "skipped",
            "its rows are of a frame and have 4 channels",
        ),
        ({"splits": ("train",)}, "problem", "no clip of the split val has a tag"),
        ({"tags": lambda *_: np.zeros(4, np.int64)}, "problem", "no clip of the split val has a t"),
    ],
)
def test_what_lacks_is_said_in_the_rows(tmp_path, changes, status, note):
    made = {name: changes.pop(name) for name in ("tags", "splits") if name in changes}
    config = EvaluateConfig(protocol="tags")
    report, rows = evaluate(tmp_path, make_clips(**made), config, **changes)
    assert rows["map"].status == status
    assert note in rows["map"].note
    assert any(note in problem for problem in report.problems) is (status == "problem")


def test_a_file_without_tags_says_so(tmp_path):
    clips = make_clips(tags=lambda *_: np.zeros(4, np.int64))
    bare = [EmbeddedClip(**{**vars(clip), "targets": np.empty(0, np.int64)}) for clip in clips]
    rows = evaluate(tmp_path, bare, EvaluateConfig(protocol="tags"), names=())[1]
    assert rows["map"].note == "no tags of clips in the embedding file (targets and class_names)"


def test_the_test_split_is_refused_where_metrics_of_frames_are_computed(tmp_path):
    config = EvaluateConfig(protocol="carl", split="test")
    problems = evaluate(tmp_path, make_clips(), config)[0].problems
    assert "split=test is of metrics of the tags of clips" in problems[0]


def test_compare_draws_the_clips_of_the_split_for_every_metric_of_tags(tmp_path):
    one = [write(tmp_path / "a", make_clips(noise=0.6, each=40))]
    two = [write(tmp_path / "b", make_clips(noise=0.1, each=40))]
    found = {
        row.task: row
        for row in compare_files(one, two, config=EvaluateConfig(), resamples=200, progress=False)
    }
    assert set(found) == {
        *(
            "map",
            "map-macro",
            "map-micro",
            "map-samples",
            "f1",
            "f1-precision",
            "f1-recall",
            "top@1",
        )
    }
    assert "clips have several tags" in found["top@1"].note
    clips = make_clips(noise=0.6, each=40)
    targets, scores = of_split(clips, "val")
    for name, average in {
        "map": "weighted",
        "map-macro": "macro",
        "map-micro": "micro",
        "map-samples": "samples",
    }.items():
        row = found[name]
        assert row.a == pytest.approx(mean_average_precision(targets, scores, average))
        assert (row.num_clips, row.is_real, row.low > 0) == (40, True, True)
    assert found["f1"].gain > 0


def test_compare_refuses_files_whose_clips_have_other_tags(tmp_path):
    one = write(tmp_path / "a", make_clips())
    two = write(tmp_path / "b", make_clips(tags=lambda split, n, drawn: 1 - drawn))
    with pytest.raises(UsageError, match="different labels of val0"):
        compare_files([one], [two], config=EvaluateConfig(), resamples=20, progress=False)
