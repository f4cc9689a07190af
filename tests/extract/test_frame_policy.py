"""Which frames a policy keeps, and the lists of times that people write."""

from fractions import Fraction

import numpy as np
import pytest
from pydantic import ValidationError

from tokenreel.cache.errors import UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.frame_policy import (
    check_list,
    frames_identity,
    frames_word,
    listed_times,
    missing_end,
    nearest_frames,
    times_of,
    uniform_frames,
)


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
