"""`lvu`: its lists of words between spaces, a tag a clip, what is missing and wrong lines."""

import math

import pytest

from tests.pipeline.datasets.test_kinetics import touch
from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.datasets import check_dataset, load_dataset


def write(root, task, **splits):
    for split, lines in splits.items():
        path = root / "data" / "lvu_1.0" / task / f"{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("label some words youtube_id movie\n" + "".join(f"{x}\n" for x in lines))


@pytest.fixture
def root(tmp_path):
    touch(tmp_path, "videos/abc_-1.mp4", "videos/def.mp4", "videos/ghi.webm")
    write(
        tmp_path,
        "scene",
        train=["3 more words abc_-1 tt01", "0 x ghi tt02"],
        val=["3 def tt03"],
        test=["5   gone   tt04"],
    )
    write(tmp_path, "relationship", train=["1 def tt01"])
    return tmp_path


def test_the_label_of_a_task_is_the_only_tag_of_its_clips(root):
    clips = load_dataset("lvu", root, {"task": "scene"}).clips
    assert [(clip.clip_id, clip.video, clip.tags) for clip in clips] == [
        ("train/abc_-1", "videos/abc_-1.mp4", ("3",)),
        ("train/ghi", "videos/ghi.webm", ("0",)),
        ("val/def", "videos/def.mp4", ("3",)),
    ]
    [clip] = load_dataset("lvu", root, {}).clips  # relationship
    assert (clip.clip_id, clip.tags) == ("train/def", ("1",))


def test_what_is_missing_is_counted_by_split(root):
    check = check_dataset("lvu", root, {"task": "scene"})
    assert check.notes[0] == "1 of 1 test clips have no video"
    assert check.notes[1] == "test: videos there by tag, where some are missing: 5 0 of 1"
    assert check.state.startswith("partial (2 of 2 train, 1 of 1 val, 0 of 1 test)")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("6 abc tt", r"scene/val\.csv:2: '6 abc tt': want a label of 0 to 5, the id of the video"),
        ("-1 abc tt", r"scene/val\.csv:2: "),
        ("3 abc", r"scene/val\.csv:2: "),
        ("1 def tt\n\n2 def tt", r"scene/val\.csv:4: def is listed twice, first at scene/val"),
    ],
)
def test_a_wrong_line_is_named(root, line, message):
    write(root, "scene", val=[line])
    with pytest.raises(UsageError, match=message):
        load_dataset("lvu", root, {"task": "scene"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "like_ratio"}, r"no like_ratio/train\.csv, val\.csv or test\.csv"),
        ({"task": "scenes"}, r"data\.task is 'scenes', did you mean scene"),
        ({"task": "year"}, r"no year/train\.csv, val\.csv or test\.csv"),
        ({"tasks": "year"}, r"data\.tasks: no option of lvu, did you mean task"),
    ],
)
def test_a_task_that_is_not_there_is_refused(root, options, message):
    with pytest.raises(UsageError, match=message):
        load_dataset("lvu", root, options)


def test_the_numbers_of_two_tasks_are_the_tags_as_text(root):
    write(root, "like_ratio", train=["3 1 some abc_-1 tt01"], val=["0 4 def tt02"])
    write(root, "view_count", train=["1000 some abc_-1 tt01"], test=["2.5 ghi tt02"])
    ratios = load_dataset("lvu", root, {"task": "like_ratio"}).clips
    assert [(clip.clip_id, clip.tags) for clip in ratios] == [
        ("train/abc_-1", ("7.5",)),
        ("val/def", ("0.0",)),
    ]
    views = load_dataset("lvu", root, {"task": "view_count"}).clips
    assert [float(clip.tags[0]) for clip in views] == [math.log(2.5), math.log(1000)]


def test_numbers_are_counted_as_numbers_and_not_as_classes(root):
    write(root, "view_count", train=["1000 some abc_-1 tt01"], test=["2.5 ghi tt02"])
    lines = check_dataset("lvu", root, {"task": "view_count"}).text().splitlines()
    assert "numbers from 0.916291 to 6.90776: 1 train, 1 test" in lines
    assert not any(line.startswith("tag ") for line in lines)


@pytest.mark.parametrize(
    ("task", "line", "wanted"),
    [
        ("view_count", "0 abc tt", "a number above 0"),
        ("view_count", "many abc tt", "a number above 0"),
        ("view_count", "nan abc tt", "a number above 0"),
        ("like_ratio", "0 0 abc tt", "likes and dislikes"),
        ("like_ratio", "-1 3 abc tt", "likes and dislikes"),
        ("like_ratio", "3 abc tt", "likes and dislikes"),
    ],
)
def test_a_number_that_is_none_is_named_by_its_line(root, task, line, wanted):
    write(root, task, train=[line])
    with pytest.raises(UsageError, match=rf"{task}/train\.csv:2: '{line}': want {wanted}"):
        load_dataset("lvu", root, {"task": task})
