"""Headers, times and display matrices as the decoders take them, and files known to be whole."""

import struct
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tests.extract.barcodes import barcode, every_40_ms, read_barcode, write_barcodes
from tests.extract.video.streams import EIGHT, ONE
from tests.extract.video.test_timeline import HEADER, MILLI
from tokenreel.extract.video import decoders
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import (
    MATRIX_FRAMES,
    DisplayMatrix,
    end_of_whole,
    frame_of,
    is_outlasted,
    is_slotted,
    probe,
    read_decord,
    read_pyav,
    ticks_of,
)
from tokenreel.extract.video.types import VideoError


class Frame(SimpleNamespace):
    """A frame of PyAV, with what is read of it."""

    def __init__(self, matrix=None, **fields):
        held = {} if matrix is None else {"DISPLAYMATRIX": matrix}
        standard = {"rotation": 0, "key_frame": False, "pts": 0, "time_base": MILLI, "height": 2}
        standard |= {"width": 4, "duration": 0, "side_data": held}
        super().__init__(**standard | fields)


def test_a_display_matrix_holds_until_there_is_another():
    matrix, far = DisplayMatrix(), [Frame()] * (MATRIX_FRAMES - 1)
    seen = [Frame(b"one"), Frame(b"unseen"), Frame(b"early", key_frame=True), *far]
    seen += [
        Frame(b"two", key_frame=True),
        *far,
        Frame(key_frame=True),
        Frame(b"three", rotation=9),
    ]
    found = [matrix.of(frame) for frame in seen]
    before = len(far) + 3
    assert set(found[:before]) == {b"one"}
    assert set(found[before:-1]) == {b"two"}  # a key frame without one has the last one's
    assert found[-1] == b"three"
    assert DisplayMatrix().of(Frame()) is None


def test_a_frame_is_at_the_time_of_its_container_less_the_start():
    info = replace(HEADER, start_ticks=1000, time_base=Fraction(1, 2000))
    assert ticks_of(Frame(pts=700), 3, info) == 2 * 700 - 1000
    assert ticks_of(Frame(pts=700), 3, info, slot=9) == 9
    with pytest.raises(VideoError, match="frame 3 has no time in its container") as caught:
        ticks_of(Frame(pts=None), 3, info)
    assert caught.value.frame == 3
    raw = replace(info, container="h264")
    assert ticks_of(Frame(pts=None), 3, raw) == 600  # three tenths of a second
    with pytest.raises(VideoError, match="no time"):
        ticks_of(Frame(pts=None), 3, replace(raw, rate=None))


@pytest.mark.parametrize(
    ("name", "is_so"),
    [
        ("avi", True),
        ("h264", True),
        ("m4v", True),
        ("mov,mp4,m4a,3gp,3g2,mj2", False),
        ("matroska,webm", False),
        ("mpegts", False),
    ],
)
def test_avi_and_streams_without_a_container_have_no_times(name, is_so):
    assert is_slotted(name) == is_so


@pytest.mark.parametrize(
    ("container", "index", "ticks", "aspect", "rules"),
    [
        ("matroska,webm", 3, 700, None, 1),
        ("matroska,webm", 3, 700, Fraction(3, 2), 2),
        ("matroska,webm", 3, 700, Fraction(640, 639), 1),
        ("avi", 3, 300, None, 1),
        ("avi", 3, 700, None, 2),  # a chunk without bytes before it
    ],
)
def test_frames_that_earlier_rules_gave_otherwise_are_of_the_new_ones(
    container, index, ticks, aspect, rules
):
    info = replace(HEADER, container=container, pixel_aspect=aspect)
    frame = frame_of(Frame(duration=40), index, ticks, info, SimpleNamespace(name="x"), None)
    assert (frame.ticks, frame.stop, frame.rules) == (ticks, ticks + 40, rules)
    assert frame.size == ((2, 6) if aspect == Fraction(3, 2) else (2, 4))


@pytest.mark.parametrize(("container", "stop"), [("matroska,webm", None), ("h264", None)])
def test_a_frame_without_a_duration_has_no_end_of_its_own(container, stop):
    info = replace(HEADER, container=container)
    lasting = 0 if container != "h264" else 40  # which a stream without a container makes up
    frame = frame_of(Frame(duration=lasting), 3, 300, info, SimpleNamespace(name="x"), None)
    assert frame.stop is stop


