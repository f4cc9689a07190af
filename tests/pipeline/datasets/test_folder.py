"""`folder`: the clips it finds, and every wrong line named by file, line and value."""

import os

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.extract.video.types import VideoError, check_file
from tokenreel.pipeline.datasets import load_dataset

LABELS = "video,start_seconds,stop_seconds,phase\n"


def make_root(tmp_path, **tables):
    for name in ("train/a.mp4", "val/a.mp4", "val/sub dir/\u00e9.MKV", "other/c.webm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.mp4").touch()
    for name, text in tables.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path


def test_without_tables_every_video_is_a_clip_of_the_split_of_its_first_folder(tmp_path):
    manifest = load_dataset("folder", make_root(tmp_path), {})

    assert {clip.video: clip.split for clip in manifest.clips} == {
        "train/a.mp4": "train",
        "val/a.mp4": "val",
        "val/sub dir/\u00e9.MKV": "val",
        "other/c.webm": "train",
    }
    assert len({clip.clip_id for clip in manifest.clips}) == 4


def test_tables_give_splits_actions_groups_and_labels(tmp_path):
    root = make_root(
        tmp_path,
        clips="video,split,action,group\nval/a.mp4,test,pour,g1\ntrain/a.mp4,,pour,\n",
        phases="action,phase\npour,reach\npour,tilt\n",
        labels=LABELS + "val/a.mp4,1.5,2,tilt\n# a comment\nval/a.mp4,0,1.5,0\n",
    )

    manifest = load_dataset("folder", root, {})

    by_id = {clip.clip_id: clip for clip in manifest.clips}
    assert by_id.keys() == {"train/a.mp4", "val/a.mp4"}
    assert (by_id["val/a.mp4"].split, by_id["val/a.mp4"].group) == ("test", "g1")
    assert [span.phase for span in by_id["val/a.mp4"].spans] == [0, 1]
    assert by_id["val/a.mp4"].spans[1].where == "labels.csv:2"
    assert manifest.phases == {"pour": ("reach", "tilt")}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val/a.mp4,2,1,0", r"labels\.csv:2: reversed, it starts at 2\.0 s and stops at 1\.0"),
        (
            "val/a.mp4,0,2,0\nval/a.mp4,1,3,1",
            r"labels\.csv:3: starts at 1\.0 s, before labels\.csv:2",
        ),
        ("val/a.mp4,0,2,pour", r"labels\.csv:2: unknown phase 'pour'"),
        ("val/a.mp4,0,2,-1", r"labels\.csv:2: unknown phase '-1'"),
        ("val/a.mp4,0,2,32768", r"labels\.csv:2: unknown phase '32768'"),
        ("val/b.mp4,0,2,0", r"labels\.csv:2: no video 'val/b\.mp4'.*did you mean val/a\.mp4"),
        ("val/a.mp4,nan,2,0", r"labels\.csv:2: start_seconds is 'nan', not a time"),
        ("val/a.mp4,-1,2,0", r"labels\.csv:2: start_seconds is '-1'"),
        ("val/a.mp4,0,2", r"labels\.csv:2: 3 cells where the header has 4"),
    ],
)
def test_a_wrong_label_is_named_by_file_line_and_value(tmp_path, line, message):
    root = make_root(tmp_path, labels=LABELS + line + "\n")
    with pytest.raises(UsageError, match=message):
        load_dataset("folder", root, {})


def test_a_video_may_hold_several_clips_each_with_the_labels_of_its_time(tmp_path):
    root = make_root(
        tmp_path,
        clips="video,split,start_seconds,stop_seconds\n"
        "val/a.mp4,train,,2\nval/a.mp4,val,2,4.5\nval/a.mp4,,6,\n",
        labels=LABELS + "val/a.mp4,0,1,0\nval/a.mp4,1.5,3,1\nval/a.mp4,5,7,2\n",
    )

    manifest = load_dataset("folder", root, {})

    read = {
        clip.clip_id: (
            clip.start_seconds,
            clip.stop_seconds,
            [(s.start_seconds, s.stop_seconds, s.phase) for s in clip.spans],
        )
        for clip in manifest.clips
    }
    assert read == {
        "val/a.mp4/0.000-2.000": (None, 2.0, [(0.0, 1.0, 0), (1.5, 2.0, 1)]),
        "val/a.mp4/2.000-4.500": (2.0, 4.5, [(1.5, 3.0, 1)]),
        "val/a.mp4/6.000-end": (6.0, None, [(5.0, 7.0, 2)]),
    }


