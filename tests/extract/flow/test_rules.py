"""Time and geometry in a store: ranges, labels and stops of clips, and stores of earlier rules."""

import shutil
from fractions import Fraction

import numpy as np
import pytest

from tests.extract.extraction import CONFIG, differing
from tests.extract.field import FIELD
from tokenreel.cache.format.store_files import read_failures
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.extract.encode import identity
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.preview.show import look_at_clip

PLAIN = CONFIG.model_copy(update={"codec": "fp16"})
GAPS = "avi_clip_range/gaps.avi"
LABELS = (LabelSpan(0, 1.0, 0), LabelSpan(1.0, 1.05, 1))
CLIPS = (
    Clip("null chunks", GAPS, start_seconds=0.8, stop_seconds=1.05, spans=LABELS),
    Clip("pause", "vfr_pause/gaps.mkv", start_seconds=0.0, stop_seconds=0.9),
    Clip("after", "vfr_pause/gaps.mkv", start_seconds=1.0, stop_seconds=1.9),
    Clip(
        "one frame",
        "vfr_pause/plain.mp4",
        start_seconds=0.3,
        stop_seconds=0.35,
        spans=(LabelSpan(0, 0.35, 0),),
    ),
    Clip("still", "last_frame_3s.mkv", spans=(LabelSpan(0, 0.9, 0), LabelSpan(0.9, 3.9, 1))),
    Clip("repeated", "duplicate_pts.mkv"),
    Clip("mirrored", "mirrored_matrix.mp4"),
    Clip("plain", "vfr_pause/plain.mp4"),
)


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """A store of the clips, and the report."""
    store = tmp_path_factory.mktemp("field") / "store"
    report = extract_clips(Manifest("field", FIELD, CLIPS), PLAIN, store, progress=False)
    assert report.failed == []
    return open_store(store), report


def units(store, name):
    """[start, stop) of each frame in seconds."""
    return np.stack([store.times_seconds(name), stops(store, name)], axis=1).round(4).tolist()


def stops(store, name):
    return store.stop_pts(name) * float(Fraction(*store.record(name).time_base))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("null chunks", [[1.0, 1.1]]),
        ("pause", [[0, 0.1], [0.1, 0.2], [0.2, 0.3], [0.3, 0.9]]),
        ("after", [[1.0, 1.1], [1.1, 1.2], [1.2, 1.3], [1.3, 1.9]]),
        ("one frame", [[0.3, 0.35]]),
    ],
)
def test_the_last_frame_of_a_range_is_shown_until_the_next_or_the_stop(field, name, wanted):
    found = units(field[0], name)
    if name == "null chunks":  # one slot is the least that AVI can say
        assert found == wanted
    else:
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_labels_follow_the_container_s_time(field):
    store, _ = field
    assert store.labels("null chunks").tolist() == [1]
    assert store.labels("one frame").tolist() == [0]
    assert store.labels("still").tolist() == [0] * 9 + [1]
    assert units(store, "still")[-1] == [0.9, 3.9]


def test_repeated_time_stamps_are_counted_recorded_and_told(field):
    store, report = field
    assert report.num_moved == 1
    assert "1 with repeated time stamps" in report.table()
    assert store.record("repeated").source["container"]["moved_frames"] == 1
    assert store.times_seconds("repeated").round(4).tolist() == [n / 10 for n in range(12)]


def test_the_record_names_orientation_and_rules(field):
    store, _ = field
    source = store.record("mirrored").source
    assert (source["orientation"], source["container"]["mirrored"]) == (0, True)
    assert store.record("plain").source["orientation"] is None
    assert {record.rules for record in store.records.values()} == {store.identity.rules} == {2}


def test_show_has_the_frames_that_were_extracted(field):
    store, _ = field
    for name in ("null chunks", "mirrored", "repeated", "still"):
        assert look_at_clip(store, name, root=FIELD).unseen_reason == ""


def test_a_store_of_old_rules_takes_clips_of_which_both_rules_make_the_same(tmp_path, monkeypatch):
    root = tmp_path / "videos"
    shutil.copytree(FIELD / "vfr_pause", root / "vfr_pause")
    shutil.copy(FIELD / "mirrored_matrix.mp4", root)
    shutil.copy(FIELD / "anamorphic_disc.mp4", root)
    shutil.copy(FIELD / "duplicate_pts.mkv", root)
    plain = Clip("plain", "vfr_pause/plain.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(identity, "RULES_VERSION", 1)
        for name in ("old", "whole"):
            extract_clips(
                Manifest("toy", root, (plain,)[: name == "whole"]),
                PLAIN,
                tmp_path / name,
                progress=False,
            )
    wide = Clip("wide", "anamorphic_disc.mp4")
    others = (
        Clip("mirrored", "mirrored_matrix.mp4"),
        Clip("pause", "vfr_pause/gaps.mkv", start_seconds=0.0, stop_seconds=0.9),
        Clip("repeated", "duplicate_pts.mkv"),
    )
    old = tmp_path / "old"
    report = extract_clips(
        Manifest("toy", root, (plain, wide, *others)), PLAIN, old, progress=False
    )
    assert report.committed == ["plain"]
    assert {failure.stage for failure in report.failed} == {"rules"}
    assert len(report.failed) == 4
    assert "4 clip(s) have other frames" in report.table()
    assert "--changed replace" in report.failed[0].reason
    new = shutil.copytree(old, tmp_path / "new")
    manifest = Manifest("toy", root, (plain, wide, *others))
    added = extract_clips(manifest, PLAIN, new, progress=False, changed="replace")
    assert sorted(added.committed) == ["mirrored", "pause", "repeated", "wide"]
    assert (added.exit_status, added.skipped) == (0, ["plain"])
    rules = {name: record.rules for name, record in open_store(new).records.items()}
    assert rules == {"plain": 1, "mirrored": 2, "pause": 2, "repeated": 2, "wide": 2}
    assert read_failures(new) == []
    for folder in (old, tmp_path / "whole"):
        shutil.rmtree(folder / "failed", ignore_errors=True)
    assert differing(old, tmp_path / "whole") == []
    ignoring = PLAIN.model_copy(update={"pixel_aspect": "ignore"})
    again = extract_clips(Manifest("toy", root, (wide,)), ignoring, old, progress=False)
    assert again.committed == ["wide"]
    assert open_store(old).record("wide").rules == 1


def test_pixel_aspect_is_part_of_the_identity():
    assert identity.identity_for(PLAIN, "0" * 64).pixel_aspect == "square"
    ignoring = PLAIN.model_copy(update={"pixel_aspect": "ignore"})
    one, other = (identity.identity_for(config, "0" * 64) for config in (PLAIN, ignoring))
    assert [row[0] for row in one.differences(other)] == ["pixel_aspect"]
