"""Time of a video: one model, for decoders, clip ranges, labels, plan and show.

A frame is shown from its time to the next frame's; the last is shown until the stream ends.

- A frame's time is the container's.  In AVI, which has no times, it is the slot of the frame's
  chunk: a chunk without bytes holds its slot, and the frame before it stays.
- Frames whose time stamps repeat keep their order, as do up to 64 frames without a time after
  one that has it, as of several in a packet.  They are spread from that time on by the stream's
  step (one over its mean rate), or evenly up to the next time where that is sooner; each
  frame that moves is counted.  More than 16 frames of one time, or times that run backwards, are
  damage.
- The stream ends where the last frame's own duration says; where the frames of an intact file end
  earlier than its header says, at the header's end.  An end within half a step of one more step
  is that step: containers round.
- A clip [start, stop) has the frames whose time lies in it; the last of them is shown until the
  next frame of the video or until the clip's stop, whichever is first.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

from tokenreel.extract.video.types import DecodedFrame, VideoError, VideoInfo

MOST_STANDING = 16  # frames of one time stamp
MOST_UNTIMED = 64  # likewise, with those that have none

StreamEnd = Callable[[DecodedFrame | None, DecodedFrame | None, int | None], tuple[int, bool]]


def frames_in_time(
    frames: Iterator[DecodedFrame],
    info: VideoInfo,
    stream_end: StreamEnd,
    *,
    until_ticks: Fraction | None = None,
) -> Iterator[DecodedFrame]:
    """Frames with the time at which each appears and stops being shown.

    Args:
        frames: in order, with the container's times; `stop` is time plus the frame's own duration.
        info: header of the video.
        stream_end: called at the end with the first and last frame and the ticks between the last
            two; returns the tick at which the stream ends, and whether rules 1 end it there too.
        until_ticks: the first frame at or after this time is the last that is yielded.

    Raises:
        VideoError: times that run backwards, or stand still for too long; what stream_end raises.
    """
    step = None if not info.rate else 1 / info.rate / info.time_base
    first: DecodedFrame | None = None
    last_step: int | None = None
    held: list[DecodedFrame] = []
    for frame in frames:
        first = first or frame
        if held and frame.ticks < held[0].ticks:
            at, before = (float(f.ticks * info.time_base) for f in (frame, held[0]))
            raise VideoError(
                f"time does not advance: frame {frame.index} is at {at:.3f} s, "
                f"the one before it at {before:.3f} s",
                frame=frame.index,
            )
        if held and frame.ticks == held[0].ticks:
            held.append(frame)
            if len(held) > MOST_UNTIMED:
                raise VideoError(
                    f"{len(held) - 1} frames from frame {held[1].index} on have no time of their "
                    "own: convert the video",
                    frame=frame.index,
                )
            if sum(not one.is_moved for one in held) > MOST_STANDING:
                raise VideoError(
                    f"time stands still: frames {held[0].index} to {frame.index} are at "
                    f"{float(frame.ticks * info.time_base):.3f} s",
                    frame=frame.index,
                )
            continue
        if held:
            spread = _spread(held, frame.ticks, step or last_step, info)
            last_step = frame.ticks - spread[-1].ticks
            yield from spread
        held = [frame]
        if until_ticks is not None and frame.ticks >= until_ticks:
            yield frame
            return
    if not held:
        stream_end(None, None, None)
        return
    *spread, last = _spread(held, None, step or last_step, info)
    if spread:
        last_step = last.ticks - spread[-1].ticks
    yield from spread
    end, is_old = stream_end(first, last, last_step)
    yield replace(last, stop=end, rules=last.rules if is_old else 2)


def _spread(
    held: list[DecodedFrame], after: int | None, step: Fraction | int | None, info: VideoInfo
) -> list[DecodedFrame]:
    """Frames of one time stamp, each with its time and its end."""
    if len(held) == 1:
        return held if after is None else [held[0].shown_until(after)]
    start, count = held[0].ticks, len(held)
    if after is None:
        each = Fraction(step or 1)
    else:
        evenly = Fraction(after - start, count)
        each = min(Fraction(step or evenly), evenly)
    if each < 1:
        raise VideoError(
            f"time stands still: {count} frames from frame {held[0].index} on are at "
            f"{float(start * info.time_base):.3f} s, the next {float((after or start) - start):g} "
            "tick later, which leaves them no time",
            frame=held[0].index,
        )
    times = [start + round(each * place) for place in range(count)]
    stops = [*times[1:], after]
    return [
        replace(frame, ticks=time, stop=stop, is_moved=time != start, rules=2)
        for frame, time, stop in zip(held, times, stops, strict=True)
    ]