def test_an_unknown_phase_name_is_told_the_nearest(tmp_path):
    root = make_root(
        tmp_path,
        clips="video,action\nval/a.mp4,pour\n",
        phases="action,phase\npour,reach\npour,tilt\n",
        labels=LABELS + "val/a.mp4,0,1,reech\n",
    )
    with pytest.raises(UsageError, match=r"unknown phase 'reech', did you mean reach\?"):
        load_dataset("folder", root, {})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("video,split\nval/a.mp4,dev\n", r"clips\.csv:2: split is 'dev', not one of train, val"),
        (
            "video\nval/a.mp4\nval/a.mp4\n",
            r"csv:3: 'val/a\.mp4' is listed twice, first at clips\.csv:2",
        ),
        ("video,start_seconds,stop_seconds\nval/a.mp4,3,2\n", r"clips\.csv:2: reversed"),
        ("video,start_seconds\nval/a.mp4,inf\n", r"clips\.csv:2: start_seconds is 'inf'"),
        ("split\ntrain\n", r"clips\.csv:1: no column video"),
        ("video,splt\nval/a.mp4,val\n", r"clips\.csv:1: unknown column 'splt', did you mean split"),
        ("", r"clips\.csv: empty"),
    ],
)
def test_a_wrong_clip_table_is_named_by_file_and_line(tmp_path, table, message):
    with pytest.raises(UsageError, match=message):
        load_dataset("folder", make_root(tmp_path, clips=table), {})


def test_tables_of_a_spreadsheet_in_europe_are_read(tmp_path):
    root = make_root(tmp_path)
    tables = {
        "clips": "video;split;action\r\nval/sub dir/\u00e9.MKV;test;pour\r\n;;\r\n",
        "phases": "action;phase\r\npour;reach\r\n",
        "labels": "video;start_seconds;stop_seconds;phase\r\n"
        "val/sub dir/\u00e9.MKV;0.5;2;reach\r\n",
    }
    for name, text in tables.items():
        (root / f"{name}.csv").write_bytes(
            text.encode("utf-16" if name == "labels" else "utf-8-sig")
        )
    (clip,) = load_dataset("folder", root, {}).clips
    assert (clip.video, clip.split, clip.action) == ("val/sub dir/\u00e9.MKV", "test", "pour")
    assert [(s.start_seconds, s.stop_seconds, s.phase) for s in clip.spans] == [(0.5, 2.0, 0)]
    text = tables["labels"].replace("0.5", "0,5")
    (root / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=r"labels\.csv:2: start_seconds is '0,5', .*1\.5 for 1,5"):
        load_dataset("folder", root, {})


def test_a_missing_root_is_shown_the_expected_layout(tmp_path):
    with pytest.raises(UsageError, match=r"(?s)no such folder; expected.*labels\.csv"):
        load_dataset("folder", tmp_path / "nowhere", {})


def test_a_root_without_videos_says_what_was_found(tmp_path):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(UsageError, match=r"(?s)no videos, 1 other file\(s\); expected"):
        load_dataset("folder", tmp_path, {})


def test_labels_without_phases_csv_are_numbers(tmp_path):
    root = make_root(tmp_path, labels=LABELS + "val/a.mp4,0,1,reach\n")
    with pytest.raises(UsageError, match=r"unknown phase 'reach' \(known: numbers from 0, or"):
        load_dataset("folder", root, {})


def test_a_wrong_phase_table_is_named_by_file_and_line(tmp_path):
    root = make_root(tmp_path, phases="action,phase\npour,reach\npour,reach\n")
    with pytest.raises(UsageError, match=r"phases\.csv:3: phase 'reach' of 'pour' is listed twice"):
        load_dataset("folder", root, {})


def test_a_link_that_leaves_the_root_is_left_out_and_logged(tmp_path, caplog):
    outside = tmp_path / "outside.mp4"
    outside.touch()
    root = tmp_path / "root"
    root.mkdir()
    (root / "in.mp4").touch()
    (root / "out.mp4").symlink_to(outside)

    manifest = load_dataset("folder", root, {})

    assert [clip.video for clip in manifest.clips] == ["in.mp4"]
    assert "leaves the root" in caplog.text


def test_an_unknown_data_set_is_told_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"no data set 'foldr', did you mean folder\?"):
        load_dataset("foldr", tmp_path, {})


def test_a_link_to_itself_is_a_video_that_cannot_be_opened(tmp_path):
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "away.mp4").symlink_to("/nowhere/away.mp4")
    manifest = load_dataset("folder", tmp_path, {})
    assert [clip.video for clip in manifest.clips] == ["loop.mp4"]
    with pytest.raises(VideoError, match="too many levels of symbolic links"):
        check_file(tmp_path / "loop.mp4")


def test_a_name_that_is_not_utf8_is_a_clip_that_fails_by_itself(tmp_path, caplog):
    (tmp_path / "a.mp4").touch()
    (tmp_path / os.fsdecode(b"b\xff.mp4")).touch()
    manifest = load_dataset("folder", tmp_path, {})
    assert [clip.video for clip in manifest.clips] == ["a.mp4", "b\\udcff.mp4"]
    assert "b\\udcff.mp4: the name is not UTF-8: rename it" in caplog.text
    with pytest.raises(VideoError, match="no such file"):
        check_file(tmp_path / manifest.clips[1].video)


def test_a_link_to_a_folder_is_not_entered_which_the_log_says(tmp_path, caplog):
    root = tmp_path / "root"
    (tmp_path / "disk").mkdir()
    root.mkdir()
    (tmp_path / "disk" / "a.mp4").touch()
    (root / "b.mp4").touch()
    (root / "more").symlink_to(tmp_path / "disk")
    assert [clip.video for clip in load_dataset("folder", root, {}).clips] == ["b.mp4"]
    assert "more is a link to a folder: not entered" in caplog.text
