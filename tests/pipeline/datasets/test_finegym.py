"""`finegym`: events cut by time, labels of both rules, events on both sides of the split."""

import json

import numpy as np
import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.extract.flow.labels import frame_labels
from tokenreel.extract.video.decode import FrameSelector, decode
from tokenreel.extract.video.decoders import probe
from tokenreel.pipeline.datasets import check_dataset, load_dataset

VAULT, FLOOR = "E_000001_000003", "E_000004_000006"
TIMES = {
    "abc-_DEF012": {
        VAULT: {
            "event": 1,
            "timestamps": [[1.04, 3.04]],
            "segments": {
                "A_0000_0001": {"stages": 3, "timestamps": [[0.2, 0.4], [0.4, 0.6], [0.8, 1.2]]}
            },
        },
        FLOOR: {
            "event": 2,
            "timestamps": [[4.0, 6.0]],
            "segments": {
                "A_0000_0001": {"stages": 1, "timestamps": [[0.0, 0.48]]},
                "A_0001_0002": {"stages": 1, "timestamps": [[0.48, 2.5]]},
            },
        },
        "E_000007_000008": {"event": 2, "timestamps": [[7.0, 8.0]], "segments": None},
    }
}
TRAIN = [f"abc-_DEF012_{VAULT}_A_0000_0001 3", f"abc-_DEF012_{FLOOR}_A_0000_0001 7"]
VAL = [f"abc-_DEF012_{FLOOR}_A_0001_0002 98", "abc-_DEF012_E_000007_000008_A_0000_0001 1"]


@pytest.fixture
def root(tmp_path):
    return make_root(tmp_path)


def make_root(path, train=TRAIN, val=VAL, prefix="gym99", times=TIMES, version="v1.1"):
    folder = path / "annotations"
    folder.mkdir(exist_ok=True)
    (folder / f"finegym_annotation_info_{version}.json").write_text(json.dumps(times))
    (folder / f"{prefix}_train_element_{version}.txt").write_text("\n".join(train) + "\n")
    (folder / f"{prefix}_val_element.txt").write_text("\n".join(val))  # no newline at the end
    return path


def labels_of(clip):
    start = clip.start_seconds or 0.0
    stop = 2.0 if clip.stop_seconds is None else clip.stop_seconds
    return frame_labels(clip, start + np.arange(round((stop - start) * 25)) / 25)


def test_events_are_cut_by_time_from_their_source_video(root, write_video):
    write_video(root / "videos" / "abc-_DEF012.mp4", 220)

    manifest = load_dataset("finegym", root, {})

    clip = next(clip for clip in manifest.clips if clip.clip_id.endswith(VAULT))
    assert (clip.video, clip.start_seconds, clip.stop_seconds) == (
        "videos/abc-_DEF012.mp4",
        1.04,
        3.04,
    )
    base = probe(root / clip.video).time_base
    keep = FrameSelector(base, start_seconds=1.04, stop_seconds=3.04, fps=25.0)
    frames = [f for f in decode(root / clip.video) if keep.keeps(f.ticks)]
    assert [frame.index for frame in frames] == list(range(26, 76))


@pytest.mark.parametrize(("rule", "first"), [("carl", 20), ("full", 5)])
def test_a_vault_is_labelled_by_its_last_stage_or_by_all_both_ends_included(root, rule, first):
    (root / "abc-_DEF012.mp4").touch()
    manifest = load_dataset("finegym", root, {"labels": rule})

    expected = np.full(50, -1)
    expected[first : int(1.2 * 25) + 1] = 3
    clip = next(clip for clip in manifest.clips if clip.clip_id == f"train/abc-_DEF012_{VAULT}")
    np.testing.assert_array_equal(labels_of(clip), expected)


def test_of_two_elements_in_a_frame_the_later_line_wins_and_the_event_bounds_both(tmp_path):
    lines = [f"abc-_DEF012_{FLOOR}_A_000{i}_000{i + 1} {i}" for i in range(2)]
    root = make_root(tmp_path, train=lines)
    (root / "abc-_DEF012.mp4").touch()

    manifest = load_dataset("finegym", root, {})

    clip = next(clip for clip in manifest.clips if clip.clip_id == f"train/abc-_DEF012_{FLOOR}")
    np.testing.assert_array_equal(labels_of(clip), [0] * 12 + [1] * 38)
    assert "1 frames lie in two elements; the later one wins" in manifest.notes


