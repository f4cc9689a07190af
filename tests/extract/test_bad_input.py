"""Whatever a file looks like: its own frames with their own numbers, or a stated reason.

Every rendered frame carries its number, so a neighbour's frame, a lost one or a wrong count cannot
pass for right.
"""

import os
import random
import shutil
import socket
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.extract.barcodes import barcode, every_40_ms, read_barcode, write_barcodes
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe, read_decord
from tokenreel.extract.video.types import VideoError, check_file

DECODERS = ("pyav", "decord")
X264 = {"crf": "12", "bf": "2", "g": "25", "preset": "veryfast"}
NUM_FRAMES = 60
AT_25 = {"time_base": Fraction(1, 25), "times": list(range(NUM_FRAMES))}

ODD_BUT_SOUND = {
    "ten-bit.mp4": {"pix_fmt": "yuv420p10le"},
    "ten-bit-hevc.mp4": {
        "codec": "libx265",
        "pix_fmt": "yuv420p10le",
        "options": {"preset": "ultrafast", "x265-params": "log-level=none"},
    },
    "grey.mp4": {"pix_fmt": "gray"},
    "full-range.mp4": {"pix_fmt": "yuvj420p"},
    "interlaced.mp4": {"options": X264 | {"x264-params": "tff=1"}},
    "interlaced.ts": {"options": X264 | {"x264-params": "tff=1"}},
    "interlaced.mpg": {"codec": "mpeg2video", "options": {"flags": "+ildct+ilme", "b": "2M"}}
    | AT_25,
    "odd-sides.mp4": {"pix_fmt": "yuv444p", "size": (49, 83)},
    "odd-sides.webm": {
        "codec": "libvpx-vp9",
        "size": (49, 83),
        "options": {"deadline": "realtime", "cpu-used": "8", "crf": "10"},
    },
    "rgb.mkv": {"codec": "libx264rgb", "pix_fmt": "rgb24"},
    "no-index.ts": {},
    "b-frames.avi": {"codec": "mpeg4", "options": {"g": "25", "bf": "2", "b": "2M"}} | AT_25,
    "uneven.mp4": {"times": np.cumsum([10 + 70 * (n % 3) for n in range(NUM_FRAMES)]).tolist()},
    "late.mp4": {"times": every_40_ms(NUM_FRAMES, 900)},
    "late.mkv": {"times": every_40_ms(NUM_FRAMES, 5000)},
    "late.ts": {"times": every_40_ms(NUM_FRAMES, 5000)},
    "two-frames.mp4": {"times": [0, 40]},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "gaps.mp4": {"times": [*every_40_ms(20), *every_40_ms(40, 60_000)]},
}
ONLY_PYAV = {"interlaced.ts", "no-index.ts", "late.ts"}  # decord hangs on MPEG-TS: refused


def write(path, **kind):
    kind = {"times": every_40_ms(NUM_FRAMES), "options": X264} | kind
    return write_barcodes(path, kind.pop("times"), **kind)