@pytest.mark.parametrize(
    ("name", "start", "seconds"),
    [
        ("x.mkv", 0, 0.4),
        ("x.mkv", 5000, 0.4),
        ("x.mp4", 0, 0.4),
        ("x.mp4", 700, 0.4),
        ("x.flv", 0, 0.4),
    ],
)
def test_a_header_says_how_long_the_video_is(tmp_path, name, start, seconds):
    info = probe(
        write_barcodes(
            tmp_path / name,
            every_40_ms(10, start),
            codec="flv1" if name == "x.flv" else "mpeg4",
            options={"bf": "0"},
        )
    )
    assert info.duration_seconds == pytest.approx(seconds, abs=0.041)
    assert info.start_ticks * info.time_base == pytest.approx(start / 1000, abs=0.002)
    assert not info.is_duration_shared


def test_a_duration_of_hours_is_read(tmp_path):
    path = write_barcodes(tmp_path / "x.mkv", every_40_ms(10), codec="mpeg4", options={})
    data = path.read_bytes()
    assert data.count(b"00:00:00.400000000") == 1
    path.write_bytes(data.replace(b"00:00:00.400000000", b"02:03:04.500000000"))
    assert probe(path).duration_seconds == 2 * 3600 + 3 * 60 + 4.5


def test_a_duration_in_other_digits_is_none(tmp_path):
    path = write_barcodes(tmp_path / "x.mkv", every_40_ms(10), codec="mpeg4", options={})
    data, other = path.read_bytes(), "00:00:0\u0669.40000000".encode()
    path.write_bytes(data.replace(b"00:00:00.400000000", other))
    assert probe(path).duration_seconds == pytest.approx(0.4)


def test_the_length_of_a_file_is_from_its_start(tmp_path):
    path = write_barcodes(tmp_path / "x.mkv", every_40_ms(10, 5000), codec="mpeg4", options={})
    path.write_bytes(path.read_bytes().replace(b"DURATION", b"xxxxxxxx"))
    assert probe(path).duration_seconds == pytest.approx(0.4, abs=0.001)


@pytest.mark.parametrize("start", [1000, 1001, 1002])
def test_a_start_between_two_microseconds_is_that_of_the_first_frame(tmp_path, start):
    times, base = [start + 3600 * number for number in range(5)], Fraction(1, 90_000)
    options = {"bf": "0"}
    path = write_barcodes(tmp_path / "x.ts", times, options=options, time_base=base)
    assert probe(path).time_base == base
    assert [frame.ticks for frame in decode(path)] == [3600 * number for number in range(5)]


def test_a_header_without_an_aspect_says_none(tmp_path, caplog):
    path = tmp_path / "x.avi"
    write_barcodes(
        path, range(3), codec="huffyuv", options={}, pix_fmt="yuv422p", time_base=Fraction(1, 25)
    )
    assert probe(path).pixel_aspect is None
    assert len(list(decode(path))) == 3
    assert caplog.text == ""


def test_ticks_are_at_most_half_a_frame(tmp_path):
    for rate, wanted in [(25, 1), (1000, 1), (1001, 3), (2000, 4)]:
        path = tmp_path / f"{rate}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mjpeg", rate=rate)
            stream.height, stream.width, stream.pix_fmt = 48, 80, "yuvj420p"
            frame = av.VideoFrame(80, 48, "yuvj420p")
            for number in range(3):
                frame.pts, frame.time_base = number, Fraction(1, rate)
                for packet in stream.encode(frame):
                    container.mux(packet)
        info = probe(path)
        assert info.rate == pytest.approx(rate, rel=0.01)
        assert info.time_base == Fraction(1, 1000 * wanted), rate


# A file that is whole though its frames end early.


def box(kind, size=8, *, said=None):
    return struct.pack(">I4s", size if said is None else said, kind) + bytes(size - 8)


WIDE = struct.pack(">I4sQ", 1, b"mdat", 1000) + bytes(984)  # a size of 64 bits
MOOV = box(b"moov", 40)
WHOLE_BOXES = {
    "plain": box(b"ftyp", 16) + MOOV + box(b"mdat", 100),
    "wide": MOOV + WIDE,
    "to the end": MOOV + box(b"mdat", 100, said=0),
}
OTHER_BOXES = {
    "short": WHOLE_BOXES["plain"][:-1],
    "wide and short": WHOLE_BOXES["wide"][:-1],
    "no header": box(b"ftyp", 16) + box(b"mdat", 100),
    "fragments": MOOV + box(b"moof", 20) + box(b"mdat", 100),
    "size of 4": MOOV + struct.pack(">II4s", 4, 8, b"free"),
    "tail": WHOLE_BOXES["plain"] + bytes(3),
}
MP4 = replace(HEADER, container="mov,mp4,m4a,3gp,3g2,mj2", duration_seconds=3.0, header_frames=10)
MKV = replace(HEADER, duration_seconds=3.0)


