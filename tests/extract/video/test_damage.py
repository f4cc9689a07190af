"""Frames that a damaged container loses in its middle, or at its end, are missed: never a gap."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.extract.barcodes import every_40_ms, write_barcodes
from tests.extract.video.test_sound import write_with_sound
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.types import VideoError

NUM_FRAMES = 60
LOSSLESS = {"codec": "huffyuv", "pix_fmt": "yuv422p", "options": {}}


def write_avi(path):
    times = list(range(NUM_FRAMES))
    return write_barcodes(path, times, time_base=Fraction(1, 25), **LOSSLESS)


def packets_of(path):
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def refusal(path):
    with pytest.raises(VideoError) as caught:
        list(decode(path))
    return str(caught.value)


def test_gap_in_a_file_that_ffmpeg_reads_on_opening_is_detected(tmp_path):
    path = write_with_sound(tmp_path / "x.mkv", seconds=1, first_second=1.5)
    middle = packets_of(path)[10].pos
    data = bytearray(path.read_bytes())
    data[middle - 2 : middle] = b"\x10\xff"  # longer than its cluster: the next one is read on
    path.write_bytes(bytes(data))
    assert "damaged near frame" in refusal(path)


def test_lost_packets_of_mpeg_ts_are_detected(tmp_path):
    path = write_barcodes(tmp_path / "x.ts", every_40_ms(NUM_FRAMES))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 188 * 188
    del data[middle : middle + 5 * 188]
    path.write_bytes(bytes(data))
    assert "marked corrupt" in refusal(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_truncated_avi_is_refused_even_if_every_remaining_frame_is_whole(tmp_path, share):
    path = write_avi(tmp_path / "x.avi")
    packets = packets_of(path)
    cut = packets[int(share * NUM_FRAMES)]
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: cut.pos + 8 + cut.size])
    assert refusal(path) == f"ends early: {size - cut.pos - 8 - cut.size} bytes are missing"


def test_frame_lost_in_the_middle_of_an_avi_is_detected(tmp_path):
    path = write_avi(tmp_path / "x.avi")
    middle = packets_of(path)[30]
    data = bytearray(path.read_bytes())
    start = data.rindex(b"00dc", 0, middle.pos + 4)
    data[start : start + 8] = bytes(8)  # what says that a frame begins here
    path.write_bytes(bytes(data))
    assert refusal(path) == "holds 59 frames, its index lists 60"


@pytest.mark.parametrize("place", np.linspace(0.1, 0.9, 9))
def test_lost_bytes_of_matroska_are_detected_anywhere(tmp_path, place):
    path = write_barcodes(tmp_path / "x.mkv", [0, *every_40_ms(NUM_FRAMES - 1, 600_000)])
    data = bytearray(path.read_bytes())
    start = int(place * len(data))
    del data[start : start + 5000]
    path.write_bytes(bytes(data))
    refusal(path)


def test_invalid_duration_tag_is_ignored(tmp_path):
    path = write_barcodes(tmp_path / "x.mkv", every_40_ms(NUM_FRAMES))
    data = path.read_bytes()
    assert data.count(b"00:00:02.400000000") == 1
    path.write_bytes(data.replace(b"00:00:02.400000000", b"00:00:n2.40000000x"))
    assert len(list(decode(path))) == NUM_FRAMES
    np.testing.assert_allclose(probe(path).duration_seconds, 2.4, atol=1e-3)
