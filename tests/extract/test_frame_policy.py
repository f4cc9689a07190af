"""Which frames a policy keeps, and the lists of times that people write."""

from fractions import Fraction

import numpy as np
import pytest
from pydantic import ValidationError

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.frame_policy import (
    FrameList,
    check_list,
    frames_identity,
    frames_word,
    listed_times,
    missing_end,
    nearest_frames,
    scene_frames,
    scenes_of,
    step_and_end,
    times_of,
    uniform_frames,
)
from tokenreel.extract.scene_list import Scene, SceneList


@pytest.mark.parametrize("num_frames", [1, 2, 7, 40, 301])
@pytest.mark.parametrize("count", [1, 2, 8, 13, 64])
def test_uniform_takes_the_middle_of_equal_parts(num_frames, count):
    ticks = [100 + 512 * index for index in range(num_frames)]
    middles = [(2 * part + 1) * num_frames // (2 * count) for part in range(count)]
    assert uniform_frames(ticks, None, count) == middles


def test_uniform_is_in_time_where_frames_are_not_even():
    assert uniform_frames([0, 1, 2, 3, 50, 100], None, 3) == [3, 4, 5]  # centres 25, 75, 125


def test_uniform_ends_with_the_clip():
    assert uniform_frames([0, 10, 20], Fraction(21), 2) == [0, 1]  # centres 5.25, 15.75
    assert uniform_frames([0, 10, 20], Fraction(99), 2) == [0, 2]  # centres 7.5, 22.5


def test_a_time_takes_the_nearest_frame_and_none_outside_the_video():
    ticks = [0, 1001, 2002]
    rounded = [Fraction("0.033") * 30000, Fraction("0.067") * 30000]  # of 1001 / 30000, written
    assert nearest_frames(ticks, rounded) == [1, 2]
    assert nearest_frames(ticks, [Fraction(0), Fraction(0)]) == [0, 0]
    with pytest.raises(ValueError, match="1"):
        nearest_frames(ticks, [Fraction(3003), Fraction(3004)])


def test_a_clip_reaches_its_stop_within_a_frame_and_a_half():
    times = np.arange(10) / 10
    assert missing_end(1.14, times) is None
    assert missing_end(1.2, times) == pytest.approx(1.0)


def write(folder, text):
    path = folder / "times.csv"
    path.write_text(text)
    return ExtractConfig(frames=f"listed:{path}")


def test_a_list_is_read_by_video_and_cut_to_clips(tmp_path):
    config = write(tmp_path, "time_seconds;video\n4.5;b.mp4\n1;a.mp4\n0.25;b.mp4\n2;b.mp4\n")
    listed = listed_times(config)
    assert listed == {"a.mp4": (1.0,), "b.mp4": (0.25, 2.0, 4.5)}
    assert times_of(listed, Clip("c", "b.mp4", 0.25, 4.5)) == (0.25, 2.0)
    assert times_of(listed, Clip("c", "b.mp4")) == (0.25, 2.0, 4.5)
    assert times_of(listed, Clip("c", "c.mp4")) == ()


def test_the_identity_of_a_list_is_that_of_its_times_not_of_its_file(tmp_path):
    first = frames_identity(write(tmp_path, "video,time_seconds\na.mp4,1\nb.mp4,2\n"))
    assert first["policy"] == "listed"
    assert len(first["sha256"]) == 64
    same = frames_identity(write(tmp_path, "time_seconds\tvideo\n2.0\tb.mp4\n1.0\ta.mp4\n"))
    assert same == first
    other = frames_identity(write(tmp_path, "video,time_seconds\na.mp4,1\nb.mp4,2.5\n"))
    assert other != first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("video,time\na,1\n", "no column time_seconds"),
        ("video,time_seconds\na,-1\n", r"times\.csv:2: time_seconds is '-1', not a time"),
        ("video,time_seconds\na,1\na,1.0\n", r"times\.csv:3: a at 1 s is listed before.*csv:2"),
        ("video,time_seconds\n,1\n", r"times\.csv:2: video is empty"),
        ("video,time_seconds\n", "lists no time"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        listed_times(write(tmp_path, text))


def test_a_list_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"nowhere\.csv: no such file"):
        frames_identity(ExtractConfig(frames="listed:nowhere.csv"))


def test_a_list_of_another_data_set_is_refused_and_its_other_videos_are_named(tmp_path, caplog):
    config = write(tmp_path, "video,time_seconds\na.mp4,1\nz.mp4,2\n")
    check_list(config, Manifest("toy", tmp_path, (Clip("a", "a.mp4"),)))
    assert "1 video(s) of which toy has no clip, such as z.mp4" in caplog.text
    with pytest.raises(UsageError, match=r"no listed time is in a clip of toy.* like 'y/a\.mp4'"):
        check_list(config, Manifest("toy", tmp_path, (Clip("a", "y/a.mp4"),)))


@pytest.mark.parametrize("word", ["uniform", "uniform:0", "uniform:2.5", "listed:", "each"])
def test_a_policy_that_is_none_is_refused(word):
    with pytest.raises(
        ValidationError, match="frames is all, uniform:T, listed:FILE or scenes:FOLDER"
    ):
        ExtractConfig(frames=word)


def test_fps_beside_another_policy_is_refused():
    assert ExtractConfig(fps=5, frames="all").fps == 5
    with pytest.raises(ValidationError, match=r"fps=5 and frames=uniform:8 both .*fps=null"):
        ExtractConfig(fps=5, frames="uniform:8")


@pytest.mark.parametrize("word", ["all", "uniform:8"])
def test_the_word_of_an_identity_gives_it_back(word):
    assert frames_word(frames_identity(ExtractConfig(frames=word))) == word


def test_the_last_frame_is_shown_until_the_video_says():
    assert uniform_frames([0, 10], None, 2, 40) == [1, 1]  # centres 10, 30
    assert uniform_frames([0, 10], None, 2) == [0, 1]  # centres 5, 15
    assert uniform_frames([5], None, 2) == [0, 0]
    assert nearest_frames([0, 10], [Fraction(40)], 40) == [1]
    with pytest.raises(ValueError, match="0"):
        nearest_frames([0, 10], [Fraction(41)], 40)


def test_a_time_is_at_most_a_step_before_the_first_frame_and_of_two_takes_the_earlier():
    assert nearest_frames([20, 30], [Fraction(10), Fraction(25), Fraction(40)]) == [0, 0, 1]
    assert nearest_frames([5], [Fraction(6)]) == [0]
    with pytest.raises(ValueError, match=r"^0$"):
        nearest_frames([5], [Fraction(13, 2)])
    for wrong in (Fraction(99, 10), Fraction(401, 10)):
        with pytest.raises(ValueError, match=r"^1$"):
            nearest_frames([20, 30], [Fraction(20), wrong])


def test_a_scene_is_its_frame_at_the_centre_or_the_middles_of_its_parts():
    ticks = [0, 10, 20, 30]
    assert scene_frames(ticks, (5, 25, 9), 1) == [1], "never the frame before the scene"
    assert scene_frames(ticks, (10, 30, 20), 1) == [2]
    assert scene_frames(ticks, (10, 30, 20), 2) == [1, 2]
    assert scene_frames(ticks, (20, 60, 40), 2, 60) == [3, 3]  # centres 30, 50
    assert scene_frames(ticks, (20, 60, 40), 2) == [2, 3]  # ends at 40: centres 25, 35
    assert scene_frames(ticks, (11, 20, 15), 3) == []
    # the frame at 20 is shown until 90: centres 30, 70
    assert scene_frames([0, 10, 20, 90], (10, 90, 50), 2) == [2, 2]


def test_the_step_is_the_median_and_the_end_a_step_later_or_what_the_video_says():
    times = np.array([0.0, 1.0, 2.0, 9.0])
    assert step_and_end(times) == (1.0, 10.0)
    assert step_and_end(times, 12.0) == (1.0, 12.0)
    assert step_and_end(times, 9.5) == (1.0, 10.0)
    assert step_and_end(times[:1]) == (0.0, 0.0)
    assert step_and_end(times[:1], 3.0) == (3.0, 3.0)
    assert missing_end(None, times) is None
    assert missing_end(11.5, times) is None
    assert missing_end(11.6, times) == 10.0
    for stop, missing in ((0.1, None), (0.11, 0.0)):
        assert missing_end(stop, times[:1]) == missing


def test_scenes_of_a_clip_are_those_of_which_a_part_lies_in_it():
    scenes = tuple(Scene(start, start + 2.0, start + 1.0, 9) for start in (0.0, 2.0, 4.0))
    listed = SceneList({"a.mp4": scenes})
    for start, stop, wanted in (
        (None, None, scenes),
        (2.0, 4.0, scenes[1:2]),
        (1.9, 4.1, scenes),
        (None, 2.0, scenes[:1]),
        (4.0, None, scenes[2:]),
    ):
        assert scenes_of(listed, Clip("c", "a.mp4", start, stop)) == wanted
    assert scenes_of(listed, Clip("c", "b.mp4")) == ()


def test_a_list_counts_what_it_has_of_a_clip_and_has_all_where_nothing_is_listed(tmp_path):
    listed = FrameList(write(tmp_path, "video,time_seconds\na.mp4,1\na.mp4,2\n"))
    first, later = Clip("a", "a.mp4"), Clip("b", "a.mp4", 3.0, 4.0)
    assert listed.videos == {"a.mp4"}
    assert [(listed.count(clip), listed.has(clip)) for clip in (first, later)] == [
        (2, True),
        (0, False),
    ]
    every = FrameList(ExtractConfig())
    assert (every.videos, every.count(later), every.has(later)) == (None, None, True)


def test_an_identity_names_the_policy_and_the_word_gives_it_back():
    assert frames_identity(ExtractConfig()) == {"policy": "all"}
    assert frames_identity(ExtractConfig(fps=5)) == {"policy": "fps", "fps": 5.0}
    assert frames_identity(ExtractConfig(frames="uniform:3")) == {"policy": "uniform", "count": 3}
    assert [frames_word({"policy": name}, "F") for name in ("listed", "scenes", "all")] == [
        "listed:F",
        "scenes:F",
        "all",
    ]
