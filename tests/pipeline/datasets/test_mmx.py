"""`mmx`: the two lists, splits drawn where there are none, what is missing and wrong lines."""

import pickle
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
        "test: videos there by tag, where some are missing: War 0 of 1",
        "train: videos there by tag, where some are missing: War 1 of 2",
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


def write_meta(root, folder, value):
    path = root / folder / "meta.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))


def test_the_folders_of_the_author_name_genres_in_the_pickle_of_a_scene(tmp_path):
    touch(tmp_path, "videos/Alien.mp4", "videos/Heat.mp4")
    write_meta(tmp_path, "Horror/Alien/000", (["Horror", "ScienceFiction"], 1979))
    write_meta(tmp_path, "Horror/Alien/001", (["War"], 1979))  # the first scene's is read
    write_meta(tmp_path, "Thriller/Alien/0", ([["Thriller"], 3], 1979))
    write_meta(tmp_path, "Crime/Heat/000", (["Crime"], "1995"))
    found = read(tmp_path)
    assert {name: tags for name, (_, _, tags) in found.items()} == {
        "Alien": ("Horror", "ScienceFiction", "Thriller"),
        "Heat": ("Crime",),
    }
    assert {split for _, split, _ in found.values()} <= {"train", "val", "test"}


def test_nothing_in_a_pickle_of_the_author_is_run(tmp_path):
    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    touch(tmp_path, "Alien.mp4")
    write_meta(tmp_path, "Horror/Alien/000", Runs())
    with pytest.raises(UsageError, match="nothing is executed"):
        read(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [{"genres": 1}, ([1, 2], 1979), 3, ()])
def test_a_pickle_of_something_else_names_the_list_to_write(value, tmp_path):
    touch(tmp_path, "Alien.mp4")
    write_meta(tmp_path, "Horror/Alien/000", value)
    with pytest.raises(UsageError, match=r"Horror/Alien/000/meta\.pkl: not \(genres, year\) but"):
        read(tmp_path)


def test_trailers_without_a_video_are_counted_by_split_and_genre(tmp_path):
    touch(tmp_path, "a.mp4")
    lines = "a,train,War\nb,train,War|Drama\nc,test,Drama\n"
    (tmp_path / "list.csv").write_text(f"video,split,genres\n{lines}")
    notes = check_dataset("mmx", tmp_path, {}).notes
    assert "1 of 2 train trailers have no video" in notes
    assert "test: videos there by tag, where some are missing: Drama 0 of 1" in notes
    assert "train: videos there by tag, where some are missing: Drama 0 of 1, War 1 of 2" in notes