@pytest.mark.parametrize("name", [*WHOLE_BOXES, *OTHER_BOXES])
def test_an_mp4_is_whole_where_all_its_boxes_are(tmp_path, name):
    path = tmp_path / "x.mp4"
    path.write_bytes((WHOLE_BOXES | OTHER_BOXES)[name])
    found = end_of_whole(path, MP4, num_frames=9, end=1234)
    assert found == (1234 if name in WHOLE_BOXES else None)
    assert end_of_whole(path, MP4, num_frames=10, end=1234) == 3000  # all frames of its table


EBML = b"\x1aE\xdf\xa3" + b"\x83" + bytes(3)


def segment(size, length, said=None):
    """A Matroska file whose segment has a size, written in some bytes."""
    said = size if said is None else said
    marked = (said | 1 << 7 * length).to_bytes(length)
    return EBML + b"\x18S\x80g" + marked + bytes(size)


@pytest.mark.parametrize(
    ("data", "is_whole"),
    [
        (segment(100, 1), True),
        (segment(100, 8), True),
        (segment(3000, 4), True),
        (segment(100, 8)[:-1], False),
        (segment(3000, 4)[:-1], False),
        (segment(100, 4) + b"more", True),
        (segment(300, 1, said=127), False),  # an unknown size
        (segment(100, 8, said=2**56 - 1), False),
        (EBML + b"\x18S\x80h" + segment(100, 1)[12:], False),  # no segment
        (b"\x1aE\xdf\xa4" + segment(100, 1)[4:], False),
        (EBML, False),
        (EBML + b"\x18S\x80g", False),
        (EBML + b"\x18S\x80g\0" + (9).to_bytes(8) + bytes(99), False),  # no size begins with 0
        (b"", False),
    ],
)
def test_a_matroska_file_is_whole_where_its_segment_is(tmp_path, data, is_whole):
    path = tmp_path / "x.mkv"
    path.write_bytes(data)
    found = end_of_whole(path, MKV, num_frames=10, end=1234)
    assert found == (3000 if is_whole else None)


@pytest.mark.parametrize(("container", "end"), [("avi", 3000), ("flv", None), ("mpegts", None)])
def test_of_other_files_only_avi_is_known_to_be_whole(tmp_path, container, end):
    path = tmp_path / "x"
    path.write_bytes(segment(100, 1))
    found = end_of_whole(path, replace(MKV, container=container), num_frames=10, end=1234)
    assert found == end


def test_a_picture_of_a_song_is_no_video(tmp_path):
    source, path = tmp_path / "a.mp4", tmp_path / "b.mp4"
    write_barcodes(source, every_40_ms(1), codec="mjpeg", pix_fmt="yuvj420p", options={})
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        copy.disposition = av.stream.Disposition.attached_pic
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
    with pytest.raises(VideoError, match="only a cover picture") as caught:
        next(decode(path))
    assert caught.value.stage == "open"


# Slots of AVI.


