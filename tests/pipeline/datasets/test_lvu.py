"""`lvu`: its lists of words between spaces, a tag a clip, what is missing and wrong lines."""

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
        ({"task": "like_ratio"}, r"data\.task=like_ratio has a number to predict"),
        ({"task": "scenes"}, r"data\.task is 'scenes', did you mean scene"),
        ({"task": "year"}, r"no year/train\.csv, val\.csv or test\.csv"),
        ({"tasks": "year"}, r"data\.tasks: no option of lvu, did you mean task"),
    ],
)
def test_a_task_that_is_not_there_is_refused(root, options, message):
    with pytest.raises(UsageError, match=message):
        load_dataset("lvu", root, options)
