"""`mmx`: the two lists, splits drawn where there are none, what is missing and wrong lines."""

from collections import Counter

import pytest

from tests.pipeline.datasets.test_kinetics import touch
from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.datasets import check_dataset, load_dataset


def read(root, **options):
    manifest = load_dataset("mmx", root, options)
    return {clip.clip_id: (clip.video, clip.split, clip.tags) for clip in manifest.clips}


def test_the_authors_list_finds_trailers_by_the_name_of_their_folder(tmp_path):
    touch(tmp_path, "trailers/Alien.mp4", "Heat.mkv")
    (tmp_path / "out.csv").write_text(
        ",img_root,g1,g2,g3,g4,g5,g6,split\n"
        "0,/data/mmx/Horror/Alien/,Horror,ScienceFiction,nan,,,,train\n"
        "1,/data/mmx/Crime/Heat,Drama,Crime,,,,Drama,test\n"
    )
    assert read(tmp_path) == {
        "Alien": ("trailers/Alien.mp4", "train", ("Horror", "ScienceFiction")),
        "Heat": ("Heat.mkv", "test", ("Crime", "Drama")),
    }


def test_a_plain_list_has_genres_between_bars(tmp_path):
    touch(tmp_path, "a.mp4", "Mr. b.mp4")
    (tmp_path / "list.csv").write_text("video,split,genres\na.mp4,val,War | Drama\nMr. b,train,\n")
    assert read(tmp_path) == {
        "a": ("a.mp4", "val", ("Drama", "War")),
        "Mr. b": ("Mr. b.mp4", "train", ()),
    }


def test_splits_are_drawn_by_the_seed_whatever_the_order_of_the_list(tmp_path):
    names = [f"m{number:02d}" for number in range(50)]
    touch(tmp_path, *(f"{name}.mp4" for name in names))

    def splits(order, **options):
        lines = "".join(f"{name}.mp4,Drama\n" for name in order)
        (tmp_path / "list.csv").write_text(f"video,genres\n{lines}")
        return {name: split for name, (_, split, _) in read(tmp_path, **options).items()}

    one = splits(names)
    assert Counter(one.values()) == {"train": 40, "val": 5, "test": 5}
    assert splits(names[::-1]) == one
    assert splits(names, split_seed="1") != one
    check = check_dataset("mmx", tmp_path, {})
    assert "the list has no splits: drawn with data.split_seed=0" in check.notes
    assert [split.published for split in check.splits] == [6047, 754, 754]


def test_trailers_without_a_video_are_counted_by_split_and_genres_are_listed(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "list.csv").write_text(
        "video,split,genres\na.mp4,train,War\nb.mp4,train,War\nc.mp4,test,War\n"
    )
    check = check_dataset("mmx", tmp_path, {})
    assert check.notes == (
        "1 of 2 train trailers have no video",
        "1 of 1 test trailers have no video",
    )
    assert "tag War: 1 train, 0 val, 0 test" in check.text()
    assert check.state.startswith("partial (1 of 6047 train, 0 of 754 val, 0 of 754 test)")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("video,split,genres\na.mp4,dev,War\n", {}, r"list\.csv:2: the split is not one of train"),
        ("video,split,genres\na,train,x\na.mp4,train,y\n", {}, r"list\.csv:3: 'a' is listed twice"),
        ("name,genres\na,x\n", {}, r"list\.csv:1: columns name,genres; expected"),
        ("video,genres\n", {}, "no list with a line"),
        ("video,genres\n,x\n", {}, r"list\.csv:2: no video"),
        ("video,genres\na,x\n", {"split_seed": "x"}, r"data\.split_seed=x: want a whole number"),
        ("video,genres\na,x\n", {"seed": "1"}, r"data\.seed: no option of mmx"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, options, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_dataset("mmx", tmp_path, options)