def numbers(path, decoder="pyav"):
    return [read_barcode(frame.pixels) for frame in decode(path, decoder=decoder)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound MP4 whose index is at its end."""
    return write(tmp_path_factory.mktemp("sound") / "sound.mp4")


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """A sound MP4 whose index is at its beginning."""
    options = {"movflags": "faststart"}
    return write(tmp_path_factory.mktemp("streamed") / "x.mp4", container_options=options)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ODD_BUT_SOUND)
def test_unusual_but_intact_file_gives_every_frame_once_at_its_time(tmp_path, name, decoder):
    path = write(tmp_path / name, **ODD_BUT_SOUND[name])
    if decoder == "decord" and name in ONLY_PYAV:
        with pytest.raises(VideoError, match="use pyav") as caught:
            numbers(path, decoder)
        assert not caught.value.final
        return
    frames = list(decode(path, decoder=decoder))
    times = np.array(ODD_BUT_SOUND[name].get("times", every_40_ms(NUM_FRAMES)))
    seconds = (times - times[0]) * float(ODD_BUT_SOUND[name].get("time_base", 0.001))
    assert [read_barcode(frame.pixels) for frame in frames] == list(range(len(times)))
    assert [frame.index for frame in frames] == list(range(len(times)))
    found = np.array([float(frame.ticks * probe(path).time_base) for frame in frames])
    np.testing.assert_allclose(found - found[0], seconds, atol=1.1e-3)
    size = ODD_BUT_SOUND[name].get("size", (48, 80))
    assert {(frame.size, frame.pixels.shape) for frame in frames} == {(size, (*size, 3))}


def turn(path, degrees):
    """Write a rotation into the header of an MP4, as a telephone does."""
    matrix = {
        90: (0, 1, -1, 0),
        180: (-1, 0, 0, -1),
        270: (0, -1, 1, 0),
    }[degrees]
    a, b, c, d = (value * 65536 for value in matrix)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    assert struct.unpack_from(">i", data, at) == (65536,)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotation_tag_is_obeyed(tmp_path, degrees, decoder):
    path = tmp_path / "x.mp4"
    upright = barcode(0b1100110101, 80, 80)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=X264)
        stream.height = stream.width = 80
        stream.pix_fmt = "yuv420p"
        # shown turned clockwise by the tag, hence stored turned the other way
        stored = np.ascontiguousarray(np.rot90(upright, k=degrees // 90))
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    turn(path, degrees)
    assert numbers(path, decoder) == [0b1100110101] * 5


def cut_without_encoding(source, path, first):
    """Copy packets as `ffmpeg -ss TIME -c copy` does: an edit list hides those before the cut."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        step = round(Fraction(1, 25) / stream.time_base)
        for packet in old.demux(stream):
            if packet.dts is None:
                continue
            packet.pts -= first * step
            packet.dts -= first * step
            packet.stream = copy
            new.mux(packet)


@pytest.mark.parametrize("decoder", DECODERS)
def test_frame_count_of_a_header_with_an_edit_list_is_not_trusted(tmp_path, sound, decoder):
    path = tmp_path / "cut.mp4"
    cut_without_encoding(sound, path, 30)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == NUM_FRAMES, "the header lies"
    assert numbers(path, decoder) == list(range(30, NUM_FRAMES))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("count", [10, 600])
def test_frame_count_of_an_avi_header_is_not_trusted(tmp_path, count, decoder):
    path = write(tmp_path / "x.avi", **ODD_BUT_SOUND["b-frames.avi"])
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, count)
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, count)
    path.write_bytes(bytes(data))
    try:
        found = numbers(path, decoder)
    except VideoError as error:
        assert "ends early" in str(error)  # noqa: PT017
        assert count > NUM_FRAMES
    else:
        assert found == list(range(NUM_FRAMES))


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_size_that_changes_in_the_stream_is_refused(tmp_path, decoder):
    one = write(tmp_path / "one.ts", codec="mpeg2video", options={"b": "2M"}, **AT_25)
    other = write(
        tmp_path / "two.ts", codec="mpeg2video", options={"b": "2M"}, size=(64, 112), **AT_25
    )
    both = tmp_path / "both.ts"
    both.write_bytes(one.read_bytes() + other.read_bytes())
    reason = "size changes|does not advance|use pyav"
    with pytest.raises(VideoError, match=reason):
        numbers(both, decoder)


