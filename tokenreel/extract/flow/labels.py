"""Phase labels by time -> one label for each frame of a clip."""

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import ClipFailed
from tokenreel.cache.manifest import UNLABELLED, Clip

TOLERATED_STEPS = 1.5  # a span may end this many frames after the end of the last one
ROUNDING_SECONDS = 1e-6  # rounding of float64 and of decimals in annotation files
TOLERATED_SECONDS = 0.1  # rounding of annotations


def frame_labels(clip: Clip, times_seconds: NDArray[np.float64]) -> NDArray[np.int16]:
    """Label each frame with the phase whose span [start, stop) contains its time.

    Args:
        clip: has spans by time, or one label for each frame.
        times_seconds: presentation time of the T frames, float64 (T,), ascending.

    Returns:
        int16 (T,); UNLABELLED (-1) outside all spans.

    Raises:
        ClipFailed: stage "labels": a span ends after the last frame, or the number of labels is
            not the number of frames; names the file and line of the span.
    """
    num_frames = len(times_seconds)
    if clip.frame_labels is not None:
        if len(clip.frame_labels) != num_frames:
            raise ClipFailed(
                clip.clip_id,
                stage="labels",
                reason=f"{len(clip.frame_labels)} labels for {num_frames} frames",
            )
        return np.array(clip.frame_labels, np.int16)
    labels = np.full(num_frames, UNLABELLED, np.int16)
    step = float(np.median(np.diff(times_seconds))) if num_frames > 1 else 0.0
    end_seconds = float(times_seconds[-1]) + step
    for span in clip.spans:
        if span.stop_seconds > end_seconds + TOLERATED_STEPS * step:
            raise ClipFailed(
                clip.clip_id,
                stage="labels",
                reason=f"{span.where or 'a span'}: stop_seconds {span.stop_seconds:g} is beyond "
                f"the end of {clip.video} at {end_seconds:.3f} s",
            )
        after = times_seconds >= span.start_seconds - ROUNDING_SECONDS
        inside = after & (times_seconds < span.stop_seconds - ROUNDING_SECONDS)
        labels[inside] = span.phase
    return labels


def check_reach(clip: Clip, times_seconds: NDArray[np.float64]) -> None:
    """Raise unless the video lasts until the clip's stop.

    Raises:
        ClipFailed: stage "decode".
    """
    if clip.stop_seconds is None:
        return
    step = float(np.median(np.diff(times_seconds))) if len(times_seconds) > 1 else 0.0
    end_seconds = float(times_seconds[-1]) + step
    if end_seconds < clip.stop_seconds - max(TOLERATED_STEPS * step, TOLERATED_SECONDS):
        raise ClipFailed(
            clip.clip_id,
            stage="decode",
            reason=f"the clip stops at {clip.stop_seconds:g} s, "
            f"its frames in {clip.video} end at {end_seconds:.3f} s",
        )