def test_an_event_on_both_sides_of_the_split_is_reported_and_marked(root):
    (root / "abc-_DEF012.mp4").touch()

    manifest = load_dataset("finegym", root, {})

    groups = {clip.clip_id: clip.group for clip in manifest.clips}
    assert groups[f"train/abc-_DEF012_{FLOOR}"] == f"shared:abc-_DEF012_{FLOOR}"
    assert groups[f"val/abc-_DEF012_{FLOOR}"] == f"shared:abc-_DEF012_{FLOOR}"
    assert groups[f"train/abc-_DEF012_{VAULT}"] == f"abc-_DEF012_{VAULT}"
    assert any(
        note.startswith("1 events have elements in train and in val") for note in manifest.notes
    )
    assert check_dataset("finegym", root, {}).shared == (f"shared:abc-_DEF012_{FLOOR}",)


def test_an_event_without_segments_is_a_clip_without_labels(root):
    (root / "abc-_DEF012.mp4").touch()
    manifest = load_dataset("finegym", root, {})
    clip = next(clip for clip in manifest.clips if clip.clip_id.endswith("E_000007_000008"))
    assert clip.spans == ()
    assert "1 elements have no times and give no labels" in manifest.notes


def test_files_of_events_are_whole_clips_labelled_from_their_own_start(root):
    (root / "processed_videos").mkdir()
    (root / "processed_videos" / f"abc-_DEF012_{VAULT}.mp4").touch()

    manifest = load_dataset("finegym", root, {})

    (clip,) = manifest.clips
    assert (clip.start_seconds, clip.stop_seconds) == (None, None)
    assert np.flatnonzero(labels_of(clip) == 3).tolist() == list(range(20, 31))
    assert any("shifts their labels" in note for note in manifest.notes)
    assert "1 of 2 train events have no video" in manifest.notes
    assert not check_dataset("finegym", root, {}).is_complete


def one_event(path, start, stop, element, video="abc-_DEF012.mp4"):
    """The clip of a root with one event, which has one element."""
    info = {"timestamps": [[start, stop]], "segments": {"A_0000_0001": {"timestamps": [element]}}}
    root = make_root(path, val=[], times={"abc-_DEF012": {VAULT: info}})
    (root / video).touch()
    return load_dataset("finegym", root, {}).clips[0]


def test_labels_end_with_the_frames_of_an_event_and_with_its_time(tmp_path):
    cut = one_event(tmp_path, 0.02, 0.14, [0, 1], f"abc-_DEF012_{VAULT}.mp4")
    assert cut.spans[0].stop_seconds == 2.5 / 25  # 3 frames: 25 * (0.14 - 0.02) is a bit more
    timed = one_event(tmp_path, 1.0, 2.008, [0, 9])
    assert (timed.spans[0].start_seconds, timed.spans[0].stop_seconds) == (1.0, 2.008)
    [frame] = one_event(tmp_path, 1.0, 2.0, [0.4, 0.4]).spans  # an element of one frame
    assert (frame.start_seconds, frame.stop_seconds) == pytest.approx((1 + 9.5 / 25, 1 + 10.5 / 25))


def test_a_source_video_comes_before_a_file_of_the_event(root):
    for name in ("abc-_DEF012.mp4", f"abc-_DEF012_{VAULT}.mp4"):
        (root / name).touch()
    for rule, name in (("auto", "abc-_DEF012.mp4"), ("events", f"abc-_DEF012_{VAULT}.mp4")):
        clips = load_dataset("finegym", root, {"videos": rule}).clips
        assert {clip.video for clip in clips} == {name}


def test_blank_lines_are_passed_over_and_missing_events_are_counted(tmp_path):
    root = make_root(tmp_path, train=[TRAIN[0], "", TRAIN[1]])
    assert "2 of 2 train events have no video" in load_dataset("finegym", root, {}).notes


def test_names_of_classes_are_those_beside_the_annotations(root):
    (root / "gym99_categories.txt").write_text("Clabel: 3; set: 1; Glabel: 9; other")
    (root / "annotations/gym99_categories.txt").write_text("Clabel: 3; set: 1; Glabel: 9; vault")
    assert load_dataset("finegym", root, {}).phases["gym99"][2:4] == ("class 2", "vault")


