"""Time: repeated stamps, stamps that run backwards, ticks longer than a frame, ends of streams."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.extract.barcodes import barcode, every_40_ms, read_barcode, write_barcodes
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.geometry import Orientation
from tokenreel.extract.video.timeline import frames_in_time
from tokenreel.extract.video.types import DecodedFrame, VideoError, VideoInfo, check_file

MILLI = Fraction(1, 1000)


def write_stamps(path, stamps, *, rate=10):
    """Numbered pictures with these time stamps, in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=rate)
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuvj420p"
        stream.codec_context.time_base = MILLI
        packets = []
        for number in range(len(stamps)):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = 1000 * number, MILLI
            packets += stream.encode(frame)
        for packet, stamp in zip(packets, stamps, strict=True):
            packet.pts = packet.dts = stamp
            container.mux(packet)
    return path


def milliseconds(path):
    base = probe(path).time_base
    frames = list(decode(path))
    assert [read_barcode(frame.pixels) for frame in frames] == list(range(len(frames)))
    return [float(frame.ticks * base) * 1000 for frame in frames]


@pytest.mark.parametrize(
    ("stamps", "wanted"),
    [
        ([0, 100, 100, 300], [0, 100, 200, 300]),  # by a step
        ([0, 100, 100, 200, 300], [0, 100, 150, 200, 300]),  # up to the next
        ([0, 100, 100, 100, 600], [0, 100, 200, 300, 600]),
        ([0, 100, 200, 200, 200], [0, 100, 200, 300, 400]),  # at the end
        ([0, 0, 100, 200], [0, 50, 100, 200]),  # at the start
    ],
)
def test_frames_of_one_time_stamp_are_spread_in_their_order(tmp_path, stamps, wanted):
    assert milliseconds(write_stamps(tmp_path / "x.mkv", stamps)) == wanted


def test_ticks_longer_than_a_frame_are_divided(tmp_path):
    stamps = [number // 2 for number in range(20)]  # 2000 a second, in milliseconds
    found = milliseconds(write_stamps(tmp_path / "x.mkv", stamps, rate=2000))
    assert found == [number / 2 for number in range(20)]


def test_time_that_stands_still_for_long_is_damage(tmp_path):
    path = write_stamps(tmp_path / "x.mkv", [0, 100, *[200] * 17, 2000])
    with pytest.raises(VideoError, match=r"stands still: frames 2 to 18 are at 0\.200 s"):
        list(decode(path))


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi"])
def test_a_range_has_the_times_of_the_whole(tmp_path, suffix):
    slots = [0, 1, 2, 5, 6, 12, 13, 14, 20, 21]
    base = Fraction(1, 25) if suffix == "avi" else MILLI
    times = slots if suffix == "avi" else [40 * slot for slot in slots]
    path = tmp_path / f"x.{suffix}"
    write_barcodes(path, times, codec="mpeg4", options={"qscale": "2"}, time_base=base)
    whole, unit = list(decode(path)), probe(path).time_base
    assert [frame.ticks * unit for frame in whole] == [Fraction(slot, 25) for slot in slots]
    part = list(decode(path, from_seconds=0.24, until_seconds=0.7))
    assert [(f.index, f.ticks, f.stop) for f in part] == [
        (f.index, f.ticks, f.stop) for f in whole[4:8]
    ]


def test_slots_of_reordered_frames_of_avi_follow_the_order_of_display(tmp_path):
    path, slots = tmp_path / "x.avi", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    options = {"qscale": "2", "bf": "2"}
    write_barcodes(path, slots, codec="mpeg4", options=options, time_base=Fraction(1, 25))
    assert milliseconds(path) == [40 * slot for slot in slots]


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi"])
def test_a_still_end_does_not_hide_a_truncated_file(tmp_path, suffix, share):
    base = Fraction(1, 25) if suffix == "avi" else MILLI
    times = [0, 1, 2, 3, 50, 51, 100] if suffix == "avi" else [*every_40_ms(8), 3000]
    path = write_barcodes(tmp_path / f"x.{suffix}", times, codec="mpeg4", time_base=base)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(VideoError):
        list(decode(path))


@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "2"}])
@pytest.mark.parametrize("suffix", ["vob", "mpg"])
def test_frames_without_a_time_are_spread_after_one_that_has_it(tmp_path, suffix, options):
    path = tmp_path / f"x.{suffix}"
    write_barcodes(path, every_40_ms(50), options=options)  # several frames in a packet
    with av.open(str(path)) as container:
        untimed = sum(frame.pts is None for frame in container.decode(video=0))
    assert untimed > 10
    assert milliseconds(path) == pytest.approx([40 * number for number in range(50)], abs=0.1)
    assert sum(frame.is_moved for frame in decode(path)) == untimed


