"""The RGB pixels of a frame of PyAV.

A frame's own `to_ndarray` makes a converter, and its threads, for every frame: three quarters of
its time at 320x180.  Here one converter serves all frames of a thread; two threads share none.
"""

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

_of_thread = threading.local()


def rgb_of(frame: Any) -> NDArray[np.uint8]:
    """The coded picture of a frame as RGB, uint8 (H, W, 3), byte for byte as `to_ndarray` gives it.

    Raises:
        ValueError: FFmpeg cannot convert its pixel format.
    """
    converter = getattr(_of_thread, "converter", None)
    if converter is None:
        from av.video.reformatter import VideoReformatter

        converter = _of_thread.converter = VideoReformatter()
    return np.asarray(converter.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)
