"""`folder`: the clips it finds, and every wrong line named by file, line and value."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import path_below
from tokenreel.extract.video.types import VideoError, check_file
from tokenreel.pipeline.datasets import check_dataset, load_dataset

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


def test_a_video_that_is_called_as_a_split_is_in_none(tmp_path, write_video):
    write_video(tmp_path / "a.mp4", 3)
    (tmp_path / "a.mp4").rename(tmp_path / "val")
    [clip] = load_dataset("folder", tmp_path, {}).clips
    assert (clip.video, clip.split) == ("val", "train")


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


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("label.csv", "did you mean labels.csv?"),
        ("Clips.CSV", "did you mean clips.csv?"),
        ("phases.tsv", "did you mean phases.csv?"),
        ("labels.xlsx", "did you mean labels.csv?"),
        ("val/labels.csv", "did you mean labels.csv?"),
    ],
)
def test_a_table_of_another_name_or_place_is_told(tmp_path, name, meant):
    root = make_root(tmp_path)
    (root / name).write_text("video,split\ntrain/a.mp4,val\n")
    notes = load_dataset("folder", root, {}).notes
    assert any(note.startswith(f"{name} is no table of this data") for note in notes)
    assert any(note.endswith(meant) for note in notes)


def test_no_table_is_told_where_all_are_read(tmp_path):
    root = make_root(tmp_path, clips="video\ntrain/a.mp4\n", labels=LABELS, tags="video,tag\n")
    assert not any("is no table" in note for note in load_dataset("folder", root, {}).notes)


@pytest.mark.parametrize("name", ["labels", "clips", "phases", "tags"])
def test_a_table_that_is_a_link_to_nowhere_is_not_passed_over(tmp_path, name):
    root = make_root(tmp_path)
    (root / f"{name}.csv").symlink_to("unmounted/table.csv")
    with pytest.raises(UsageError, match=rf"{name}.csv: No such file"):
        load_dataset("folder", root, {})


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


def test_a_name_that_is_not_utf8_is_a_clip_under_its_bytes(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / os.fsdecode(b"b\xff.mp4")).touch()
    labels = "video,start_seconds,stop_seconds,phase\nb\\xff.mp4,0,1,2\n"
    (tmp_path / "labels.csv").write_text(labels)
    manifest = load_dataset("folder", tmp_path, {})
    assert [clip.video for clip in manifest.clips] == ["a.mp4", "b\\xff.mp4"]
    assert [span.phase for span in manifest.clips[1].spans] == [2]
    path = path_below(tmp_path, manifest.clips[1].video)
    assert os.fsencode(path.name) == b"b\xff.mp4"
    with pytest.raises(VideoError, match="is empty"):
        check_file(path)


def test_a_table_may_write_letters_in_another_unicode_form_than_the_disk(tmp_path):
    (tmp_path / "cafe\u0301.mp4").touch()  # as macOS writes it
    (tmp_path / "labels.csv").write_text(LABELS + "caf\u00e9.mp4,0,1,4\n")
    (clip,) = load_dataset("folder", tmp_path, {}).clips
    assert clip.video == "cafe\u0301.mp4"
    assert [span.phase for span in clip.spans] == [4]
    (tmp_path / "caf\u00e9.mp4").touch()
    clips = load_dataset("folder", tmp_path, {}).clips
    assert {clip.video: len(clip.spans) for clip in clips} == {
        "cafe\u0301.mp4": 0,
        "caf\u00e9.mp4": 1,
    }


def test_a_name_that_two_files_have_as_text_is_listed(tmp_path):
    (tmp_path / "b\\xff.mp4").touch()
    (tmp_path / os.fsdecode(b"b\xff.mp4")).touch()
    manifest = load_dataset("folder", tmp_path, {})
    assert [clip.video for clip in manifest.clips] == ["b\\xff.mp4"]
    assert path_below(tmp_path, "b\\xff.mp4").name == "b\\xff.mp4"
    (reason,) = manifest.unreadable
    assert reason.startswith("b\\xff.mp4: has the name of another file")


def test_names_are_the_same_in_every_locale(tmp_path):
    """An ASCII locale: Python then escapes every byte of such a name."""
    (tmp_path / "videos").mkdir()
    for name in (b"caf\xc3\xa9.mp4", b"caf\xe9.mp4"):
        (tmp_path / "videos" / os.fsdecode(name)).touch()
    (tmp_path / "videos" / "labels.csv").write_text(LABELS + "caf\u00e9.mp4,0,1,3\n")
    script = """
from pathlib import Path
from tokenreel.cache.manifest import path_below
from tokenreel.pipeline.datasets import load_dataset
import sys
assert sys.getfilesystemencoding() == "ascii", sys.getfilesystemencoding()
for clip in load_dataset("folder", Path("videos"), {}).clips:
    print(ascii(clip.clip_id), path_below(Path("videos"), clip.video).is_file(), len(clip.spans))
