"""The published lists of FineGym, where they are: TOKENREEL_ANNOTATIONS names their folder.

They may not be given on with the code.  The times come from tables that others derived from the
annotation file, with one stage for each element.
"""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from tokenreel.pipeline.datasets import check_dataset, load_dataset

ANNOTATIONS = os.environ.get("TOKENREEL_ANNOTATIONS")
pytestmark = pytest.mark.skipif(
    not ANNOTATIONS, reason="TOKENREEL_ANNOTATIONS names no folder of finegym/"
)
LISTS = ("gym99_train_element_v1.1.txt", "gym99_val_element.txt", "gym99_categories.txt")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All of gym99 with an empty file for each source video."""
    root = tmp_path_factory.mktemp("finegym")
    (root / "annotations").mkdir()
    (root / "videos").mkdir()
    for name in LISTS:
        shutil.copy(Path(ANNOTATIONS, "finegym", name), root / "annotations")
    times: dict = {}
    for name in ("derived_train99_times.csv", "derived_val99_times.csv"):
        with Path(ANNOTATIONS, "finegym", name).open() as file:
            for row in csv.DictReader(file):
                start, stop = float(row["Event_start_time"]), float(row["Event_end_time"])
                video = row["videoname"]
                words = row["full_id"][len(video) + 1 :].split("_")
                event, element = "_".join(words[:3]), "_".join(words[3:])
                found = times.setdefault(video, {}).setdefault(
                    event, {"event": 1, "timestamps": [[start, stop]], "segments": {}}
                )
                stage = [float(row["Subaction_start"]) - start, float(row["Subaction_end"]) - start]
                found["segments"][element] = {"stages": 1, "timestamps": [stage]}
    (root / "annotations" / "finegym_annotation_info_v1.1.json").write_text(json.dumps(times))
    for video in times:
        (root / "videos" / f"{video}.mp4").touch()
    return root


def test_all_of_gym99_is_found_with_the_published_numbers_of_events(root):
    check = check_dataset("finegym", root, {"labels": "full"})
    assert [(s.split, s.published, s.listed, s.found, s.labelled) for s in check.splits] == [
        ("train", 3791, 3791, 3791, 3791),
        ("val", 1442, 1442, 1442, 1442),
    ]
    assert check.is_complete
    assert len(check.shared) == 265
    assert len(check.phases["gym99"]) == 99
    hours = [split.labelled_seconds / 3600 for split in check.splits]
    assert hours == pytest.approx([1.08e6 / 25 / 3600, 367_069 / 25 / 3600], rel=0.01)


def test_every_class_is_in_both_splits_and_labels_lie_in_their_events(root):
    manifest = load_dataset("finegym", root, {"labels": "full"})
    for split in ("train", "val"):
        clips = [clip for clip in manifest.clips if clip.split == split]
        assert {span.phase for clip in clips for span in clip.spans} == set(range(99))
    for clip in manifest.clips:
        assert clip.start_seconds < clip.stop_seconds
        assert all(clip.start_seconds <= span.start_seconds for span in clip.spans)
        assert all(span.stop_seconds <= clip.stop_seconds for span in clip.spans)


def test_a_part_of_the_sources_is_used_and_says_how_much_it_is(root):
    gone = sorted((root / "videos").iterdir())[::2]
    for path in gone:
        path.unlink()
    check = check_dataset("finegym", root, {"labels": "full"})
    assert not check.is_complete
    assert all(0 < split.found < split.listed for split in check.splits)
    for split in check.splits:
        missing = split.listed - split.found
        assert f"{missing} of {split.listed} {split.split} events have no video" in check.notes
    assert "partial (" in check.state
    assert "of 1442 val): what is there can be used" in check.state
