"""Decoding: exact frames by time, and a stated reason for every file that is not whole."""

import gc
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tokenreel.extract.video.decode import FrameSelector, decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.types import VideoError

SIZE = 64


def barcode(number: int) -> np.ndarray:
    """A frame that carries its number: eight bars, one for each bit."""
    bits = [(number >> bit) & 1 for bit in range(8)]
    row = np.repeat(np.array(bits, np.uint8) * 255, SIZE // 8)
    return np.repeat(np.repeat(row[None, :, None], SIZE, 0), 3, 2)


def read_barcode(pixels: np.ndarray) -> int:
    columns = pixels[SIZE // 2, SIZE // 16 :: SIZE // 8, 1] > 127
    return int(sum(1 << bit for bit, on in enumerate(columns) if on))


def write_video(path: Path, times: list[int], *, start: int = 0) -> Path:
    """H.264 with one frame at each time, in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "bf": "2"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = time + start, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def vfr(tmp_path):
    times = [0, 40, 80, 200, 240, 280, 500, 540, 580, 620]
    return write_video(tmp_path / "a video, n\u00famero 1.mp4", times), times


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_every_frame_has_its_pixels_and_its_time(vfr, decoder):
    path, times = vfr
    frames = list(decode(path, decoder=decoder))
    assert [read_barcode(frame.pixels) for frame in frames] == list(range(len(times)))
    base = probe(path).time_base
    assert [round(float(f.ticks * base) * 1000) for f in frames] == times
    assert [frame.index for frame in frames] == list(range(len(times)))


def test_reading_stops_before_the_frame_at_the_end_of_the_clip(vfr):
    assert len(list(decode(vfr[0], until_seconds=0.24))) == 4


def test_a_single_frame_is_refused(tmp_path):
    path = write_video(tmp_path / "one.mp4", [0])
    with pytest.raises(VideoError, match="only one frame"):
        list(decode(path))


def test_a_truncated_file_is_refused_whatever_was_decoded(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", list(range(0, 8000, 40)))
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=r"ended prematurely|Invalid data|corrupt"):
        list(decode(whole))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: p.touch(), "empty"),
        (lambda p: p.mkdir(), "directory"),
        (os.mkfifo, "not a regular file"),
        (lambda p: p.write_text("hello"), "Invalid data"),
        (lambda p: None, "no such file"),
    ],
    ids=["empty", "directory", "fifo", "text", "missing"],
)
def test_file_that_is_no_video_is_refused_with_its_reason(tmp_path, make, reason):
    path = tmp_path / "x.mp4"
    make(path)
    with pytest.raises(VideoError, match=reason) as caught:
        probe(path)
    assert caught.value.stage == "open"


def test_fps_keeps_the_first_frame_of_each_slot_and_repeats_none():
    select = FrameSelector(Fraction(1, 30), fps=25)
    kept = [tick for tick in range(12) if select.keeps(tick)]
    assert kept == [0, 1, 2, 3, 5, 6, 7, 8, 9, 11]
    slow = FrameSelector(Fraction(1, 10), fps=25)
    assert all(slow.keeps(tick) for tick in range(10))


def test_a_clip_keeps_frames_from_its_start_up_to_but_not_at_its_stop():
    select = FrameSelector(Fraction(1, 10), start_seconds=0.2, stop_seconds=0.5)
    assert [tick for tick in range(8) if select.keeps(tick)] == [2, 3, 4]


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_frames_leave_memory_without_the_garbage_collector(tmp_path, decoder):
    write_video(tmp_path / "v.mp4", [40 * number for number in range(60)])
    gc.collect()
    gc.disable()
    try:
        for frame in decode(tmp_path / "v.mp4", decoder=decoder):
            assert frame.pixels.shape == (SIZE, SIZE, 3)
        held = sum(type(each).__name__ == "VideoFrame" for each in gc.get_objects())
    finally:
        gc.enable()
    assert held < 10