def test_a_size_that_changes_is_named(tmp_path):
    sizes = [(48, 80)] * 20 + [(64, 112)] * 20
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 80, "yuvj420p"
        for number, size in enumerate(sizes):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.height, encoder.width = size
            encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 25)
            frame = av.VideoFrame.from_ndarray(barcode(number, *size), format="rgb24")
            frame.pts = number
            for packet in encoder.encode(frame.reformat(format="yuvj420p")):
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                packet.pts = packet.dts = number
                container.mux(packet)
    with pytest.raises(VideoError, match="size changes from 80x48 to 112x64 at frame 20"):
        numbers(path)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("make", "reason", "stage"),
    [
        (lambda path: path.touch(), "empty", "open"),
        (lambda path: path.mkdir(), "directory", "open"),
        (os.mkfifo, "not a regular file", "open"),
        (lambda path: path.symlink_to("nowhere"), "no such file", "open"),
        (lambda path: path.symlink_to(path), "too many levels", "open"),
        (lambda path: path.write_text("a film about nothing"), "Invalid data", "open"),
        (lambda path: path.write_text("<html>not found</html>" * 99), "Invalid data", "open"),
        (lambda path: path.write_bytes(bytes(10_000)), "Invalid data", "open"),
        (lambda path: path.write_bytes(random.Random(1).randbytes(9999)), "Invalid data", "open"),
        (lambda path: write(path, times=[0]), "only one frame", "decode"),
        (lambda path: None, "no such file", "open"),
    ],
    ids=[
        *("empty", "directory", "fifo", "dangling link", "link to itself", "text", "html"),
        *("zeros", "noise", "one frame", "missing"),
    ],
)
def test_file_that_is_no_video_is_refused_with_its_reason_and_stage(
    tmp_path, make, reason, stage, decoder
):
    path = tmp_path / "x.mp4"
    make(path)
    with pytest.raises(VideoError, match=reason) as caught:
        numbers(path, decoder)
    assert caught.value.stage == stage
    assert caught.value.final


def test_a_socket_is_refused_and_does_not_block(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("x.mp4")
        with pytest.raises(VideoError, match="not a regular file"):
            check_file(Path("x.mp4"))


def test_a_file_that_may_not_be_read_is_refused(sound, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)  # root may read all
    with pytest.raises(VideoError, match="no permission to read it") as caught:
        numbers(sound)
    assert caught.value.stage == "open"


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", [".mp4", ".streamed.mp4", ".mkv", ".webm", ".avi", ".ts"])
def test_a_file_cut_short_is_refused(tmp_path, sound, streamed, suffix, share, decoder):
    path = tmp_path / f"x{suffix}"
    if suffix == ".mp4":
        shutil.copy(sound, path)
    elif suffix == ".streamed.mp4":
        shutil.copy(streamed, path)
    else:
        vp9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}
        kind = {".webm": vp9, ".avi": ODD_BUT_SOUND["b-frames.avi"]}.get(suffix, {})
        write(path, **kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    try:
        found = numbers(path, decoder)
    except VideoError:
        return
    assert suffix == ".ts", "MPEG-TS has no header that tells its length"
    assert found == list(range(len(found)))


def test_audio_alone_is_refused(tmp_path):
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        for index in range(30):
            frame.pts = 1024 * index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="has no video stream") as caught:
        numbers(path)
    assert caught.value.stage == "open"


def test_unknown_codec_is_refused(tmp_path, sound):
    data = sound.read_bytes()
    path = tmp_path / "x.mp4"
    path.write_bytes(data.replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match=r"unknown codec|Invalid data|no video stream"):
        numbers(path)


DAMAGED = {
    "h264.mp4": {},
    "h264.mkv": {},
    "hevc.mp4": {
        "codec": "libx265",
        "options": {"preset": "ultrafast", "x265-params": "log-level=none"},
    },
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "25", "bf": "2", "b": "2M"}},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_in_the_middle_never_loses_or_moves_a_frame(tmp_path, name):
    """It is refused; or the damage is in a picture, and every frame is in its place."""
    path = write(tmp_path / name, **DAMAGED[name])
    whole = path.read_bytes()
    refused = 0
    for seed in range(48):
        draw = random.Random(seed)
        data = bytearray(whole)
        at = draw.randrange(len(data) // 5, len(data) * 3 // 4)
        length = (1, 20, 300)[seed % 3]
        data[at : at + length] = draw.randbytes(length)
        path.write_bytes(bytes(data))
        try:
            frames = [(frame.index, frame.ticks) for frame in decode(path)]
        except VideoError:
            refused += 1
            continue
        step = frames[1][1]
        assert frames == [(index, index * step) for index in range(NUM_FRAMES)], seed
    assert refused >= 5


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("length", [40, 300])
def test_a_damaged_picture_of_motion_jpeg_is_refused_and_not_filled_up_with_grey(
    tmp_path, length, decoder
):
    path = write(tmp_path / "a.mkv", codec="mjpeg", pix_fmt="yuvj420p", options={"q:v": "3"})
    assert len(list(decode(path, decoder=decoder))) == NUM_FRAMES
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][7]
        picture = bytes(packet)
    data = path.read_bytes()
    at = data.index(picture) + len(picture) // 2
    path.write_bytes(data[:at] + bytes(length) + data[at + length :])
    with pytest.raises(VideoError):
        for _ in decode(path, decoder=decoder):
            pass