def test_gym288_and_version_1_0_read_their_own_files(tmp_path):
    line = f"abc-_DEF012_{VAULT}_A_0000_0001 287"
    root = make_root(tmp_path, train=[line], prefix="gym288", version="v1.0")
    (root / "abc-_DEF012.mp4").touch()
    names = [
        "Clabel: 180; set: 1; Glabel: 9; (VT) same",
        "Clabel: 216; set: 1; Glabel: 9; (VT) same",
    ]
    (root / "gym288_categories.txt").write_text("\n".join(names))

    manifest = load_dataset("finegym", root, {"classes": "288", "version": "v1.0"})

    assert len(manifest.phases["gym288"]) == 288 == len(set(manifest.phases["gym288"]))
    assert manifest.phases["gym288"][216] == "(VT) same [216]"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (["nonsense"], r"gym99_train_element_v1\.1\.txt:1: 'nonsense' is not"),
        ([TRAIN[0].replace(" 3", " 99")], r"v1\.1\.txt:1: class 99 of 99, counted from 0"),
        ([TRAIN[0], TRAIN[0]], r"v1\.1\.txt:2: .* is listed at gym99_train_element_v1\.1\.txt:1"),
    ],
)
def test_a_wrong_line_of_a_list_is_named(tmp_path, train, message):
    with pytest.raises(UsageError, match=message):
        load_dataset("finegym", make_root(tmp_path, train=train), {})


def test_an_event_that_stops_before_it_starts_is_named(tmp_path):
    times = {"abc-_DEF012": {VAULT: {"event": 1, "timestamps": [[3, 1]], "segments": None}}}
    root = make_root(tmp_path, times=times)
    (root / "abc-_DEF012.mp4").touch()
    with pytest.raises(UsageError, match=r"E_000001_000003: starts at 3\.0 s and stops at 1\.0 s"):
        load_dataset("finegym", root, {})


def test_times_that_are_no_object_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"info_v1\.1\.json: expected \{youtube id"):
        load_dataset("finegym", make_root(tmp_path, times=[TIMES]), {})


def test_a_missing_list_is_shown_the_layout_beside_what_was_found(tmp_path):
    (tmp_path / "videos").mkdir()
    with pytest.raises(UsageError, match=r"(?s)no annotations/gym99_train.*expected.*found\n +vid"):
        load_dataset("finegym", tmp_path, {})


def test_an_unknown_option_or_value_is_told_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"data\.clases: no option.*did you mean classes\?"):
        load_dataset("finegym", tmp_path, {"clases": "99"})
    with pytest.raises(UsageError, match=r"data\.labels is 'carll', did you mean carl\?"):
        load_dataset("finegym", tmp_path, {"labels": "carll"})


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"timestamps": [[0]]}, r"E_000001_000003: its times are"),
        ({"timestamps": [[0, 2]], "segments": [1]}, r"E_000001_000003: its times are"),
        (
            {"timestamps": [[0, 1e12]]},
            r"E_000001_000003: starts at 0\.0 s and stops at 1000000000000",
        ),
        ({"timestamps": [[1, 1]]}, r"E_000001_000003: starts at 1\.0 s and stops at 1\.0 s"),
        ({"timestamps": [[-1, 2]]}, r"E_000001_000003: starts at -1\.0 s and stops at 2\.0 s"),
        (
            {"timestamps": [[0, 2]], "segments": {"A_0000_0001": {"timestamps": [[-0.2, 0.4]]}}},
            r"v1\.1\.txt:1: A_0000_0001 lasts from -0\.2 s to 0\.4 s",
        ),
        *(
            (
                {"timestamps": [[0, 2]], "segments": {"A_0000_0001": wrong}},
                r"v1\.1\.txt:1: the stages",
            )
            for wrong in ({"stages": 1}, {"timestamps": []}, {"timestamps": "x"}, [1])
        ),
    ],
)
def test_times_of_another_form_are_named(tmp_path, info, message):
    root = make_root(tmp_path, times={"abc-_DEF012": {VAULT: info}})
    (root / "abc-_DEF012.mp4").touch()
    with pytest.raises(UsageError, match=message):
        load_dataset("finegym", root, {})
