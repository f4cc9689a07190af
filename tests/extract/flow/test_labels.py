"""Labels by time."""

import numpy as np
import pytest

from tokenreel.cache.errors import ClipFailed
from tokenreel.cache.manifest import Clip, LabelSpan
from tokenreel.extract.flow.labels import check_reach, frame_labels

TIMES = np.arange(10) / 10


def test_a_frame_has_the_phase_whose_span_holds_its_time():
    spans = (LabelSpan(0.1, 0.3, 0), LabelSpan(0.3, 0.55, 2))
    labels = frame_labels(Clip("a", "a.mp4", spans=spans), TIMES)
    assert labels.tolist() == [-1, 0, 0, 2, 2, 2, -1, -1, -1, -1]
    assert labels.dtype == np.int16


def test_a_span_beyond_the_end_names_file_line_and_value():
    clip = Clip("a", "a.mp4", spans=(LabelSpan(0.5, 7.25, 0, where="labels.csv:12"),))
    with pytest.raises(ClipFailed, match=r"labels.csv:12: stop_seconds 7.25 .* 1.000 s"):
        frame_labels(clip, TIMES)


@pytest.mark.parametrize(("stop", "fits"), [(1.0, True), (1.14, True), (1.16, False)])
def test_a_span_may_end_a_step_and_a_half_after_the_last_frame(stop, fits):
    """As annotations round; frames that are sampled say nothing of the end."""
    clip = Clip("a", "a.mp4", spans=(LabelSpan(0.5, stop, 3),))
    wanted = [-1] * 5 + [3] * 5
    assert frame_labels(clip, TIMES, is_sampled=True).tolist() == wanted
    if fits:
        assert frame_labels(clip, TIMES).tolist() == wanted
    else:
        with pytest.raises(ClipFailed, match="is beyond the end"):
            frame_labels(clip, TIMES)
    later = Clip("a", "a.mp4", spans=(LabelSpan(0.5, 4.0, 3),))
    assert frame_labels(later, TIMES, shown_until=4.0).tolist() == wanted


def test_a_time_that_is_rounded_by_a_millionth_is_in_its_span_and_no_further():
    clip = Clip("a", "a.mp4", spans=(LabelSpan(0.2000005, 0.5000005, 1),))
    assert frame_labels(clip, TIMES).tolist() == [-1, -1, 1, 1, 1] + [-1] * 5
    off = Clip("a", "a.mp4", spans=(LabelSpan(0.2001, 0.5001, 1),))
    assert frame_labels(off, TIMES).tolist() == [-1, -1, -1, 1, 1, 1] + [-1] * 4


def test_number_of_frame_labels_must_equal_the_number_of_frames():
    assert frame_labels(Clip("a", "a", frame_labels=(3,) * 10), TIMES).tolist() == [3] * 10
    for count in (9, 11):
        with pytest.raises(ClipFailed, match=f"{count} labels for 10 frames"):
            frame_labels(Clip("a", "a", frame_labels=(3,) * count), TIMES)


def test_a_clip_that_stops_after_its_video_is_refused():
    check_reach(Clip("a", "a.mp4", stop_seconds=1.05), TIMES)
    with pytest.raises(ClipFailed, match=r"stops at 1\.5 s"):
        check_reach(Clip("a", "a.mp4", stop_seconds=1.5), TIMES)
    check_reach(Clip("a", "a.mp4", stop_seconds=4.0), TIMES, 4.0)
