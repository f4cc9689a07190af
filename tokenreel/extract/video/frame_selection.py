"""Which frames of a video a clip keeps, by their times in exact fractions."""

import math
from fractions import Fraction

__all__ = ["FrameSelector", "exact"]


class FrameSelector:
    """Which frames of a video a clip keeps: those in [start, stop), at most fps a second.

    With fps, time is cut into slots of 1 / fps seconds centred on multiples of 1 / fps since the
    clip's first frame; each slot keeps its first frame and no frame fills two slots, so a slower
    video keeps all its frames and nothing is repeated.
    """

    def __init__(
        self,
        time_base: Fraction,
        *,
        start_seconds: float | None = None,
        stop_seconds: float | None = None,
        fps: float | None = None,
    ) -> None:
        self._start = None if start_seconds is None else exact(start_seconds) / time_base
        self._stop = None if stop_seconds is None else exact(stop_seconds) / time_base
        per_second = None if fps is None else Fraction(fps).limit_denominator(10_000)
        self._slots_per_tick = None if per_second is None else per_second * time_base
        self._first_ticks: int | None = None
        self._last_slot = -1

    def is_past(self, ticks: int) -> bool:
        """Whether the clip ends at or before this time."""
        return self._stop is not None and ticks >= self._stop

    def keeps(self, ticks: int) -> bool:
        """Whether the clip keeps the frame at this time; call once for each frame, in order."""
        if self.is_past(ticks) or (self._start is not None and ticks < self._start):
            return False
        if self._slots_per_tick is None:
            return True
        if self._first_ticks is None:
            self._first_ticks = ticks
        slot = math.floor((ticks - self._first_ticks) * self._slots_per_tick + Fraction(1, 2))
        if slot <= self._last_slot:
            return False
        self._last_slot = slot
        return True


def exact(seconds: float) -> Fraction:
    """The fraction that a decimal of an annotation means, to 10 microseconds.

    >>> exact(0.2), exact(2 / 3)
    (Fraction(1, 5), Fraction(2, 3))
    """
    return Fraction(seconds).limit_denominator(100_000)
