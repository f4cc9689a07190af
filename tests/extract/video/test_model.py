"""Random streams: what both decoders show is what a slow reader of the model shows."""

import os

import numpy as np
import pytest

from tests.extract.video.streams import read_slowly, write_stream
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.types import VideoError

IN_A_PART = 25
FIRST = int(os.environ.get("TOKENREEL_FIRST_STREAM", "1000"))
MANY = int(os.environ.get("TOKENREEL_STREAMS", "10000"))


def require_model(folder, seed):
    """Write the stream of a seed, and compare both decoders with the slow reader."""
    stream = write_stream(folder, seed)
    wanted = read_slowly(stream)
    base = probe(stream.path).time_base
    for decoder in ("pyav", "decord"):
        if not wanted:
            with pytest.raises(VideoError, match=r"only one frame|no frame"):
                next(decode(stream.path, decoder=decoder))
            continue
        try:
            found = list(decode(stream.path, decoder=decoder))
        except VideoError as error:
            if decoder == "decord" and stream.repeats and not error.final:
                continue  # decord may refuse repeated time stamps: PyAV then reads them
            raise AssertionError(f"stream {seed}: {decoder}: {error}") from error
        what = (seed, stream.path.suffix, decoder)
        assert [f.ticks * base for f in found] == [w.start for w in wanted], what
        assert [f.stop * base for f in found] == [w.stop for w in wanted], what
        for number, (frame, shown) in enumerate(zip(found, wanted, strict=True)):
            assert frame.size == shown.pixels.shape[:2], what
            difference = np.abs(frame.pixels.astype(int) - shown.pixels)
            # decord's older FFmpeg rounds chroma in its own way.
            worst = difference.max() if decoder == "pyav" else difference.mean() // 2
            assert worst == 0, (*what, number)
    stream.path.unlink()


@pytest.mark.parametrize("part", range(8))
def test_random_streams_are_shown_as_the_model_says(tmp_path, part):
    for seed in range(part * IN_A_PART, (part + 1) * IN_A_PART):
        require_model(tmp_path, seed)


@pytest.mark.slow
def test_very_many_random_streams_are_shown_as_the_model_says(tmp_path):
    for seed in range(FIRST, FIRST + MANY):
        require_model(tmp_path, seed)
