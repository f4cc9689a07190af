"""Time: repeated stamps, stamps that run backwards, ticks longer than a frame, ends of streams."""

from dataclasses import replace
from fractions import Fraction

import av
import pytest

from tests.extract.barcodes import barcode, every_40_ms, read_barcode, write_barcodes
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.timeline import frames_in_time
from tokenreel.extract.video.types import VideoError

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
