"""What a method of finding scenes is, and the one that needs no other package: running mean."""

import math
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import UsageError
from tokenreel.extract.video.types import DecodedFrame


class Cutter(Protocol):
    """Finds where scenes of one video begin, with memory that does not grow with its length.

    Attributes:
        packages: whose versions the scenes depend on.
    """

    packages: tuple[str, ...]

    def __init__(
        self, *, threshold: float | None, min_frames: int | None, window: int | None
    ) -> None: ...

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that decides the scenes, JSON values."""

    def add(self, frame: DecodedFrame) -> Iterable[int]:
        """Take the next frame.

        Returns:
            Numbers of frames, from 0, at which a scene begins and that are known by now, ascending.
        """

    def end(self) -> Iterable[int]:
        """The numbers that are known only at the end of the video."""


def missing_package(method: str, error: ImportError) -> UsageError:
    """The error for a method whose package is not installed."""
    return UsageError(
        f"method={method} needs {error.name or 'a package'}, which is not installed: pip install "
        "'tokenreel[scenes]'"
    )


class RunningMean:
    """A scene begins where the mean colour jumps away from its running mean.

    The running mean is that of R, G and B over the last `window` frames of the scene; the jump is
    their Euclidean distance.
    """

    packages: tuple[str, ...] = ("av", "numpy")

    def __init__(
        self, *, threshold: float | None, min_frames: int | None, window: int | None
    ) -> None:
        self.threshold = 18.5 if threshold is None else threshold
        self.min_frames = 12 if min_frames is None else min_frames
        self.window = 3 if window is None else window
        self._recent: deque[list[float]] = deque(maxlen=self.window)
        self._number = -1
        self._start = 0

    @property
    def parameters(self) -> dict[str, Any]:
        """See Cutter."""
        return {
            "threshold": self.threshold,
            "min_frames": self.min_frames,
            "window": self.window,
            "distance": "l2",
        }

    @property
    def running(self) -> NDArray[np.float64] | None:
        """The running mean of R, G and B, (3,); None before the first frame."""
        return np.array(self._running()) if self._recent else None

    def add(self, frame: DecodedFrame) -> Iterable[int]:
        """See Cutter."""
        return self.add_mean(frame.mean_rgb)

    def add_mean(self, mean: NDArray[np.float64]) -> Iterable[int]:
        """As add, for a frame of that mean colour, (3,) in [0, 255]."""
        self._number += 1
        colour = mean.tolist()  # an array of three takes five times as long
        is_long = self._number - self._start >= self.min_frames
        is_cut = is_long and self._distance(colour) > self.threshold
        if is_cut:
            self._start = self._number
            self._recent.clear()
        self._recent.append(colour)
        return (self._number,) if is_cut else ()

    def _distance(self, colour: list[float]) -> float:
        """Euclidean distance of a colour from the running mean; zero before the first frame."""
        if not self._recent:
            return 0.0
        r, g, b = (of - mean for of, mean in zip(colour, self._running(), strict=True))
        return math.sqrt(r * r + g * g + b * b)

    def _running(self) -> tuple[float, float, float]:
        r = g = b = 0.0  # not with sum(), which rounds otherwise from Python 3.12 on
        for red, green, blue in self._recent:
            r, g, b = r + red, g + green, b + blue
        count = len(self._recent)
        return r / count, g / count, b / count

    def end(self) -> Iterable[int]:
        """See Cutter."""
        return ()