"""
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [
        (ascii(c.clip_id), len(c.spans))
        for c in load_dataset("folder", tmp_path / "videos", {}).clips
    ]
    assert [name for name, _ in found] == [r"'caf\\xe9.mp4'", r"'caf\xe9.mp4'"]
    assert run.stdout.splitlines() == [f"{name} True {count}" for name, count in found], run.stderr


def test_a_link_to_a_folder_is_not_entered_which_the_log_says(tmp_path, caplog):
    root = make_links(tmp_path)
    assert videos_of(root) == ["b.mp4"]
    assert (
        "more is a link to a folder: not entered, as 1 more; --follow-links enters" in caplog.text
    )
    assert "out.mp4 is a link that leaves the root: left out; --follow-links takes" in caplog.text


def make_links(tmp_path):
    """A root with links to a disk beside it, to itself and to nowhere."""
    root, disk = tmp_path / "root", tmp_path / "disk"
    for path in (root / "b.mp4", disk / "a.mp4", disk / "deep" / "c.mp4"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (root / "out.mp4").symlink_to(disk / "a.mp4")
    (root / "more").symlink_to(disk)
    (root / "up").symlink_to(root)
    (disk / "deep" / "loop").symlink_to(disk)
    (disk / "deep" / "home").symlink_to(root)
    return root


def videos_of(root, **options):
    return [clip.video for clip in load_dataset("folder", root, options).clips]


def test_links_are_followed_on_request_and_loops_end(tmp_path, caplog):
    root = make_links(tmp_path)
    (root / "again.mp4").symlink_to("b.mp4")
    (root / "gone.mp4").symlink_to("/nowhere/gone.mp4")
    found = videos_of(root, follow_links="yes")
    assert found == sorted(
        ["again.mp4", "b.mp4", "gone.mp4", "more/a.mp4", "more/deep/c.mp4", "out.mp4"]
    )
    assert "again.mp4 is a link to a video that has another name here" in caplog.text
    assert "is a link to a folder that is listed by another name: not entered again" in caplog.text
    assert "left out" not in caplog.text
    with pytest.raises(VideoError, match="no such file"):
        check_file(root / "gone.mp4")


def test_two_links_to_one_folder_are_entered_once(tmp_path, caplog):
    root, disk = tmp_path / "root", tmp_path / "disk"
    disk.mkdir()
    root.mkdir()
    (disk / "a.mp4").touch()
    for name in ("train", "val"):
        (root / name).symlink_to(disk)
    assert videos_of(root, follow_links="yes") == ["train/a.mp4"]
    assert "val is a link to a folder that is listed by another name" in caplog.text


def close_folder(monkeypatch, folder):
    """Make a folder one that may not be entered; root may enter any."""
    scans = os.scandir

    def refuse(path="."):
        if os.fspath(path) == os.fspath(folder):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scans(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_may_not_be_entered_is_listed(tmp_path, monkeypatch):
    root = make_root(tmp_path)
    close_folder(monkeypatch, root / "val")
    manifest = load_dataset("folder", root, {})
    assert [clip.video for clip in manifest.clips] == ["other/c.webm", "train/a.mp4"]
    assert manifest.unreadable == ("val: permission denied",)
    check = check_dataset("folder", root, {})
    assert not check.is_complete
    assert "cannot be read: val: permission denied" in check.text()
    assert "complete" not in check.text().replace("incomplete", "")


def test_where_only_closed_folders_hold_videos_the_error_names_them(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    close_folder(monkeypatch, tmp_path / "a")
    with pytest.raises(UsageError, match=r"(?s)no videos, 0 other.*a: permission denied"):
        load_dataset("folder", tmp_path, {})


def test_what_is_no_video_is_counted_by_ending(tmp_path, caplog):
    root = make_root(tmp_path)
    (root / "train" / "code.ts").write_text("const a = 1;\n")
    (root / "other" / "README").write_text("read me\n")
    load_dataset("folder", root, {})
    assert "3 file(s) are no videos: 1 without ending, 1 .ts, 1 .txt" in caplog.text


def test_a_store_below_the_root_is_not_searched_for_videos(tmp_path, caplog):
    root = make_root(tmp_path)
    for name in ("stores/a/zarr.json", "stores/a/clips/00/x/c/0.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert len(videos_of(root)) == 4
    assert "1 folder(s) of arrays (Zarr) are not entered" in caplog.text


def make_pictures(folder, count=3, ending="jpg"):
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        (folder / f"{number}.{ending}").write_bytes(b"\xff\xd8\xff")
    return folder


def test_a_folder_of_numbered_pictures_is_a_clip(tmp_path, caplog):
    root = make_root(
        tmp_path, labels=LABELS + "val/walk,0,1,2\n", clips="video,split\nval/walk,test\nrun,\n"
    )
    make_pictures(root / "val" / "walk", 12)
    make_pictures(root / "run", 2, "WebP")
    make_pictures(root / "single", 1)
    manifest = load_dataset("folder", root, {"picture_fps": "30000/1001"})
    assert [(c.clip_id, c.split, len(c.spans)) for c in manifest.clips] == [
        ("run", "train", 0),
        ("val/walk", "test", 1),
    ]
    assert {clip.picture_fps for clip in manifest.clips} == {30000 / 1001}
    assert "1 .jpg" in caplog.text
    assert "pictures a second" not in caplog.text
    load_dataset("folder", root, {})
    assert "2 folder(s) of pictures are taken at 25 pictures a second: picture_fps=" in caplog.text


def test_pictures_beside_videos_are_not_a_clip(tmp_path, caplog):
    root = make_pictures(tmp_path / "root")
    make_pictures(root / "train", 2)
    (root / "train" / "1.mp4").touch()
    assert videos_of(root) == ["train/1.mp4"]
    assert "5 file(s) are no videos: 5 .jpg" in caplog.text
    assert "numbered pictures beside the folders are left out" in caplog.text


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1/0", "fast", "1e9", ""])
def test_a_rate_of_pictures_that_is_none_is_refused(tmp_path, text):
    with pytest.raises(UsageError, match=f"picture_fps={text}: not a rate of"):
        load_dataset("folder", make_root(tmp_path), {"picture_fps": text})


def test_an_option_that_is_unknown_is_told_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="folow_links: no option of folder, did you mean follow_l"):
        load_dataset("folder", make_root(tmp_path), {"folow_links": "yes"})


FIELD = os.environ.get("TOKENREEL_FIELD")


@pytest.mark.skipif(not FIELD, reason="TOKENREEL_FIELD names no folder of failing inputs")
def test_every_container_of_the_field_is_a_clip():
    assert len(videos_of(Path(FIELD, "mixed_containers"))) == 8


def test_tags_are_of_a_video_in_any_order_and_of_all_its_clips(tmp_path):
    root = make_root(
        tmp_path,
        tags="video,tag\nval/a.mp4,war\ntrain/a.mp4,war\nval/a.mp4,a drama\nother/c.webm,news\n",
        clips="video,start_seconds,stop_seconds\nval/a.mp4,0,1\nval/a.mp4,1,2\ntrain/a.mp4,,\n"
        "val/sub dir/\u00e9.MKV,,\nother/c.webm,,\n",
    )
    manifest = load_dataset("folder", root, {"tags": "war,a drama,news"})
    tags = {clip.clip_id: clip.tags for clip in manifest.clips}
    assert tags == {
        "val/a.mp4/0.000-1.000": ("a drama", "war"),
        "val/a.mp4/1.000-2.000": ("a drama", "war"),
        "train/a.mp4": ("war",),
        "val/sub dir/\u00e9.MKV": (),
        "other/c.webm": ("news",),
    }
    assert "1 of 5 clips have no tag" in manifest.notes
    lone = "2 of 3 tags have clips of one split only: a drama (val), news (train)"
    assert lone in manifest.notes
    text = check_dataset("folder", root, {}).text()
    assert "tag a drama: 0 train, 2 val" in text.splitlines()
    assert "tag war: 1 train, 2 val" in text.splitlines()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("val/b.mp4,war", r"tags\.csv:2: no video 'val/b.mp4' below the root, did you mean val/a"),
        ("val/a.mp4,", r"tags\.csv:2: no tag of 'val/a.mp4'"),
        ("val/a.mp4,war\nval/a.mp4,war", r"tags\.csv:3: 'war' of .* twice, first at tags\.csv:2"),
        ("val/a.mp4,wa", r"tags\.csv:2: unknown tag 'wa', did you mean war\? \(data.tags=war,x\)"),
    ],
)
def test_a_wrong_tag_is_named_by_file_and_line(tmp_path, lines, message):
    root = make_root(tmp_path, tags=f"video,tag\n{lines}\n")
    with pytest.raises(UsageError, match=message):
        load_dataset("folder", root, {"tags": "war,x"})


def test_a_video_whose_name_begins_with_a_number_sign_is_in_every_table(tmp_path):
    root = make_root(
        tmp_path,
        clips="video,split,action\n#x.mp4,val,#1\n# of,three,words\n#y.mp4,val,\nb.mp4,train,\n",
        labels="video,start_seconds,stop_seconds,phase\n#x.mp4,0,1,go\n#b.mp4,0,1,0\n",
        phases="action,phase\n#1,go\n#2,go\n",
        tags="video,tag\n#x.mp4,short\n",
    )
    (root / "#x.mp4").touch()
    (root / "b.mp4").touch()
    manifest = load_dataset("folder", root, {})
    clip, _ = manifest.clips
    assert (clip.clip_id, clip.split, clip.action, clip.tags) == ("#x.mp4", "val", "#1", ("short",))
    assert [(span.start_seconds, span.phase) for span in clip.spans] == [(0.0, 0)]
    assert manifest.phases == {"#1": ("go",)}
    comments = [note for note in manifest.notes if "begins with #" in note]
    assert comments == [
        "clips.csv:3 begins with #, as 1 more: a comment, no row is made of it",
        "phases.csv:3 begins with #: a comment, no row is made of it",
        "labels.csv:3 begins with #: a comment, no row is made of it",
    ]


def test_labels_of_a_video_that_clips_csv_leaves_out_are_left_out_and_noted(tmp_path):
    root = make_root(
        tmp_path,
        clips="video\na.mp4\n",
        labels="video,start_seconds,stop_seconds,phase\na.mp4,0,1,0\nb.mp4,0,1,0\nc.mp4,0,1,0\n",
        tags="video,tag\nb.mp4,short\n",
    )
    for name in "abc":
        (root / f"{name}.mp4").touch()
    manifest = load_dataset("folder", root, {})
    assert [len(clip.spans) for clip in manifest.clips] == [1]
    left = [note for note in manifest.notes if "does not list" in note]
    assert left == [
        "labels.csv has lines of b.mp4, which clips.csv does not list: left out, as 1 more",
        "tags.csv has lines of b.mp4, which clips.csv does not list: left out",
    ]
    (root / "labels.csv").write_text("video,start_seconds,stop_seconds,phase\nd.mp4,0,1,0\n")
    with pytest.raises(UsageError, match=r"labels\.csv:2: no video 'd\.mp4' below the root"):
        load_dataset("folder", root, {})


def test_numbers_are_names_where_phases_are_called_by_numbers(tmp_path):
    root = make_root(tmp_path, phases="action,phase\n,1\n,2\n", labels=LABELS + "val/a.mp4,0,1,2\n")
    (clip,) = [clip for clip in load_dataset("folder", root, {}).clips if clip.spans]
    assert clip.spans[0].phase == 1
    (root / "labels.csv").write_text(LABELS + "val/a.mp4,0,1,0\n")
    with pytest.raises(UsageError, match=r"unknown phase '0' \(known: 1, 2\)"):
        load_dataset("folder", root, {})


def test_a_phase_of_thousands_of_digits_is_refused(tmp_path):
    root = make_root(tmp_path, labels=LABELS + f"val/a.mp4,0,1,{'9' * 5000}\n")
    with pytest.raises(UsageError, match=r"labels\.csv:2: unknown phase '999"):
        load_dataset("folder", root, {})


def test_phases_of_an_action_that_no_clip_has_are_noted(tmp_path):
    root = make_root(
        tmp_path, clips="video,action\nval/a.mp4,lift\n", phases="action,phase\nlfit,up\n"
    )
    notes = load_dataset("folder", root, {}).notes
    assert "phases.csv has phases of 'lfit', an action of no clip, did you mean lift?" in notes


def test_wrong_splits_are_one_message_with_how_many_lines_have_them(tmp_path):
    rows = "".join(f"{name}.mp4,vall\n" for name in "abc")
    root = make_root(tmp_path, clips=f"video,split\n{rows}d.mp4,valid\n")
    for name in "abcd":
        (root / f"{name}.mp4").touch()
    message = (
        r"clips\.csv:2: split is 'vall', not one of train, val, test, did you mean val\?; "
        r"4 lines have such: 'vall' 3, 'valid' 1$"
    )
    with pytest.raises(UsageError, match=message):
        load_dataset("folder", root, {})


def test_a_folder_that_means_the_split_it_has_is_not_noted(tmp_path):
    (tmp_path / "Train").mkdir()
    (tmp_path / "Train" / "a.mp4").touch()
    assert not any("is no split" in note for note in load_dataset("folder", tmp_path, {}).notes)


@pytest.mark.parametrize("name", ["Val", "vall", "validation", "TEST", "testing"])
def test_a_folder_whose_name_is_nearly_a_split_is_noted(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.mp4").touch()
    manifest = load_dataset("folder", tmp_path, {})
    meant = "test" if name.lower().startswith("test") else "val"
    assert manifest.clips[0].split == "train"
    assert any(f"{name!r} is no split" in note and meant in note for note in manifest.notes)
    (tmp_path / "clips.csv").write_text(f"video,split\n{name}/a.mp4,{meant}\n")
    assert not any("is no split" in note for note in load_dataset("folder", tmp_path, {}).notes)
