"""Frames that a damaged container loses in its middle, or at its end, are missed: never a gap."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tests.extract.barcodes import every_40_ms, write_barcodes
from tests.extract.video.test_sound import write_with_sound
from tokenreel.extract.video.damage import DamageWatch
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


# The signs, one by one: packets and frames by their times in milliseconds.

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"


class Watched:
    """A watch of a file that is not there; errors is what FFmpeg has logged."""

    def __init__(self, monkeypatch, *, reader=MP4, codec="h264", num_indexed=0, name="x"):
        self.errors = (0, None)
        monkeypatch.setattr("av.logging.get_last_error", lambda: self.errors)
        context = SimpleNamespace(codec=SimpleNamespace(canonical_name=codec))
        container = SimpleNamespace(name=str(name), format=SimpleNamespace(name=reader))
        stream = SimpleNamespace(
            index_entries=[None] * num_indexed, codec_context=context, time_base=Fraction(1, 1000)
        )
        self.watch, self.index = DamageWatch(container, stream, 0), -1

    def sent(self, *times, size=9, is_corrupt=False, is_discard=False):
        for pts in times:
            packet = SimpleNamespace(pts=pts, size=size)
            packet.is_corrupt, packet.is_discard = is_corrupt, is_discard
            self.watch.sent(packet, self.index)

    def got(self, *times, is_corrupt=False, is_interlaced=False):
        for pts in times:
            self.index += 1
            frame = SimpleNamespace(pts=pts, is_corrupt=is_corrupt, interlaced_frame=is_interlaced)
            self.watch.got(frame, self.index)

    def error(self, name, text):
        self.errors = self.errors[0] + 1, (16, name, text)

    def end(self):
        self.watch.end(self.index)


@pytest.fixture
def watched(monkeypatch):
    return Watched(monkeypatch)


def test_an_error_of_the_demuxer_is_damage_and_one_of_the_decoder_is_not(watched):
    watched.error("h264", "error while decoding MB 3 4")
    watched.sent(0)
    watched.got(0)
    watched.error(MP4, "a box  is\n torn")
    with pytest.raises(VideoError, match="the file is damaged near frame 0: a box is torn"):
        watched.sent(40)


def test_a_packet_that_ends_with_its_file_is_damage_whoever_says_so(watched):
    watched.error("file", "Truncating packet of size 900 to 80")
    with pytest.raises(VideoError, match="damaged near frame 0: Truncating packet of size 900"):
        watched.sent(0)


def test_a_frame_that_the_decoder_marks_is_damage(watched):
    watched.sent(0, 40)
    watched.got(0)
    with pytest.raises(VideoError, match="frame 1 is marked corrupt"):
        watched.got(40, is_corrupt=True)


@pytest.mark.parametrize(("step", "is_damage"), [(60, False), (61, True), (100, True)])
def test_a_gap_after_a_packet_was_marked_is_damage(monkeypatch, step, is_damage):
    watched = Watched(monkeypatch, reader="mpegts")
    watched.got(0, 40, 240)  # a pause, in a sound file
    watched.sent(280, is_corrupt=True)
    watched.got(280)  # intact files that are joined have the mark alone
    if is_damage:
        with pytest.raises(VideoError, match="frame 4 is marked corrupt"):
            watched.got(280 + step)
    else:
        watched.got(280 + step)


@pytest.mark.parametrize("is_after", [False, True])
def test_an_error_of_the_decoder_after_a_packet_was_marked_is_damage(monkeypatch, is_after):
    watched = Watched(monkeypatch, reader="mpegts")
    watched.got(0, 40)
    if not is_after:
        watched.error("h264", "concealing errors")
    watched.sent(80, is_corrupt=True)
    if is_after:
        watched.error("h264", "concealing errors")
        with pytest.raises(VideoError, match="frame 2 is marked corrupt"):
            watched.got(80)
    else:
        watched.got(80, 120)
        watched.end()


def test_the_first_packet_that_gave_no_frame_is_named(watched):
    watched.sent(0, 40, 80, 120, 160)
    watched.got(0)
    with pytest.raises(VideoError, match=r"frame 1, at 0\.040 s, cannot be decoded"):
        watched.got(120)


def test_packets_that_gave_no_frame_by_the_end_are_lost(watched):
    watched.sent(0, 40, 120, 80)
    watched.got(0, 40)
    with pytest.raises(VideoError, match=r"frame 2, at 0\.080 s, cannot be decoded"):
        watched.end()


def test_packets_before_the_first_frame_and_hidden_ones_are_not_lost(watched):
    watched.sent(-40, 0)  # FFmpeg drops leading pictures
    watched.sent(20, is_discard=True)
    watched.sent(60, size=0)
    watched.sent(80)
    watched.got(0, 80)
    watched.end()


def test_frames_of_two_fields_are_not_paired_with_packets(watched):
    watched.sent(0, 20, 40, 60)
    watched.got(0, 40, is_interlaced=True)


def test_a_frame_at_a_time_that_no_packet_has_ends_the_pairing(watched):
    watched.sent(0, 40, 80, 120)
    watched.got(0, 41, 120)
    watched.end()


@pytest.mark.parametrize(("reader", "codec"), [("mpegts", "h264"), (MP4, "mpeg4"), (MP4, "vp8")])
def test_packets_of_other_codecs_and_containers_are_not_paired(monkeypatch, reader, codec):
    watched = Watched(monkeypatch, reader=reader, codec=codec)
    watched.sent(0, 40, 80)
    watched.got(0, 80)
    watched.end()


@pytest.mark.parametrize(
    ("num_indexed", "num_sent", "missing", "reason"),
    [
        (3, 3, 0, None),
        (1, 3, 0, None),  # no index
        (2, 3, 0, "holds 3 frames, its index lists 2"),
        (4, 3, 0, "holds 3 frames, its index lists 4"),
        (3, 3, 1, "ends early: 1 bytes are missing"),
        (3, 3, -5, None),  # more bytes than its header says
    ],
)
def test_an_avi_has_the_frames_of_its_index_and_the_bytes_of_its_header(
    tmp_path, monkeypatch, num_indexed, num_sent, missing, reason
):
    path = tmp_path / "x.avi"
    path.write_bytes(b"RIFF" + (92 + missing).to_bytes(4, "little") + bytes(92))
    watched = Watched(monkeypatch, reader="avi", codec="mpeg4", num_indexed=num_indexed, name=path)
    watched.sent(*range(num_sent))
    watched.sent(9, size=0)
    if reason is None:
        watched.end()
    else:
        with pytest.raises(VideoError, match=reason):
            watched.end()
