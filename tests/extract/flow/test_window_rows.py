"""Rows of windows in time, by hand."""

import numpy as np
import pytest

from tokenreel.extract.flow.windows import Windows


def rows_of(windows, pts, index=None, end=None):
    index = range(len(pts)) if index is None else index
    found = windows.in_time(np.array(pts, np.int64), np.array(index, np.int64), end)
    return (
        found.pts.tolist(),
        found.stops().tolist(),
        found.index.tolist(),
        found.middle_pts.tolist(),
    )


def test_frames_last_until_the_next_one():
    assert rows_of(Windows(), [0, 2, 6], [4, 5, 9]) == ([0, 2, 6], [2, 6, 10], [4, 5, 9], [0, 2, 6])
    plain = Windows().in_time(np.array([0, 2, 6]), np.arange(3))
    assert plain.stop_pts is None  # not written: it is what a reader takes


@pytest.mark.parametrize(
    ("end", "stop"),
    [(10, 10), (11, 10), (12, 10), (13, 13), (30, 30), (7, 10), (None, 10)],
)
def test_the_last_frame_lasts_longer_where_it_does_by_more_than_half_a_step(end, stop):
    assert rows_of(Windows(), [0, 2, 6], end=end)[1] == [2, 6, stop]


@pytest.mark.parametrize(("end", "stop"), [(None, 6), (5, 6), (6, 6), (7, 7), (25, 25)])
def test_the_only_frame_lasts_until_the_end_of_its_stream(end, stop):
    assert rows_of(Windows(), [5], end=end)[1] == [stop]


def test_frames_of_one_time_end_together():
    assert rows_of(Windows(), [0, 3, 3, 6])[1] == [3, 6, 6, 9]


def test_rows_part_the_time_of_their_window():
    windows = Windows(frames=4, rows=2)
    pts = [0, 10, 20, 30, 40, 50, 60, 70]
    found = rows_of(windows, pts, range(100, 108))
    assert found == ([0, 20, 40, 60], [20, 40, 60, 80], [100, 102, 104, 106], [10, 30, 50, 70])
    # a last frame that lasts longer stretches the last window alone
    assert rows_of(windows, pts, end=100)[1] == [20, 40, 70, 100]
    # one row of two frames: of the first
    assert rows_of(Windows(2, 1), pts[:4], [7, 8, 9, 11])[2] == [7, 9]


def test_more_rows_than_ticks_have_a_tick_each():
    starts, stops, index, _ = rows_of(Windows(frames=1, rows=4), [0, 2])
    assert starts == [0, 0, 1, 1, 2, 2, 3, 3]
    assert stops == [1, 1, 2, 2, 3, 3, 4, 4]
    assert index == [0, 0, 0, 0, 1, 1, 1, 1]


def test_a_window_of_frames_at_one_time_lasts_a_tick():
    assert rows_of(Windows(2, 1), [0, 4, 8, 8])[1] == [8, 12]
    assert rows_of(Windows(2, 1), [8, 8])[:2] == ([8], [9])


def test_units_have_their_own_time_and_a_window_of_frames_each():
    found = Windows(3, 1).of_units([(0, 10), (10, 15)], np.arange(20, 26))
    assert found.stops().tolist() == [10, 15]
    assert found.index.tolist() == [20, 23]
    assert found.middle_pts.tolist() == [5.0, 12.5]


def test_counts_are_of_whole_windows():
    windows = Windows(frames=4, rows=3)
    assert [windows.rows_of(frames) for frames in (0, 3, 4, 7, 8)] == [0, 0, 3, 3, 6]
    assert [windows.frames_of(rows) for rows in (0, 2, 3, 5, 6)] == [0, 0, 4, 4, 8]
    assert [Windows().room(frames) for frames in (0, 1, 64, 70)] == [0, 63, 0, 58]
    assert windows.room(84) == 4  # 63 rows: one more window completes 64
