"""Pixels of a frame of PyAV are those of its own conversion, whatever was converted before."""

import threading
from fractions import Fraction

import av
import numpy as np
import pytest

from tokenreel.extract.video.rgb import rgb_of


def frames_of(form, height, width, *, color_range=1, colorspace=5, count=4):
    """Frames of PyAV of random pixels."""
    random = np.random.default_rng([height, width])
    for number in range(count):
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=form)
        frame.color_range, frame.colorspace = color_range, colorspace
        frame.pts, frame.time_base = number, Fraction(1, 25)
        yield frame


KINDS = [
    ("yuv420p", 90, 160, 1, 5),
    ("yuv420p", 90, 160, 2, 5),  # full range
    ("yuv420p", 90, 160, 1, 1),  # BT.709
    ("yuv420p", 91, 159, 1, 5),  # odd sides
    ("yuvj420p", 90, 160, 2, 5),
    ("yuv422p", 64, 66, 1, 2),
    ("yuv444p10le", 64, 66, 1, 9),
    ("nv12", 48, 64, 1, 1),
    ("gray", 33, 40, 1, 2),
    ("bgra", 33, 40, 2, 2),
    ("rgb24", 33, 40, 2, 2),
]


def test_frames_of_many_videos_in_turn_are_converted_as_each_converts_itself():
    videos = [
        frames_of(form, height, width, color_range=limits, colorspace=matrix)
        for form, height, width, limits, matrix in KINDS
    ]
    pictures = set()
    for frames in zip(*videos, strict=True):
        for frame, kind in zip(frames, KINDS, strict=True):
            expected = frame.to_ndarray(format="rgb24")
            np.testing.assert_array_equal(rgb_of(frame), expected, err_msg=str(kind))
            pictures.add(expected.tobytes())
    assert len(pictures) == 4 * (len(KINDS) - 1)  # both ways to say full range are one


def test_a_converted_picture_stays_while_others_are_converted():
    first, second = frames_of("yuv420p", 90, 160, count=2)
    pixels = rgb_of(first)
    before = pixels.copy()
    assert not np.array_equal(rgb_of(second), before)
    np.testing.assert_array_equal(pixels, before)


def test_a_thread_has_one_converter_and_shares_it_with_none(monkeypatch):
    made, kind = [], av.video.reformatter.VideoReformatter

    def counted():
        made.append(threading.get_ident())
        return kind()

    monkeypatch.setattr("av.video.reformatter.VideoReformatter", counted)

    def convert():
        for frame in frames_of("yuv420p", 32, 32):
            rgb_of(frame)

    threads = [threading.Thread(target=convert) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert len(made) == 2


@pytest.mark.filterwarnings("error")
def test_threads_convert_at_the_same_time():
    frames = list(frames_of("yuv420p", 360, 640, count=8))
    expected = [frame.to_ndarray(format="rgb24") for frame in frames]
    wrong = []

    def convert(number):
        for _ in range(20):
            if not np.array_equal(rgb_of(frames[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=convert, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
