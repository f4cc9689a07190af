"""Windows of F consecutive frames that a backbone sees at once, and the R rows that each gives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.format.layout import SEGMENT, default_stops

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WindowRows:
    """Rows of a clip in time.

    Attributes:
        pts: start of each, (T,) ticks.
        stop_pts: end of each, (T,) ticks, or None for frames that last until the next one.
        index: of the frame of the video at the start of each, (T,).
        middle_pts: (T,) ticks at which a row is labelled; for a frame its start.
    """

    pts: Ints
    stop_pts: Ints | None
    index: Ints
    middle_pts: NDArray[np.float64]

    def stops(self) -> Ints:
        """End of each, (T,) ticks."""
        return default_stops(self.pts) if self.stop_pts is None else self.stop_pts


@dataclass(frozen=True, slots=True)
class Windows:
    """Sizes of windows.

    Attributes:
        frames: F of a window.
        rows: R of a window.
    """

    frames: int = 1
    rows: int = 1

    def rows_of(self, num_frames: int) -> int:
        """Rows of the whole windows among some frames.

        >>> Windows(12, 3).rows_of(30), Windows().rows_of(30)
        (6, 30)
        """
        return num_frames // self.frames * self.rows

    def frames_of(self, num_rows: int) -> int:
        """Frames of the whole windows among some rows.

        >>> Windows(12, 3).frames_of(7)
        24
        """
        return num_rows // self.rows * self.frames

    def room(self, num_frames: int) -> int:
        """Frames that complete the open segment of rows, 0 where none is open.

        >>> Windows().room(70), Windows().room(64), Windows(2, 1).room(6), Windows(4, 3).room(84)
        (58, 0, 122, 4)
        """
        missing = -self.rows_of(num_frames) % SEGMENT
        return -(-missing // self.rows) * self.frames

    def in_time(self, pts: Ints, index: Ints, end: int | None = None) -> WindowRows:
        """The rows of frames that are kept, whole windows.

        A window lasts from its first frame to the next window's, the last one to the end of its
        last frame; its rows part that time evenly.

        Args:
            pts: of each frame, ascending, (W F,) ticks.
            index: of each in the video.
            end: tick until which the last frame is shown, where that is longer than one more step
                (by more than half a step); None: one more step, as in rules 1.
        """
        distinct, place = np.unique(pts, return_inverse=True)
        last_stops = _stops(distinct, end)
        if self.frames == self.rows == 1:
            is_default = np.array_equal(last_stops[place], default_stops(pts))
            stops = None if is_default else last_stops[place]
            return WindowRows(pts, stops, index, pts.astype(np.float64))
        starts = pts[:: self.frames]
        bounds, place = np.unique(starts, return_inverse=True)
        after = max(int(last_stops[-1]), int(bounds[-1]) + 1)
        length = np.append(bounds[1:], after)[place] - starts
        parts = np.arange(self.rows)
        first = (starts[:, None] + length[:, None] * parts // self.rows).ravel()
        stop = (starts[:, None] + length[:, None] * (parts + 1) // self.rows).ravel()
        frame = np.arange(len(starts))[:, None] * self.frames + parts * self.frames // self.rows
        stop = np.maximum(stop, first + 1)  # more rows than ticks
        return WindowRows(first, stop, index[frame.ravel()], (first + stop) / 2)

    def of_units(self, units: Sequence[tuple[int, int]], index: Ints) -> WindowRows:
        """The rows of units with a start and a stop of their own, a window of frames each.

        Args:
            units: start and stop of each, (T, 2) ticks.
            index: of each frame in the video, (T F,).
        """
        starts, stops = np.array(units, np.int64).reshape(-1, 2).T
        return WindowRows(starts, stops, index[:: self.frames], (starts + stops) / 2)


def _stops(pts: Ints, end: int | None) -> Ints:
    """When frames with distinct times end; `end` is that of the last where it lasts longer."""
    stops: Ints = default_stops(pts)
    step = int(pts[-1] - pts[-2]) if len(pts) > 1 else 0
    if end is not None and end > stops[-1] + step / 2:
        stops[-1] = end
    return stops
