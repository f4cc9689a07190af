"""Videos from the field: each frame with its picture and its time, by both decoders."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.extract.field import FIELD
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe

DECODERS = ["pyav", "decord"]
NULL_CHUNKS = [0, 0.1, 0.2, 0.3, 1.0, 1.1, 1.2, 1.3, 2.0, 2.1, 2.2, 2.3]


def in_time(path, **options):
    """Start of each frame and end of the last, in seconds, and the frames."""
    frames, base = list(decode(path, **options)), probe(path).time_base
    times = [round(float(frame.ticks * base), 4) for frame in frames]
    return times, round(float(frames[-1].stop * base), 4), frames


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("name", "times", "end"),
    [
        ("avi_dropped_frames.avi", NULL_CHUNKS, 2.4),
        ("avi_dropped_frames_truth.mkv", NULL_CHUNKS, 2.4),
        ("duplicate_pts.mkv", [number / 10 for number in range(12)], 1.2),
        ("last_frame_3s.mp4", [number / 10 for number in range(10)], 3.9),
        ("last_frame_3s.mkv", [number / 10 for number in range(10)], 3.9),
    ],
)
def test_each_frame_is_shown_until_the_next_and_the_last_until_the_stream_ends(
    name, times, end, decoder
):
    found, last, frames = in_time(FIELD / name, decoder=decoder)
    assert (found, last) == (times, end)
    assert [frame.stop for frame in frames[:-1]] == [frame.ticks for frame in frames[1:]]
    assert sum(frame.is_moved for frame in frames) == (name == "duplicate_pts.mkv")


@pytest.mark.parametrize("decoder", DECODERS)
def test_null_chunks_do_not_move_frames_of_a_range(decoder):
    path, truth = FIELD / "avi_dropped_frames.avi", FIELD / "avi_dropped_frames_truth.mkv"
    found = in_time(path, decoder=decoder, from_seconds=0.8, until_seconds=1.05)
    wanted = in_time(truth, from_seconds=0.8, until_seconds=1.05)
    assert found[:2] == wanted[:2] == ([1.0], 1.1)
    np.testing.assert_array_equal(found[2][0].pixels, wanted[2][0].pixels)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_reordered_frames_between_null_chunks_have_their_own_times(tmp_path, codec, decoder):
    times = [round(time * 10) for time in NULL_CHUNKS]
    with av.open(str(tmp_path / "gaps.avi"), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number, time in enumerate(times):
            grey = np.full((96, 128, 3), number * 20, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found, _, frames = in_time(tmp_path / "gaps.avi", decoder=decoder)
    assert found == NULL_CHUNKS
    greys = [round(float(frame.pixels.mean()) / 20) for frame in frames]
    assert greys == list(range(12))


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_matrix_that_the_codec_writes_once_holds_for_all_frames(tmp_path, decoder):
    source, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10", "g": "3"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        picture = np.zeros((96, 128, 3), np.uint8)
        picture[:20, :50] = 255
        for _ in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(source)) as container, av.open(str(turned), "w") as out:
        stream = container.streams.video[0]
        copy = out.add_stream_from_template(stream)
        insert = "h264_metadata=display_orientation=insert:flip=horizontal:rotate=90"
        bitstream = av.bitstream.BitStreamFilterContext(insert, stream)
        for packet in [*container.demux(stream), None]:
            for changed in bitstream.filter(packet):
                changed.stream = copy
                out.mux(changed)
    plain = [frame.pixels for frame in decode(source)]
    frames = list(decode(turned, decoder=decoder))
    assert len(frames) == len(plain) == 6
    for frame, before in zip(frames, plain, strict=True):
        wanted = np.rot90(before[:, ::-1], frames[0].orientation.quarter_turns * -1)
        assert frame.orientation == frames[0].orientation
        assert frame.orientation.is_mirrored
        np.testing.assert_array_equal(frame.pixels, wanted)


def coded(path):
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("mirrored_matrix.mp4", lambda picture: picture[:, ::-1]),
        ("flipped_matrix.mp4", lambda picture: picture[::-1]),
        ("rotation_89_6.mp4", lambda picture: picture.transpose(1, 0, 2)[:, ::-1]),
    ],
)
def test_a_display_matrix_is_applied(name, shown, decoder):
    frame = next(decode(FIELD / name, decoder=decoder))
    wanted = shown(coded(FIELD / name))
    assert frame.size == wanted.shape[:2]
    np.testing.assert_array_equal(frame.pixels, wanted)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_disc_of_wide_pixels_is_round(decoder):
    path = FIELD / "anamorphic_disc.mp4"
    pixels = next(decode(path, decoder=decoder)).pixels
    disc = pixels.astype(int).sum(axis=2) > 380
    corner = disc[0, 0]
    height, width = (np.flatnonzero((disc != corner).any(axis=axis)).size for axis in (1, 0))
    assert pixels.shape[:2] == (576, 1024)
    assert abs(width / height - 1) < 0.02
    left = next(decode(path, decoder=decoder, pixel_aspect="ignore")).pixels
    np.testing.assert_array_equal(left, coded(path))
    assert probe(path).pixel_aspect == Fraction(64, 45)
