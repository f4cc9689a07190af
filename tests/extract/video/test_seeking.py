"""Clips from the middle of a video: the same frames as from a read of all of it, without that."""

import os
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.extract.barcodes import barcode, every_40_ms, read_barcode, write_barcodes
from tests.extract.test_bad_input import cut_without_encoding
from tests.extract.video.test_timeline import write_stamps
from tokenreel.extract.video import decoders, seeking
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.rgb import rgb_of
from tokenreel.extract.video.seeking import PacketIndex, scan_packets
from tokenreel.extract.video.types import VideoError

NUM_FRAMES = 150
X264 = {"crf": "12", "bf": "3", "g": "25", "preset": "veryfast"}
# 23 frames are no whole number of groups of four: the B-frames before a key frame lead it
OPEN = {"crf": "12", "preset": "veryfast"}
OPEN |= {"x264-params": "open-gop=1:keyint=23:min-keyint=1:bframes=3:b-adapt=0:scenecut=0"}
UNEVEN = np.cumsum([0] + [(7, 40, 41, 200)[n % 4] for n in range(NUM_FRAMES - 1)]).tolist()

SEEKABLE = {
    "b-frames.mp4": {"options": X264},
    "b-frames.mkv": {"options": X264},
    "open-gop.mp4": {"options": OPEN},
    "open-gop.mkv": {"options": OPEN},
    "vfr.mp4": {"options": X264, "times": UNEVEN},
    "late-start.mkv": {"options": X264, "times": every_40_ms(NUM_FRAMES, 5000)},
    "late-start.mp4": {"options": X264, "times": every_40_ms(NUM_FRAMES, 700)},
    "fragments.mp4": {"options": X264, "container_options": {"movflags": "frag_keyframe"}},
    "hevc.mp4": {
        "codec": "libx265",
        "options": {"preset": "ultrafast", "x265-params": "keyint=25:bframes=3:log-level=none"},
    },
    "vp9.webm": {
        "codec": "libvpx-vp9",
        "options": {"g": "25", "deadline": "realtime", "cpu-used": "8", "crf": "10"},
    },
    "av1.mkv": {
        "codec": "libsvtav1",
        "options": {"preset": "12", "crf": "20", "svtav1-params": "keyint=25"},
        "size": (64, 80),
    },
    "mjpeg.mkv": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {}},
}
NOT_SEEKABLE = {
    "slots.avi": (
        {
            "codec": "mpeg4",
            "options": {"g": "25"},
            "time_base": Fraction(1, 25),
            "times": list(range(NUM_FRAMES)),
        },
        "no exact seeking in mpeg4 in avi",
    ),
    "stream.ts": ({"options": X264}, "no exact seeking in h264 in mpegts"),
    "vp8.webm": (
        {"codec": "libvpx", "options": {"g": "25", "deadline": "realtime"}},
        "no exact seeking in vp8",
    ),
    "refresh.mp4": (
        {"options": {"crf": "12", "x264-params": "intra-refresh=1:keyint=25:bframes=0"}},
        "after a seek",
    ),
}


def write(path, **kind):
    kind = {"times": every_40_ms(NUM_FRAMES)} | kind
    return write_barcodes(path, kind.pop("times"), **kind)


def facts(frames):
    return [(frame.index, frame.ticks, frame.pixels.tobytes()) for frame in frames]


@pytest.fixture
def decoded(monkeypatch):
    """Counts the frames that a read from the start of a file gives, by name of the file."""
    counts = {}
    whole = seeking.read_pyav

    def counting(path, info):
        for frame in whole(path, info):
            counts[path.name] = counts.get(path.name, 0) + 1
            yield frame

    monkeypatch.setattr(seeking, "read_pyav", counting)
    return counts


@pytest.mark.parametrize("name", SEEKABLE)
def test_clips_of_a_source_are_those_of_a_read_of_all_of_it(tmp_path, decoded, name, caplog):
    path = write(tmp_path / name, **SEEKABLE[name])
    whole = list(decode(path))
    assert [read_barcode(frame.pixels) for frame in whole] == list(range(NUM_FRAMES))
    if name.startswith(("open", "hevc")):
        index = scan_packets(path)
        assert any(index.pts[key + 1] < index.pts[key] for key in index.keys), "no leading frames"
    base = float(probe(path).time_base)
    for first, stop in [(30, 40), (49, 51), (50, 52), (51, 80), (77, 150), (149, 150), (110, 120)]:
        start = whole[first].ticks * base - 0.001
        end = None if stop == NUM_FRAMES else whole[stop].ticks * base - 0.001
        found = list(decode(path, from_seconds=start, until_seconds=end))
        assert facts(found) == facts(whole[first:stop]), (first, stop)
    assert caplog.text == ""
    groups = 1 if name == "mjpeg.mkv" else 2
    assert decoded[name] <= groups * 25 + seeking.TRIAL_FRAMES + 5, "decoded again and again"


