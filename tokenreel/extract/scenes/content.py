"""Scenes by ContentDetector of PySceneDetect, fed with the frames of this package's decoder."""

from collections.abc import Iterable
from typing import Any

from tokenreel.extract.scenes.cutter import missing_package
from tokenreel.extract.video.types import DecodedFrame

FRAME_RATE = 25.0  # which PySceneDetect wants; lengths are counted in frames


class Content:
    """A scene begins where hue, saturation and lightness change, as PySceneDetect measures it.

    Frames are made smaller as its SceneManager does.  See PySceneDetect's `detect-content`.
    """

    packages: tuple[str, ...] = ("av", "numpy", "scenedetect", "opencv-python")

    def __init__(
        self, *, threshold: float | None, min_frames: int | None, window: int | None
    ) -> None:
        try:
            import cv2
            from scenedetect.common import FrameTimecode
            from scenedetect.detectors import ContentDetector
            from scenedetect.scene_manager import compute_downscale_factor
        except ImportError as error:
            raise missing_package("content", error) from error
        self._threshold = 27.0 if threshold is None else threshold
        self._min_frames = 15 if min_frames is None else min_frames
        self._cv2, self._timecode, self._factor = cv2, FrameTimecode, compute_downscale_factor
        self._detector = ContentDetector(self._threshold, min_scene_len=self._min_frames)
        self._number = -1

    @property
    def parameters(self) -> dict[str, Any]:
        """See Cutter."""
        return {"threshold": self._threshold, "min_frames": self._min_frames}

    def add(self, frame: DecodedFrame) -> Iterable[int]:
        """See Cutter."""
        self._number += 1
        image = self._cv2.cvtColor(frame.pixels, self._cv2.COLOR_RGB2BGR)
        height, width = frame.size
        factor = self._factor(width)
        if factor > 1:
            small = max(1, round(width / factor)), max(1, round(height / factor))
            image = self._cv2.resize(image, small, interpolation=self._cv2.INTER_LINEAR)
        time = self._timecode(self._number, fps=FRAME_RATE)
        return [int(cut.frame_num) for cut in self._detector.process_frame(time, image)]

    def end(self) -> Iterable[int]:
        """See Cutter."""
        time = self._timecode(max(self._number, 0), fps=FRAME_RATE)
        return [int(cut.frame_num) for cut in self._detector.post_process(time)]
