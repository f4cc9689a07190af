"""`kinetics400`: the three layouts of videos, the three kinds of list, and no list."""

import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.datasets import check_dataset, load_dataset

STEM = "abcdefghij{}_000010_000020"
CVDF = "label,youtube_id,time_start,time_end,split\nriding a bike,abcdefghij1,10,20,{}\n"


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def read(root):
    manifest = load_dataset("kinetics400", root, {})
    return [(clip.video, clip.split, clip.action) for clip in manifest.clips]


@pytest.mark.parametrize(
    "video",
    [
        f"val/{STEM.format(1)}.mp4",
        f"videos/val/riding a bike/{STEM.format(1)}.mp4",
        f"videos_val/riding_a_bike/{STEM.format(1)}.mp4",
    ],
)
def test_the_published_list_finds_its_videos_in_every_layout(tmp_path, video):
    touch(tmp_path, video)
    (tmp_path / "val.csv").write_text(CVDF.format("validate"))
    assert read(tmp_path) == [(video, "val", "riding a bike")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_lists_that_a_spreadsheet_saved_are_read(tmp_path, separator, encoding):
    video = f"val/{STEM.format(1)}.mp4"
    touch(tmp_path, video, "train/a.mp4")
    rows = CVDF.format("val").replace(",", separator).replace("\n", "\r\n")
    (tmp_path / "val.csv").write_bytes(rows.encode(encoding))
    (tmp_path / "train.csv").write_bytes(
        f"video_file{separator}label\r\na.mp4{separator}riding a bike".encode()
    )
    assert read(tmp_path) == [
        ("train/a.mp4", "train", "riding a bike"),
        (video, "val", "riding a bike"),
    ]


def test_the_lists_of_mmaction2_and_of_carl_give_split_and_action(tmp_path):
    first, second = (f"videos_train/riding_a_bike/{STEM.format(i)}.mp4" for i in (1, 2))
    touch(tmp_path, first, second)
    (tmp_path / "kinetics400_train_list_videos.txt").write_text(
        f"riding_a_bike/{STEM.format(1)}.mp4 0"
    )
    (tmp_path / "train.csv").write_text(f"video_file,label\nx/{STEM.format(2)}.mp4,riding a bike\n")
    assert read(tmp_path) == [(v, "train", "riding a bike") for v in (first, second)]


def test_without_lists_the_folders_tell(tmp_path):
    names = ("videos/val/tying tie/a.mp4", "train/b.mp4", "videos_test/tying_tie/c.mp4")
    touch(tmp_path, *names, "replacement/d.mp4", "videos/e.mp4")
    assert read(tmp_path) == [
        ("videos_test/tying_tie/c.mp4", "test", "tying tie"),
        ("train/b.mp4", "train", ""),
        ("replacement/d.mp4", "train", ""),
        ("videos/e.mp4", "train", ""),
        ("videos/val/tying tie/a.mp4", "val", "tying tie"),
    ]


@pytest.mark.parametrize("folder", ["a", "val"])  # before the other in order, and after it
def test_a_replacement_is_taken_before_the_corrupt_file(tmp_path, folder):
    touch(tmp_path, f"{folder}/{STEM.format(1)}.mp4", f"replacement/{STEM.format(1)}.mp4")
    (tmp_path / "val.csv").write_text(CVDF.format("val"))
    assert [video for video, *_ in read(tmp_path)] == [f"replacement/{STEM.format(1)}.mp4"]


def test_a_list_without_the_column_of_splits_is_of_the_split_of_its_name(tmp_path):
    touch(tmp_path, f"a/{STEM.format(1)}.mp4")
    lines = [line.rpartition(",")[0] for line in CVDF.splitlines()]
    (tmp_path / "validation.csv").write_text("\n".join(lines))
    assert [split for _, split, _ in read(tmp_path)] == ["val"]


def test_missing_and_unlisted_videos_are_counted(tmp_path):
    touch(tmp_path, "train/other.mp4")
    (tmp_path / "val.csv").write_text(CVDF.format("val"))
    check = check_dataset("kinetics400", tmp_path, {})
    assert check.notes == (
        "1 of 1 val clips have no video",
        "1 videos are in no list and left out",
    )
    assert check.text().endswith("partial (0 of 1 val): what is there can be used")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CVDF.format("dev"), r"val\.csv:2: the split is 'dev', not one of train, val, test"),
        (
            CVDF.format("val").replace("10,20", "\u00b2,20"),
            r"val\.csv:2: from '\u00b2' s to '20' s",
        ),
        (CVDF.format("val").replace("10,20", "20,10"), r"val\.csv:2: from '20' s to '10' s"),
        (CVDF.format("val").replace("10,20", "10,10"), r"val\.csv:2: from '10' s to '10' s"),
        ("a,b\n1,2\n", r"val\.csv:1: columns a,b; expected"),
        (CVDF.format("val") + "x,y\n", r"val\.csv:3: 2 cells where the header has 5"),
        (CVDF.format("val") + CVDF.format("train").split("\n")[1], r"val\.csv:3: .* at val\.csv:2"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
    (tmp_path / "val.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_dataset("kinetics400", tmp_path, {})


@pytest.mark.parametrize("name", ["train.csv", "kinetics400_val_list_videos.txt"])
def test_a_list_that_is_not_text_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00\xff\xfe")
    with pytest.raises(UsageError, match=f"{name}:1: not UTF-8 text"):
        load_dataset("kinetics400", tmp_path, {})