def write_avi(path, slots, *, empty=(), codec="mpeg4", options=None):
    """Numbered frames in these slots; the chunks of some say that nothing changed."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"qscale": "2"} | (options or {}))
        stream.height, stream.width = 48, 80
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        packets = []
        for number, slot in enumerate(slots):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = slot, Fraction(1, 25)
            packets += stream.encode(frame)
        for number, packet in enumerate(packets + stream.encode(None)):
            if number in empty:
                still = av.Packet(b"\0\0\1\xb6\x50\x4f")  # a picture that is not coded
                still.pts, still.dts, still.time_base = packet.pts, packet.dts, packet.time_base
                still.stream = stream
                container.mux(still)
            else:
                container.mux(packet)
    return path


def shown_slots(path):
    frames, base = list(decode(path)), probe(path).time_base
    numbers = [read_barcode(frame.pixels) for frame in frames]
    return [frame.ticks * base * 25 for frame in frames], numbers


@pytest.mark.parametrize("empty", [[4], [0], [0, 1, 6], [4, 5, 6]])
def test_a_chunk_that_gives_no_frame_holds_its_slot(tmp_path, empty):
    path = write_avi(tmp_path / "x.avi", range(10), empty=empty, options={"g": "1", "bf": "0"})
    wanted = [slot for slot in range(10) if slot not in empty]
    assert shown_slots(path) == (wanted, wanted)


@pytest.mark.parametrize("codec", ["mjpeg", "huffyuv"])
def test_chunks_without_bytes_hold_their_slots_in_codecs_without_a_parser(tmp_path, codec):
    slots, options = [0, 1, 5, 6, 12], {"qscale": "2"} if codec == "mjpeg" else {}
    path = tmp_path / "x.avi"
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv422p"
    write_barcodes(
        path, slots, codec=codec, options=options, pix_fmt=pixels, time_base=Fraction(1, 25)
    )
    assert shown_slots(path) == (slots, list(range(5)))


@pytest.mark.parametrize("num_b_frames", ["0", "2"])
def test_a_chunk_without_bytes_at_the_start_moves_all_frames(tmp_path, num_b_frames):
    path = write_avi(tmp_path / "x.avi", range(10), options={"bf": num_b_frames})
    before = shown_slots(path)[0]
    data = bytearray(path.read_bytes())
    movie, index = data.index(b"movi") + 4, data.rindex(b"idx1")
    (size,) = struct.unpack_from("<I", data, index + 4)
    rows = [list(struct.unpack_from("<4sIII", data, index + 8 + at)) for at in range(0, size, 16)]
    rows = [[b"00dc", 0, 4, 0], *([kind, flags, at + 8, long] for kind, flags, at, long in rows)]
    entries = b"".join(struct.pack("<4sIII", *row) for row in rows)
    new = data[:movie] + b"00dc\0\0\0\0" + data[movie:index]
    new += struct.pack("<4sI", b"idx1", len(entries)) + entries
    struct.pack_into("<I", new, movie - 8, struct.unpack_from("<I", new, movie - 8)[0] + 8)
    struct.pack_into("<I", new, 4, len(new) - 8)
    path.write_bytes(bytes(new))
    assert shown_slots(path) == ([slot + 1 for slot in before], list(range(10)))


def write_turned(path, four, *, aspect=1):
    """Two frames with a display matrix and an aspect of their pixels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qscale": "2"})
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        a, b, c, d = (ONE * value for value in four)
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("four", EIGHT)
def test_earlier_rules_turned_but_did_not_mirror(tmp_path, four):
    path = write_turned(tmp_path / "x.mp4", four)
    is_turn = four[0] * four[3] - four[1] * four[2] == 1
    assert {frame.rules for frame in decode(path)} == {1 if is_turn else 2}


class Decord:
    """decord's reader of a video, with pictures of PyAV that a test may alter."""

    length, last, alter = 50, 50, staticmethod(lambda pixels: pixels)

    def __init__(self, path, **options):
        assert options["fault_tol"] * 100_000 < 1  # it may repeat no frame of 100,000
        self._frames = iter(list(read_pyav(Path(path), probe(Path(path))))[: self.last])

    def __len__(self):
        return self.length

    def next(self):
        frame = next(self._frames)
        return SimpleNamespace(asnumpy=lambda: self.alter(frame.pixels))


@pytest.fixture
def reader(monkeypatch):
    decord = pytest.importorskip("decord")
    kind = type("Reader", (Decord,), {})
    monkeypatch.setattr(decord, "VideoReader", kind)
    return kind


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("read", [read_pyav, read_decord])
def test_frames_that_have_no_time_are_marked(tmp_path, read):
    path = write_barcodes(tmp_path / "x.vob", every_40_ms(50), options={"bf": "0"})
    with av.open(str(path)) as container:
        timed = [frame.pts is not None for frame in container.decode(video=0)]
    assert 10 < sum(timed) < 40
    frames = list(read(path, probe(path)))
    assert [not frame.is_moved for frame in frames] == timed


def test_a_video_whose_first_frame_has_no_time_is_refused(monkeypatch):
    monkeypatch.setattr(decoders, "_frames", lambda path: iter([(Frame(pts=None), 0, None)]))
    with pytest.raises(VideoError, match="frame 0 has no time in its container"):
        next(read_pyav(Path("x"), HEADER))


def refused(path):
    with pytest.raises(VideoError, match="use pyav") as caught:
        assert [frame.pixels for frame in decode(path, decoder="decord")]
    assert not caught.value.final
    return str(caught.value)


