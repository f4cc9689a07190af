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


def test_number_of_frame_labels_must_equal_the_number_of_frames():
    assert frame_labels(Clip("a", "a", frame_labels=(3,) * 10), TIMES).tolist() == [3] * 10
    with pytest.raises(ClipFailed, match="9 labels for 10 frames"):
        frame_labels(Clip("a", "a", frame_labels=(3,) * 9), TIMES)


def test_a_clip_that_stops_after_its_video_is_refused():
    check_reach(Clip("a", "a.mp4", stop_seconds=1.05), TIMES)
    with pytest.raises(ClipFailed, match=r"stops at 1\.5 s"):
        check_reach(Clip("a", "a.mp4", stop_seconds=1.5), TIMES)
