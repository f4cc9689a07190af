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
