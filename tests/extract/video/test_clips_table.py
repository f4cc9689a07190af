"""Real clips: as many frames as FFmpeg gives, pixel by pixel the same from both decoders.

A read from the middle on gives the second half of them.

The table was measured with FFmpeg's own program.  It needs the clips: TOKENREEL_CLIPS names their
folder, with real/, derived/ and bad/ in it.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.types import VideoError

CLIPS = os.environ.get("TOKENREEL_CLIPS")
pytestmark = pytest.mark.skipif(not CLIPS, reason="TOKENREEL_CLIPS names no folder")

REAL = {
    "aa_baseball.mp4": 300,
    "aa_cake.mp4": 300,
    "aa_dance.mp4": 235,
    "aa_guitar.mp4": 300,
    "asl_again.mkv": 77,
    "asl_walk.mkv": 89,
    "cve_vid1.mp4": 56,
    "cve_vid2.mp4": 134,
    "dc_unordered.mov": 4,
    "dc_video_0.mov": 3,
    "dc_video_90.mov": 3,
    "ffp_in.mp4": 209,
    "hf_66x50.mov": 82,
    "intel_car.mp4": 377,
    "mm_demo.mp4": 280,
    "mm_rawvideo.mp4": 32,
    "mm_skeleton.mp4": 72,
    "mm_structuralize.mp4": 300,
    "mm_test_mp4.mp4": 300,
    "mp_bbb_webm.webm": 720,
    "mp_chaplin.mp4": 241,
    "mp_failing_audio.mp4": 280,
    "mp_fire2.mp4": 25,
    "mp_transparent.webm": 150,
    "nasa_13013.mp4": 390,  # of two streams the better one; the first holds 325
    "nasa_rotated.mp4": 17,
    "pancake_mkv.mkv": 310,
    "pp_eivideo.mp4": 117,
    "pp_example.avi": 131,
    "psd_counter.mp4": 30,
    "psd_delayed.mp4": 24,
    "psd_rotate.mp4": 240,
    "psd_testvideo.mp4": 720,
    "sk_cleanjerk.mp4": 300,
    "sk_skateboarding.mp4": 300,
    "sv_bbb.mp4": 132,
    "sv_bikes.mp4": 250,
    "sv_carphone.mp4": 120,
    "tc_av1.mkv": 125,
    "tc_discard_first_key.mp4": 25,
    "tc_h265.mp4": 10,
    "tc_nonzero_start.mp4": 12,
    "tc_odd_wh_444.mp4": 25,
    "tc_odd_wh_vp9.mp4": 25,
    "tc_testsrc2_mpeg4.avi": 30,
    "tc_testsrc2_vp8.webm": 30,
    "tc_testsrc2_vp9.webm": 30,
    "vf_GGSY1.mp4": 355,
}
DERIVED = {
    "bt709_tag.mp4": 60,
    "copycut_noedit.mp4": 242,
    "fg_dance_640x360.mp4": 208,
    "fg_testvideo_640x360.mp4": 558,
    "fullrange.mp4": 60,
    "gray.mp4": 60,
    "interlaced.mp4": 60,
    "n180_720p.mp4": 180,
    "n180_fg_640x360.mp4": 180,
    "n180_fg_av1.mp4": 180,
    "n180_fg_hevc.mp4": 180,
    "n180_fg_mkv.mkv": 180,
    "n180_fg_mpeg4.avi": 180,
    "n180_fg_onegop.mp4": 180,
    "n180_fg_ts.ts": 180,
    "n180_fg_vp9.webm": 180,
    "n180_skate_340x256.mp4": 180,
    "n72_1080p.mp4": 72,
    "nonmod16_362x202.mp4": 235,
    "psd_aspect_4s.mp4": 102,
    "two_frames.mp4": 2,
}
TABLE = [(f"real/{name}", count) for name, count in REAL.items()]
TABLE += [(f"derived/{name}", count) for name, count in DERIVED.items()]
BEYOND_DECORD = {
    "real/tc_av1.mkv": "does not read av1",
    "derived/n180_fg_av1.mp4": "does not read av1",
    "derived/n180_fg_ts.ts": "mpegts",
    "real/mp_bbb_webm.webm": "GiB of frames",
    "real/psd_testvideo.mp4": "GiB of frames",
}
OTHER_PIXELS = {  # levels of 255: another rounding of edges, chroma or fields in its old FFmpeg
    "real/tc_odd_wh_vp9.mp4": 143,
    "derived/interlaced.mp4": 49,
    "derived/n180_fg_mpeg4.avi": 2,
}
BAD = {
    "audio_only.mp3": "no video stream",
    "audio_only.mp4": "no video stream",
    "bitflip_heavy.mp4": "corrupt",
    "directory.mp4": "directory",
    "html.mp4": "Invalid data",
    "jpeg_renamed.mp4": "only one frame",
    "moov_corrupt.mp4": "Invalid data|no video stream|unknown codec",
    "random.mp4": "Invalid data",
    "repo_corrupted.mp4": "Invalid data",
    "text.mp4": "Invalid data",
    "trunc.avi": "corrupt",
    "trunc.mkv": "ended prematurely",
    "trunc.webm": "ended prematurely",
    "trunc_faststart_60.mp4": "Invalid data",
    "trunc_faststart_hdronly.mp4": "Invalid data",
    "trunc_moov_end.mp4": "Invalid data",
    "zero.mp4": "empty",
}


def test_table_lists_the_clips_of_the_folder():
    for folder, table in [("real", REAL), ("derived", DERIVED), ("bad", BAD)]:
        there = {path.name for path in Path(CLIPS, folder).iterdir()}
        assert there - {"one_frame.mp4"} == set(table)


@pytest.mark.parametrize(("name", "count"), TABLE, ids=[name for name, _ in TABLE])
def test_both_decoders_and_a_seek_give_the_frames_of_the_table(name, count):
    """Read side by side, so that no more than a frame of each is held."""
    path = Path(CLIPS, name)
    base = probe(path).time_base
    second = None if name in BEYOND_DECORD else decode(path, decoder="decord")
    sought = None
    found = worst = 0
    for frame in decode(path):
        assert frame.index == found
        found += 1
        if second is not None:
            worst = max(worst, most_apart(frame, next(second)))
        if frame.index == count // 2:
            sought = decode(path, from_seconds=float(frame.ticks * base) - 1e-4)
        if sought is not None:
            assert most_apart(frame, next(sought)) == 0
    assert found == count
    assert next(sought, None) is None
    if second is not None:
        assert next(second, None) is None
        assert worst == OTHER_PIXELS.get(name, 0)


def most_apart(one, other):
    """Levels of 255 between two frames of the same time and size."""
    assert (one.index, one.ticks, one.size) == (other.index, other.ticks, other.size)
    if np.array_equal(one.pixels, other.pixels):
        return 0
    return int(np.abs(one.pixels.astype(np.int16) - other.pixels).max())


@pytest.mark.parametrize("name", BEYOND_DECORD)
def test_decord_refuses_what_it_cannot_read(name):
    with pytest.raises(VideoError, match=BEYOND_DECORD[name]):
        next(decode(Path(CLIPS, name), decoder="decord"))


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_its_reason(name, decoder):
    reason = BAD[name] if decoder == "pyav" else f"{BAD[name]}|decord (fails|ends)"
    with pytest.raises(VideoError, match=reason):
        list(decode(Path(CLIPS, "bad", name), decoder=decoder))