def test_many_frames_without_a_time_are_refused(tmp_path):
    path = tmp_path / "x.vob"
    write_barcodes(path, every_40_ms(70), options={"bf": "0"})
    info = probe(path)
    (frame, *_) = list(decode(path))
    untimed = (replace(frame, index=number, is_moved=number > 0) for number in range(70))
    with pytest.raises(VideoError, match="64 frames from frame 1 on have no time of their own"):
        list(frames_in_time(untimed, info, lambda *_: (0, True)))


HEADER = VideoInfo(
    width=2,
    height=2,
    codec="h264",
    time_base=MILLI,
    start_ticks=0,
    duration_seconds=None,
    is_duration_shared=False,
    rate=Fraction(10),  # a step of 100 ticks
    container="matroska,webm",
    header_frames=0,
)


def frames_at(ticks, **fields):
    pixels = np.zeros((2, 2, 3), np.uint8)
    for index, time in enumerate(ticks):
        yield DecodedFrame(lambda: pixels, (2, 2), index, time, **fields)


def in_time(ticks, *, info=HEADER, end=None, is_old=True, **fields):
    """Start and stop of each frame; the stream ends at a tick, or a step after the last frame."""
    asked = []

    def stream_end(first, last, last_step):
        asked.append((first and first.index, last and last.ticks, last_step))
        return (last.ticks + last_step if end is None else end), is_old

    frames = list(frames_in_time(frames_at(ticks, **fields), info, stream_end))
    return [(frame.ticks, frame.stop) for frame in frames], frames, asked


@pytest.mark.parametrize("back", [1, 10])
def test_time_that_runs_back_by_a_tick_is_damage(back):
    with pytest.raises(VideoError, match=r"frame 2 is at 0\.\d+ s, the one before it at 0\.100 s"):
        in_time([0, 100, 100 - back, 200])


def test_a_stream_of_one_time_may_not_run_back_either():
    with pytest.raises(VideoError, match="time does not advance: frame 3"):
        in_time([0, 100, 100, 99])


def test_frames_between_two_ticks_are_put_at_the_nearest_tick():
    found, frames, _ = in_time([0, 0, 0, 5], end=6)  # 0, 5/3 and 10/3
    assert found == [(0, 2), (2, 3), (3, 5), (5, 6)]
    assert [frame.is_moved for frame in frames] == [False, True, True, False]
    assert [frame.rules for frame in frames] == [2, 2, 2, 1]


def test_frames_that_a_tick_could_not_part_are_damage():
    assert in_time([0, 10, 10, 10, 13], end=20)[0][1:4] == [(10, 11), (11, 12), (12, 13)]
    words = r"3 frames from frame 1 on are at 0\.010 s, the next 2 tick later"
    with pytest.raises(VideoError, match=words) as caught:
        in_time([0, 10, 10, 10, 12])
    assert caught.value.frame == 1


def test_up_to_16_frames_of_one_time_are_spread():
    found, frames, _ = in_time([0, *[100] * 16, 10_000], end=10_100)
    assert [start for start, _ in found] == [0, *range(100, 1700, 100), 10_000]
    assert sum(frame.is_moved for frame in frames) == 15
    with pytest.raises(VideoError, match=r"stands still: frames 1 to 17 are at 0\.100 s"):
        in_time([0, *[100] * 17, 10_000])