@pytest.mark.parametrize("name", ["b-frames.mp4", "open-gop.mp4", "vfr.mp4"])
def test_decord_never_seeks_and_gives_the_same_clip(tmp_path, name, monkeypatch):
    decord = pytest.importorskip("decord")
    path = write(tmp_path / name, **SEEKABLE[name])
    base = float(probe(path).time_base)
    whole = list(decode(path))
    start, stop = (whole[number].ticks * base - 0.001 for number in (60, 70))
    monkeypatch.delattr(decord.VideoReader, "seek")
    monkeypatch.delattr(decord.VideoReader, "seek_accurate")
    monkeypatch.delattr(decord.VideoReader, "get_batch")
    found = list(decode(path, decoder="decord", from_seconds=start, until_seconds=stop))
    assert facts(found) == facts(whole[60:70])


@pytest.mark.parametrize("name", NOT_SEEKABLE)
def test_file_without_exact_seeking_is_read_from_its_start(tmp_path, name, caplog):
    kind, reason = NOT_SEEKABLE[name]
    path = write(tmp_path / name, **kind)
    whole = list(decode(path))
    base = float(probe(path).time_base)
    start = whole[100].ticks * base - 0.001
    for _ in range(2):
        found = list(decode(path, from_seconds=start))
        assert facts(found) == facts(whole[100:])
    assert caplog.text.count("reading its clips from the first frame on") == 1
    assert reason in caplog.text


def test_frame_at_an_unexpected_time_ends_seeking_and_loses_no_frame(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "a.mp4", options=X264)
    whole = facts(decode(path))
    true = seeking.trusted_index

    def lying(path, info, alive):
        index = true(path, info, alive)
        shown = index.shown.copy()
        shown[90] += 1
        return PacketIndex(index.pts, index.place, shown, index.keys, index.first_pts)

    monkeypatch.setattr(seeking, "trusted_index", lying)
    assert facts(decode(path, from_seconds=3.2)) == whole[80:]
    assert "frame 90 is not at the time of its packet" in caplog.text


def test_decoding_starts_only_where_no_earlier_packet_has_a_later_time(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuvj420p"
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.height, encoder.width, encoder.pix_fmt = 48, 80, "yuvj420p"
        encoder.time_base = Fraction(1, 25)
        frame = av.VideoFrame.from_ndarray(barcode(0), format="rgb24").reformat(format="yuvj420p")
        frame.pts = 0
        (data,) = (bytes(packet) for packet in encoder.encode(frame))
        for number, pts in enumerate([0, 4, 1, 2, 3, 5]):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.dts, packet.pts, packet.is_keyframe = number - 3, pts, True
            container.mux(packet)
    index = scan_packets(path)
    assert len(index.pts) == 6
    assert index.keys == (0, 1, 5)


def test_pixels_that_differ_after_a_seek_end_seeking(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "a.mp4", options=X264)
    whole = facts(decode(path))
    number = iter(range(100))
    monkeypatch.setattr(seeking, "_digest", lambda frame: next(number))
    assert facts(decode(path, from_seconds=3.2)) == whole[80:]
    assert "frames after a seek are not those of a read from the start" in caplog.text


def test_replaced_video_is_examined_again(tmp_path):
    path = write(tmp_path / "a.mp4", options=X264)
    list(decode(path, from_seconds=3.2))
    write(tmp_path / "b.mp4", options=X264, times=UNEVEN).replace(path)
    whole = facts(decode(path))
    ticks = whole[80][1]
    found = decode(path, from_seconds=ticks * float(probe(path).time_base) - 0.001)
    assert facts(found) == whole[80:]


@pytest.mark.parametrize("name", ["b-frames.mp4", "stream.ts"])
def test_alive_is_called_on_the_way_to_a_late_clip(tmp_path, name):
    """A supervisor would take a worker for dead that says nothing for a minute."""
    path = write(tmp_path / name, options=X264)
    signs = []
    list(decode(path, from_seconds=4.6, until_seconds=4.8, alive=lambda: signs.append(1)))
    assert len(signs) >= (NUM_FRAMES + 25 + seeking.TRIAL_FRAMES if name == "b-frames.mp4" else 100)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_missing_end_does_not_affect_an_earlier_clip(tmp_path, name, caplog):
    path = write(
        tmp_path / name,
        options=X264,
        container_options={"movflags": "faststart"} if name == "a.mp4" else {},
    )
    whole = facts(decode(path))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])
    assert facts(decode(path, from_seconds=2.0, until_seconds=3.0)) == whole[50:75]
    assert "packets cannot be read to the end" in caplog.text
    with pytest.raises(VideoError):
        list(decode(path, from_seconds=5.0))