def garbage_first(data):
    at = data.index(b"mdat") + 8
    data[at : at + 4000] = random.Random(0).randbytes(4000)


def zeros_within(data):
    middle = (data.index(b"mdat") + data.index(b"moov")) // 2
    data[middle : middle + 4000] = bytes(4000)


def places_outside(data):
    at = data.index(b"stco") + 12
    struct.pack_into(">I", data, at, 2**31)


def sizes_of_nothing(data):
    at = data.index(b"stsz") + 16
    for packet in range(10, 20):
        struct.pack_into(">I", data, at + 4 * packet, 0)


def times_that_stand_still(data):
    at = data.index(b"stts") + 12
    struct.pack_into(">I", data, at + 4, 0)


def another_size(data):
    at = data.index(b"avc1") + 4 + 24
    struct.pack_into(">HH", data, at, 65_535, 65_535)


def a_longer_duration(data):
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        at = data.index(box) + offset
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] * 3)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "spoil",
    [
        *(garbage_first, zeros_within, places_outside, sizes_of_nothing),
        *(times_that_stand_still, another_size, a_longer_duration),
    ],
)
def test_damaged_header_or_start_gives_all_frames_or_a_reason(tmp_path, sound, spoil, decoder):
    data = bytearray(sound.read_bytes())
    spoil(data)
    path = tmp_path / "x.mp4"
    path.write_bytes(bytes(data))
    try:
        found = numbers(path, decoder)
    except VideoError as error:
        assert str(error)  # noqa: PT017
    else:
        assert found == list(range(NUM_FRAMES))


def test_frame_lost_in_the_middle_of_a_stream_is_detected(tmp_path):
    path = write(
        tmp_path / "x.mp4",
        codec="libx265",
        options={"preset": "ultrafast", "x265-params": "log-level=none:keyint=25"},
    )
    with av.open(str(path)) as container:
        packets = list(container.demux(video=0))
    middle = packets[40]
    data = bytearray(path.read_bytes())
    # a picture that says it is of a kind which decoders pass over: bits 1 to 6 are the type
    data[middle.pos + 4] = 60 << 1
    path.write_bytes(bytes(data))
    with pytest.raises(VideoError, match=r"frame \d+, at \d\.\d+ s, cannot be decoded"):
        numbers(path)


def test_gap_in_matroska_that_the_demuxer_skips_is_detected(tmp_path):
    path = write(tmp_path / "x.mkv")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(bytes(data))
    with pytest.raises(VideoError, match=r"damaged near frame|marked corrupt|cannot be decoded"):
        numbers(path)


def test_decord_is_refused_where_it_hangs_lacks_the_codec_or_fills_the_memory(sound):
    info = probe(sound)
    for change, reason in [
        ({"codec": "av1"}, "does not read av1"),
        ({"container": "mpegts"}, "in mpegts"),
        ({"width": 80_000, "height": 48_000}, "would hold"),
        ({"duration_seconds": 1e6}, "would hold"),
    ]:
        with pytest.raises(VideoError, match=reason) as caught:
            next(read_decord(sound, replace(info, **change)))
        assert not caught.value.final


NAMES = [
    "name with  spaces.mp4",
    "\u6f22\u5b57 \u0438\u043c\u044f \U0001f3ac n\u00famero.mp4",
    "'quotes\" and $HOME;.mp4",
    "-i.mp4",
    "100%d.mp4",
    "concat:a|b.mp4",
    "line\nbreak.mp4",
    f"{'long' * 60}.mp4",
    f"{'d' * 150}/{'e' * 150}.mp4",
]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_file_names_with_special_characters_are_read(tmp_path, sound, name, decoder, monkeypatch):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(sound, path)
    assert numbers(path, decoder) == list(range(NUM_FRAMES))
    if "/" not in name:
        monkeypatch.chdir(tmp_path)
        assert numbers(Path(name), decoder) == list(range(NUM_FRAMES))