def test_where_decord_is_not_to_be_trusted_pyav_is_named(tmp_path, reader):
    path = write_turned(tmp_path / "x.mp4", (0, 1, -1, 0))
    wanted = [frame.pixels for frame in decode(path)]
    reader.alter = staticmethod(lambda pixels: pixels // 2)
    assert refused(path) == "decord gives another picture than pyav for frame 0: use pyav"
    reader.alter = staticmethod(lambda pixels: pixels[:, :-2])
    assert "another picture than pyav" in refused(path)
    reader.alter = staticmethod(lambda pixels: pixels)
    np.testing.assert_array_equal([f.pixels for f in decode(path, decoder="decord")], wanted)
    reader.last = 1
    assert refused(path) == "decord ends after 1 frames: use pyav"
    reader.length = 100_000
    assert "would hold 1.1 GiB of frames" in refused(path)


def test_rows_that_decord_pads_are_cut(tmp_path, reader):
    path = write_turned(tmp_path / "x.mp4", (0, 1, -1, 0))

    def padded(pixels):  # 16 bytes after each row, taken for a fourth channel
        height, width, _ = pixels.shape
        rows = np.zeros((height, 4 * width), np.uint8)
        rows[:, : 3 * width] = pixels.reshape(height, -1)
        return rows.reshape(height, width, 4)

    wanted = [frame.pixels for frame in decode(path)]
    reader.alter = staticmethod(padded)
    np.testing.assert_array_equal([f.pixels for f in decode(path, decoder="decord")], wanted)


def test_wide_pixels_of_a_turned_picture_become_rows(tmp_path):
    path = write_turned(tmp_path / "x.mp4", (0, 1, -1, 0), aspect=2)
    frame = next(decode(path))
    assert frame.pixels.shape == (*frame.size, 3) == (160, 48, 3)
    assert read_barcode(np.rot90(frame.pixels)) == 0


def test_a_picture_whose_data_end_early_is_damage_and_another_decoder_may_try(tmp_path):
    path = tmp_path / "x.mkv"
    write_barcodes(path, every_40_ms(20), codec="mjpeg", pix_fmt="yuvj420p", options={"q:v": "3"})
    with av.open(str(path)) as container:
        picture = bytes([packet for packet in container.demux(video=0) if packet.size][7])
    data = path.read_bytes()
    at = data.index(picture) + len(picture) * 9 // 10
    path.write_bytes(data[:at] + b"\xff\xd9" + data[at + 2 :])  # FFmpeg would fill it with grey
    with pytest.raises(VideoError, match=r"Invalid data .* after 7 frames") as caught:
        list(decode(path))
    assert (caught.value.final, caught.value.frame) == (False, 6)


# A sound after the last frame, in files whose length is that of the longest stream.


@pytest.mark.parametrize(
    ("packets", "is_so"),
    [
        ([(0, 0, 40), (1, 0, 2000), (0, 40, 40), (1, 2000, 1000)], True),
        ([(0, 0, 40), (1, 0, 2000), (0, 40, 40), (1, 2000, 999)], False),
        ([(0, 0, 40), (1, 2000, 2000), (0, 40, 40)], False),  # no sound after the last frame
        ([(0, 0, 40), (1, 2000, 2000), (0, 40, 40), (1, 100, 10)], False),
        ([(0, 0, 40), (1, 2000, 2000), (1, 100, 10)], True),
        ([(0, 0, 40), (1, None, 9000), (1, 3000, None)], True),
        ([(0, 0, 40), (1, None, 9000)], False),
        ([], False),
    ],
)
def test_a_sound_that_continues_is_heard_after_the_last_frame(monkeypatch, packets, is_so):
    info = replace(HEADER, start_ticks=500)
    shift = 500

    @contextmanager
    def opened(path):
        yield packets, SimpleNamespace(index=0)

    def packets_of(found):
        for stream, pts, lasts in found:
            time = None if pts is None else pts + shift
            yield SimpleNamespace(stream_index=stream, pts=time, duration=lasts, time_base=MILLI)

    monkeypatch.setattr(decoders, "opened", opened)
    monkeypatch.setattr(decoders, "packets_of", packets_of)
    assert is_outlasted("x", info, 3.0) == is_so


def test_a_file_that_cannot_be_read_to_its_end_is_not_outlasted(monkeypatch):
    def packets_of(found):
        yield SimpleNamespace(stream_index=1, pts=9000, duration=0, time_base=MILLI)
        raise av.InvalidDataError(1, "torn")

    @contextmanager
    def opened(path):
        yield (), SimpleNamespace(index=0)

    monkeypatch.setattr(decoders, "opened", opened)
    monkeypatch.setattr(decoders, "packets_of", packets_of)
    assert not is_outlasted("x", HEADER, 3.0)