def test_gap_in_the_middle_is_not_skipped_by_a_seek(tmp_path):
    """Places of the frames after it would be those of a shorter video."""
    path = write(tmp_path / "a.mkv", options=X264)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(bytes(data))
    with pytest.raises(VideoError, match=r"damaged|corrupt|cannot be decoded"):
        list(decode(path, from_seconds=5.0))


def test_only_requested_frames_are_converted_to_pixels(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", options=X264)
    made = []

    def counted(frame):
        made.append(frame.pts)
        return rgb_of(frame)

    monkeypatch.setattr(decoders, "rgb_of", counted)
    frames = list(decode(path, from_seconds=4.6, until_seconds=4.8))
    made.clear()
    for frame in frames:
        assert frame.pixels is frame.pixels
    assert len(made) == len(frames) == 5


def test_a_file_is_examined_once_and_again_when_it_was_written(tmp_path, monkeypatch):
    times = []
    monkeypatch.setattr(seeking, "_examine", lambda path, *_: times.append(path.name) or "no")
    seeking.examined.clear()

    def look(path):
        with pytest.raises(seeking.Untrusted, match="no"):
            seeking.trusted_index(path, None, lambda: None)

    paths = [tmp_path / str(number) for number in range(seeking.REMEMBERED + 1)]
    for path in paths:
        path.write_bytes(b"1")
    for path in (paths[0], paths[0], paths[1], paths[0]):
        look(path)
    assert times == ["0", "1"]
    os.utime(paths[0], (1, 1))
    look(paths[0])
    paths[0].write_bytes(b"12")
    os.utime(paths[0], (1, 1))
    look(paths[0])
    assert times == ["0", "1", "0", "0"]
    for path in paths:
        look(path)
    assert len(seeking.examined) == seeking.REMEMBERED
    seeking.examined.clear()


def test_packets_of_one_time_are_no_ground_for_seeks(tmp_path):
    path = write_stamps(tmp_path / "x.mkv", [0, 100, 100, 200])
    with pytest.raises(seeking.Untrusted, match="two packets have the same time"):
        scan_packets(path)


def test_hidden_packets_are_neither_shown_nor_keys(tmp_path):
    source = write(tmp_path / "a.mp4", options=X264, times=every_40_ms(60))
    cut_without_encoding(source, tmp_path / "cut.mp4", 30)
    index, base = scan_packets(tmp_path / "cut.mp4"), probe(tmp_path / "cut.mp4").time_base
    step = Fraction(1, 25) / base
    assert np.diff(index.shown).tolist() == [step] * 29
    assert len(index.pts) > 30
    assert [pts for pts in index.first_pts if pts < index.shown[0]] == []


@pytest.mark.parametrize("place", [0, 15])
def test_every_frame_of_the_trial_is_compared(tmp_path, monkeypatch, place):
    path = write(tmp_path / "a.mp4", options=X264)
    true = seeking._read_from_key

    def altered(*arguments, **options):
        for number, frame in enumerate(true(*arguments, **options)):
            black = replace(frame, make_pixels=lambda: np.zeros((48, 80, 3), np.uint8))
            yield black if number == place else frame

    monkeypatch.setattr(seeking, "_read_from_key", altered)
    with pytest.raises(seeking.Untrusted, match="frames after a seek are not those"):
        seeking.trusted_index(path, probe(path), lambda: None)


def test_a_frame_before_the_second_key_that_is_not_at_its_packet_ends_seeking(
    tmp_path, monkeypatch
):
    path = write(tmp_path / "a.mp4", options=X264)
    true = seeking.read_pyav

    def shifted(*arguments):
        for frame in true(*arguments):
            yield replace(frame, ticks=frame.ticks + 1) if frame.index == 3 else frame

    monkeypatch.setattr(seeking, "read_pyav", shifted)
    with pytest.raises(seeking.Untrusted, match="frame 3 is not at the time of its packet"):
        seeking.trusted_index(path, probe(path), lambda: None)
