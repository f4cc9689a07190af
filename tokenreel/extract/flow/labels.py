"""Phase labels by time -> one label for each frame of a clip."""

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import ClipFailed
from tokenreel.cache.manifest import UNLABELLED, Clip
from tokenreel.extract.frame_policy import TOLERATED_STEPS, missing_end, step_and_end

ROUNDING_SECONDS = 1e-6  # rounding of float64 and of decimals in annotation files


def frame_labels(
    clip: Clip,
    times_seconds: NDArray[np.float64],
    *,
    is_sampled: bool = False,
    shown_until: float | None = None,
) -> NDArray[np.int16]:
    """Label each frame with the phase whose span [start, stop) contains its time.

    Args:
        clip: has spans by time, or one label for each frame.
        times_seconds: presentation time of the T frames, float64 (T,), ascending.
        is_sampled: whether the frames say nothing about the end of the video.
        shown_until: seconds until which the last frame is shown; None: by rules 1.

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
    step, end_seconds = step_and_end(times_seconds, shown_until)
    for span in clip.spans:
        if not is_sampled and span.stop_seconds > end_seconds + TOLERATED_STEPS * step:
            raise ClipFailed(
                clip.clip_id,
                stage="labels",
                reason=f"{span.where or 'a span'}: stop_seconds {span.stop_seconds:g} is beyond "
                f"the end of {clip.video} at {end_seconds:.3f} s",
            )
        after = times_seconds >= span.start_seconds - ROUNDING_SECONDS
        labels[after & (times_seconds < span.stop_seconds - ROUNDING_SECONDS)] = span.phase
    return labels


def check_reach(
    clip: Clip, times_seconds: NDArray[np.float64], shown_until: float | None = None
) -> None:
    """Raise unless the video lasts until the clip's stop; arguments as in frame_labels.

    Raises:
        ClipFailed: stage "decode".
    """
    end_seconds = missing_end(clip.stop_seconds, times_seconds, shown_until)
    if end_seconds is not None:
        raise ClipFailed(
            clip.clip_id,
            stage="decode",
            reason=f"the clip stops at {clip.stop_seconds:g} s, "
            f"its frames in {clip.video} end at {end_seconds:.3f} s",
        )
