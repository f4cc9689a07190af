"""`check_dataset`: what is expected, what is found, coverage by split, action and phase."""

import logging
import shutil
from dataclasses import replace

import pytest

from tests.pipeline.datasets.miniatures import MINIATURES
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.pipeline.datasets import check_dataset, load_dataset
from tokenreel.pipeline.datasets.check import check_survey
from tokenreel.pipeline.datasets.survey import Survey


def test_a_folder_is_counted_by_split_action_and_phase(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "clips.csv").write_text(
        "video,split,action,group\na.mp4,train,pour,g\nb.mp4,val,pour,g\nc.mp4,val,pour,h\n"
    )
    (tmp_path / "phases.csv").write_text("action,phase\npour,reach\npour,tilt\n")
    (tmp_path / "labels.csv").write_text(
        "video,start_seconds,stop_seconds,phase\na.mp4,0,1.5,reach\nb.mp4,0,2,reach\n"
    )

    check = check_dataset("folder", tmp_path, {})

    assert [(s.split, s.listed, s.found, s.labelled) for s in check.splits] == [
        ("train", 1, 1, 1),
        ("val", 2, 2, 1),
    ]
    assert check.shared == ("g",)
    assert check.is_complete
    text = check.text()
    assert "pour: 1 train, 2 val" in text
    assert "0 reach: 1.5s train, 2.0s val" in text
    assert "1 tilt: 0.0s train, 0.0s val" in text
    assert "groups with clips in train and in val: 1" in text
    assert text.endswith("complete")


def test_a_data_set_that_states_no_terms_is_said_to_state_none(tmp_path):
    check = check_survey(Survey(Manifest("mine", tmp_path, (Clip("a", "a.mp4"),))))
    assert check.text().splitlines()[1] == "licence: not stated"


@pytest.mark.parametrize("name", MINIATURES)
def test_partial_data_is_loaded_and_says_how_partial(tmp_path, name, caplog):
    MINIATURES[name](tmp_path)
    whole = check_dataset(name, tmp_path, {})
    assert [split.found for split in whole.splits] == [split.listed for split in whole.splits]
    if name == "pouring":
        (tmp_path / "pouring_val-0-of-1.tfrecord").unlink()
    elif name == "penn_action":
        shutil.rmtree(tmp_path / "frames" / "0001")
    else:
        sorted(tmp_path.rglob("*.mp4"))[0].unlink()

    check = check_dataset(name, tmp_path, {})
    with caplog.at_level(logging.WARNING):
        manifest = load_dataset(name, tmp_path, {})

    before = sum(split.found for split in whole.splits)
    assert 0 < len(manifest.clips) == sum(split.found for split in check.splits) < before
    assert not check.is_complete
    assert check.state.startswith("partial (")
    assert manifest.notes
    assert all(f"{name}: {note}" in caplog.messages for note in manifest.notes)
    assert all(f"note: {note}" in check.text() for note in manifest.notes)


def test_each_line_of_a_check_by_hand(tmp_path):
    spans = (LabelSpan(0, 1.5, 0), LabelSpan(2, 3, 0), LabelSpan(4, 4.25, 1))
    clips = (
        Clip("a", "a.mp4", split="train", action="pour", spans=spans, group="g"),
        Clip("b", "b.mp4", split="train", action="pour", frame_labels=(0, 1)),
        Clip("c", "c.mp4", split="val", tags=("t",), group="g"),
        Clip("d", "d.mp4", split="val", group="h"),
        Clip("e", "e.mp4", split="val"),
    )
    manifest = Manifest(
        "mine",
        tmp_path,
        clips,
        {"pour": ("reach", "tilt"), "jump": ("up",)},
        notes=("three were left out",),
        unreadable=("x: permission denied",),
    )
    check = check_survey(Survey(manifest, listed={"train": 4}, published={"val": 3, "test": 2}))
    assert check.text().splitlines()[2:] == [
        "",
        "split  published  listed   found      labelled",
        "train          ?       4       2     2      3s   50.0%",
        "val            3       3       3     1      0s  100.0%",
        "test           2       0       0     0      0s    0.0%",
        "",
        "(no action): 0 train, 3 val, 0 test",
        "jump: 0 train, 0 val, 0 test",
        "      0 up: 0.0s train, 0.0s val, 0.0s test",
        "pour: 2 train, 0 val, 0 test",
        "      0 reach: 2.5s train, 0.0s val, 0.0s test",
        "      1 tilt: 0.2s train, 0.0s val, 0.0s test",
        "tag t: 0 train, 1 val, 0 test",
        "",
        "groups with clips in train and in val: 1",
        "note: three were left out",
        "cannot be read: x: permission denied",
        "partial (2 of 4 train, 3 of 3 val, 0 of 2 test): what is there can be used",
    ]


def test_a_split_is_complete_with_the_clips_published_and_listed_and_nothing_unreadable(tmp_path):
    manifest = Manifest("mine", tmp_path, (Clip("a", "a.mp4"),))
    split = manifest.clips[0].split
    for listed, published, is_complete in ((1, 1, True), (2, 1, False), (1, 2, False)):
        check = check_survey(Survey(manifest, {split: listed}, {split: published}))
        assert check.is_complete is is_complete
        assert (check.state == "complete") is is_complete
    assert not check_survey(Survey(replace(manifest, unreadable=("x: closed",)))).is_complete
    assert check_survey(Survey(Manifest("mine", tmp_path, ()), {split: 0})).text().count("%") == 0
