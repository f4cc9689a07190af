"""Files below a root: linked disks are entered, loops end, what cannot be read is listed."""

import os

from tokenreel.extract.video import sniff
from tokenreel.pipeline.datasets import load_dataset
from tokenreel.pipeline.datasets.survey import find_files, videos_of_classes, wrong_root


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_link_to_another_disk_is_entered_once_and_loops_end(tmp_path):
    root, disk = tmp_path / "root", tmp_path / "disk"
    touch(root / "lists" / "train.csv", disk / "a.mp4", disk / "deep" / "b.mp4")
    (root / "videos").symlink_to(disk)
    (root / "videos_again").symlink_to(disk)
    (root / "lists" / "back").symlink_to(root)
    (disk / "deep" / "up").symlink_to(disk)
    (disk / "deep" / "home").symlink_to(root)
    assert list(find_files(root).names) == ["lists/train.csv", "videos/a.mp4", "videos/deep/b.mp4"]


def test_kinetics_finds_videos_behind_a_link(tmp_path):
    root, disk = tmp_path / "root", tmp_path / "disk"
    touch(disk / "riding a bike" / "x.mp4", root / "y.mp4")
    (root / "train").symlink_to(disk)
    clips = load_dataset("kinetics400", root, {}).clips
    assert [clip.video for clip in clips] == ["train/riding a bike/x.mp4", "y.mp4"]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    touch(tmp_path / "a.mp4", tmp_path / "._a.mp4", tmp_path / ".cache" / "b.mp4")
    assert list(find_files(tmp_path).names) == ["a.mp4"]


def test_a_name_that_is_not_utf8_is_found_under_its_bytes(tmp_path):
    touch(tmp_path / "\u6f22\u5b57.mp4")
    (tmp_path / os.fsdecode(b"x\xff.mp4")).touch()
    assert find_files(tmp_path).by_stem() == {
        "\u6f22\u5b57": "\u6f22\u5b57.mp4",
        "x\\xff": "x\\xff.mp4",
    }


def test_of_two_videos_of_a_stem_the_first_is_taken(tmp_path):
    touch(tmp_path / "a" / "x.mp4", tmp_path / "b" / "x.mp4", tmp_path / "b" / "y.mp4")
    assert find_files(tmp_path).by_stem() == {"x": "a/x.mp4", "y": "b/y.mp4"}


def test_a_video_of_a_class_is_found_by_its_folder_and_alone_by_its_stem():
    names = ("a/x.mp4", "b/x.mp4", "b/y.mp4", "c/b/y.mkv", "d/z.mp4")
    assert videos_of_classes(names) == {
        ("a", "x"): "a/x.mp4",
        ("b", "x"): "b/x.mp4",
        ("b", "y"): "b/y.mp4",
        ("d", "z"): "d/z.mp4",
        ("", "z"): "d/z.mp4",
    }


def test_a_wrong_root_lists_what_is_there_without_hidden_names(tmp_path):
    touch(tmp_path / ".git", *(tmp_path / f"{number:02d}" for number in range(12)))
    shown = ", ".join(f"{number:02d}" for number in range(12))
    assert str(wrong_root(tmp_path, "layout")).endswith(f"found\n    {shown}")
    touch(tmp_path / "12")
    assert str(wrong_root(tmp_path, "layout")).endswith("10, 11 and 1 more")
    assert "found\n    an empty folder" in str(wrong_root(make_folder(tmp_path / "e"), "layout"))


def make_folder(path):
    path.mkdir()
    return path


def test_files_that_cannot_be_read_as_videos_are_listed(tmp_path, monkeypatch):
    touch(tmp_path / "film", tmp_path / "a.mp4")

    def refuse(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(sniff, "is_video", refuse)
    found = find_files(tmp_path)
    assert (found.videos, found.unreadable) == (("a.mp4",), ("film: permission denied",))


def test_a_folder_that_may_not_be_entered_is_listed(tmp_path, monkeypatch):
    touch(tmp_path / "train" / "a b" / "x.mp4", tmp_path / "y.mp4")
    scans = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("a b"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scans(path)

    monkeypatch.setattr(os, "scandir", refuse)
    manifest = load_dataset("kinetics400", tmp_path, {})
    assert [clip.video for clip in manifest.clips] == ["y.mp4"]
    assert manifest.unreadable == ("train/a b: permission denied",)
