"""Where a stream ends, and which frames of it are given: worked by hand, without a file."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tests.extract.video.test_timeline import HEADER, MILLI
from tokenreel.extract.video import decode as decoding
from tokenreel.extract.video.decode import FrameSelector, decode, exact
from tokenreel.extract.video.pictures import PICTURES
from tokenreel.extract.video.types import DecodedFrame, VideoError

TEN = range(0, 1000, 100)


class Video:
    """A video whose header and frames are given; decoders read nothing else.

    Attributes:
        info: its header.
        frames: time of each, in ticks of a millisecond.
        lasts: ticks of the last frame, None: unknown.
        first: index of the first frame.
        sizes: height and width of frames that differ from (2, 2), by their place.
        whole: the tick at which the file ends, where it is known to be whole.
        outlasted: whether a sound continues.
        asked: which reader was taken, and what else was looked up.
    """

    def __init__(self, monkeypatch, ticks=TEN, *, lasts=None, header=None, **fields):
        self.info = replace(HEADER, duration_seconds=header, **fields)
        self.frames, self.lasts, self.first, self.sizes = list(ticks), lasts, 0, {}
        self.whole, self.outlasted, self.asked = None, False, []
        for name in ("read_pyav", "read_decord", "read_pictures", "read_pyav_from"):
            monkeypatch.setattr(decoding, name, self._reader(name))
        monkeypatch.setattr(decoding, "probe", lambda path, picture_fps=None: self.info)
        monkeypatch.setattr(decoding, "is_outlasted", self._is_outlasted)
        monkeypatch.setattr(decoding, "end_of_whole", self._end_of_whole)

    def _reader(self, name):
        def read(path, info, *_):
            self.asked.append((name, info.pixel_aspect))
            for place, time in enumerate(self.frames):
                is_last = self.lasts is not None and place == len(self.frames) - 1
                yield DecodedFrame(
                    lambda: np.zeros((2, 2, 3), np.uint8),
                    self.sizes.get(place, (2, 2)),
                    self.first + place,
                    time,
                    time + self.lasts if is_last else None,
                )

        return read

    def _is_outlasted(self, path, info, seconds):
        self.asked.append(("sound", seconds))
        return self.outlasted

    def _end_of_whole(self, path, info, *, num_frames, end):
        self.asked.append(("whole", num_frames, end))
        return self.whole

    def end(self, path, **options):
        """Tick at which the last frame stops being shown, and the rules that say so."""
        last = list(decode(path, **options))[-1]
        return last.stop, last.rules


@pytest.fixture
def video(monkeypatch, tmp_path):
    return lambda *ticks, **fields: (Video(monkeypatch, *ticks, **fields), tmp_path)


@pytest.mark.parametrize(
    ("lasts", "end"),
    [
        (None, 1000),  # a step
        (100, 1000),
        (150, 1000),  # half a step more: containers round
        (151, 1051),
        (50, 1000),
        (49, 949),
        (3000, 3900),
    ],
)
def test_a_stream_ends_as_its_last_frame_says_or_after_a_step(video, lasts, end):
    found, path = video(lasts=lasts)
    assert found.end(path) == (end, 1)
    assert [each[0] for each in found.asked] == ["read_pyav"]


def test_the_step_after_the_last_frame_is_the_one_before_it(video):
    found, path = video([0, 10, 20, 30, 330])
    assert found.end(path) == (630, 1)


@pytest.mark.parametrize(
    ("ticks", "lasts", "header", "end", "rules"),
    [
        (TEN, None, 1.0, 1000, 1),
        (TEN, None, 1.2, 1000, 1),  # two frames of 100 ticks fewer than the header says
        (TEN, 49, 1.2, 949, 1),  # likewise, though the last frame is short
        (TEN, 201, 1.201, 1101, 2),  # one more: but the last frame lasts long enough
        (TEN, 3000, 3.9, 3900, 2),
        (TEN, 3000, 4.1, 3900, 2),
        (TEN, 600, 1.2, 1200, 1),  # the header ends within the last frame
        (TEN, 600, 0.9, 1500, 1),
        (TEN, 600, 0.8, 1500, 1),
        (TEN, 600, 1.04, 1000, 1),  # within half a step of a step
        (range(0, 100, 10), None, 0.2, 100, 1),  # a tenth of a second is missing
        ([0, 1000, 2000], None, 5.0, 3000, 1),  # two frames of a second are missing
    ],
)
def test_the_header_moves_the_end_or_not(video, ticks, lasts, header, end, rules):
    found, path = video(ticks, lasts=lasts, header=header)
    assert found.end(path) == (end, rules)
    assert [each[0] for each in found.asked] == ["read_pyav"]


@pytest.mark.parametrize(
    ("ticks", "lasts", "header", "reason"),
    [
        (TEN, None, 1.201, "10 frames reach 1.00 s of 1.201 s"),
        (TEN, 100, 3.0, "10 frames reach 1.00 s of 3.0 s"),
        (range(0, 100, 10), None, 0.201, "10 frames reach 0.10 s of 0.201 s"),
        ([0, 1000, 2000], None, 5.001, "3 frames reach 3.00 s of 5.001 s"),
    ],
)
def test_a_file_that_ends_before_its_header_says_is_refused_unless_it_is_whole(
    video, ticks, lasts, header, reason
):
    found, path = video(ticks, lasts=lasts, header=header)
    end = round(ticks[-1] + ticks[1])
    with pytest.raises(VideoError, match=f"ends early: {reason[:20]}") as caught:
        found.end(path)
    assert caught.value.frame == len(ticks) - 1
    assert found.asked[1:] == [("whole", len(ticks), end)]
    found.whole = round(1000 * header)
    assert found.end(path) == (round(1000 * header), 2)


def test_frames_that_begin_in_the_middle_count_from_there(video):
    found, path = video(range(500, 1000, 100), header=1.201)
    found.first = 5
    with pytest.raises(VideoError, match="ends early: 10 frames reach"):
        found.end(path)
    found.info = replace(found.info, duration_seconds=1.2)  # their mean step is 100 ticks
    assert found.end(path) == (1000, 1)


def test_a_sound_that_continues_is_no_truncation(video):
    found, path = video(header=3.0, is_duration_shared=True)
    found.outlasted = True
    assert found.end(path) == (1000, 1)
    assert found.asked[1:] == [("sound", 2.8)]
    found.outlasted = False
    with pytest.raises(VideoError, match="ends early"):
        found.end(path)
    assert found.asked[-1] == ("whole", 10, 1000)
    found.lasts, found.info = 49, replace(found.info, duration_seconds=1.2)
    assert found.end(path) == (949, 1)  # all frames are there: nothing more is looked up
    found.lasts = 600
    assert found.end(path) == (1500, 1)  # the end of a file with sound is not the video's


def test_a_video_of_one_frame_is_taken_where_its_header_says_how_long_it_is(video):
    found, path = video([0], lasts=40, header=0.04)
    assert found.end(path, least_frames=1) == (40, 1)
    found.lasts = None
    assert found.end(path, least_frames=1) == (1, 1)
    for header, options in [(0.04, {}), (None, {"least_frames": 1})]:
        found.info = replace(found.info, duration_seconds=header)
        with pytest.raises(VideoError, match="only one frame: a picture, or a damaged video"):
            found.end(path, **options)
    found.frames = []
    with pytest.raises(VideoError, match="no frame could be decoded"):
        found.end(path)


def test_a_clip_has_the_frames_from_its_start_and_before_its_stop(video):
    found, path = video()
    signs = []
    frames = decode(
        path, from_seconds=0.3, until_seconds=0.5, decoder="decord", alive=lambda: signs.append(1)
    )
    assert [(frame.ticks, frame.stop) for frame in frames] == [(300, 400), (400, 500)]
    assert len(signs) == 3
    assert found.asked == [("read_decord", None)]


def test_each_kind_of_video_has_its_reader(video):
    found, path = video()
    for options in ({}, {"from_seconds": 0.0}, {"from_seconds": 0.1}):
        list(decode(path, **options))
    list(decode(path, decoder="decord", from_seconds=0.1))
    found.info = replace(found.info, container=PICTURES)
    list(decode(path, from_seconds=0.1))
    list(decode(path, decoder="decord"))
    assert [name for name, _ in found.asked] == [
        *("read_pyav", "read_pyav", "read_pyav_from", "read_decord"),
        *("read_pictures", "read_decord"),
    ]


def test_pixels_are_left_as_they_are_coded_where_their_aspect_is_ignored(video):
    found, path = video(pixel_aspect=Fraction(2))
    list(decode(path))
    list(decode(path, pixel_aspect="ignore"))
    assert [aspect for _, aspect in found.asked] == [2, None]


def test_a_frame_of_another_size_is_named(video):
    found, path = video()
    found.sizes = {4: (2, 3)}
    with pytest.raises(VideoError, match="the size changes from 2x2 to 3x2 at frame 4") as caught:
        list(decode(path))
    assert caught.value.frame == 4


def test_slots_are_counted_from_the_first_frame_and_are_centred():
    select = FrameSelector(MILLI, fps=10)
    times = (70, 119, 120, 219, 220, 319, 320)
    assert [tick for tick in times if select.keeps(tick)] == [70, 120, 220, 320]


def test_a_rate_is_kept_to_a_ten_thousandth():
    ntsc = FrameSelector(Fraction(1001, 30_000), fps=30_000 / 1001)  # a frame a tick
    assert all(ntsc.keeps(tick) for tick in (0, *range(499_990, 500_010)))


def test_decimals_stand_for_what_they_say():
    assert exact(0.1) == Fraction(1, 10)
    assert exact(12.34567) == Fraction(1_234_567, 100_000)
    assert exact(1 / 3) == Fraction(1, 3)