def test_up_to_64_frames_may_lack_a_time():
    assert in_time([0] * 64, end=6400, is_moved=True)[0][-1] == (6300, 6400)
    with pytest.raises(VideoError, match="64 frames from frame 1 on have no time"):
        in_time([0] * 65, is_moved=True)


@pytest.mark.parametrize(
    ("ticks", "starts", "last_step"),
    [
        ([0, 30, 100, 100], [0, 30, 100, 170], 70),  # by the step before
        ([0, 0], [0, 1], 1),  # no step is known: a tick
        ([0, 60, 60, 100, 100], [0, 60, 80, 100, 120], 20),  # by that of frames that moved
        ([0, 30, 30, 200], [0, 30, 60, 200], 140),
    ],
)
def test_without_a_rate_frames_are_spread_by_the_step_before(ticks, starts, last_step):
    found, _, asked = in_time(ticks, info=replace(HEADER, rate=None))
    assert [start for start, _ in found] == starts
    assert asked == [(0, starts[-1], last_step)]


def test_the_end_of_a_stream_is_that_of_its_last_frame_and_of_its_rules():
    found, frames, asked = in_time([0, 100, 200], end=950, is_old=False)
    assert found == [(0, 100), (100, 200), (200, 950)]
    assert [frame.rules for frame in frames] == [1, 1, 2]
    assert asked == [(0, 200, 100)]
    assert [frame.rules for frame in in_time([0, 100], end=200)[1]] == [1, 1]


def test_an_end_that_earlier_rules_refused_is_of_the_new_rules(tmp_path):
    path, times = tmp_path / "x.mp4", [0, 100, 200]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
        stream.codec_context.time_base = stream.time_base = MILLI
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = time, MILLI
            for packet in stream.encode(frame):
                packet.duration = 3000 if time == times[-1] else 100
                container.mux(packet)
    frames, base = list(decode(path)), probe(path).time_base
    assert [float(frame.stop * base) for frame in frames] == [0.1, 0.2, 3.2]
    assert [frame.rules for frame in frames] == [1, 1, 2]


def test_a_read_ends_with_the_first_frame_at_or_after_a_time():
    end = Fraction(150)
    for until, wanted in [(end, [0, 100, 200]), (Fraction(200), [0, 100, 200])]:
        frames = frames_in_time(
            frames_at([0, 100, 200, 100]), HEADER, lambda *_: (0, True), until_ticks=until
        )
        assert [frame.ticks for frame in frames] == wanted


def test_a_stream_without_frames_is_asked_for_its_end():
    asked = []
    assert list(frames_in_time(iter(()), HEADER, lambda *found: asked.append(found))) == []
    assert asked == [(None, None, None)]


def test_a_frame_keeps_all_else_when_its_end_is_known():
    pixels = np.ones((2, 2, 3), np.uint8)
    frame = DecodedFrame(
        lambda: pixels,
        (2, 2),
        7,
        30,
        None,
        Orientation(quarter_turns=1),
        is_moved=True,
        rules=2,
        make_mean=lambda: np.array([1.0, 2.0, 3.0]),
    )
    assert frame.shown_until(40) == replace(frame, stop=40)
    assert frame.shown_until(40).mean_rgb.tolist() == [1, 2, 3]
    assert replace(frame, make_mean=None).mean_rgb.tolist() == [1, 1, 1]


@pytest.mark.parametrize("error", [ValueError("no such format"), OSError("no such format")])
def test_a_frame_that_cannot_be_converted_is_a_fault_of_its_video(error):
    def fail():
        raise error

    with pytest.raises(VideoError, match="cannot be converted to RGB: no such format") as caught:
        _ = DecodedFrame(fail, (2, 2), 7, 30).pixels
    assert caught.value.frame == 7


def test_a_folder_is_no_video_file(tmp_path):
    with pytest.raises(VideoError, match="is a directory") as caught:
        check_file(tmp_path)
    assert caught.value.stage == "open"
