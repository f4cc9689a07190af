"""A sound beside the pictures: what it adds to a file's length is no part of the video's."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.extract.barcodes import barcode, read_barcode
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import packets_of, probe
from tokenreel.extract.video.types import VideoError

NUM_FRAMES = 60  # at 25 a second
RATE = 44_100  # of the sound
SAMPLES = 1024


def write_with_sound(path, *, seconds, first_second=0):
    """Numbered frames at 25 a second and a silence; packets lie in the file in order of time."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "12", "bf": "2"})
        video.height, video.width, video.pix_fmt = 48, 80, "yuv420p"
        sound = container.add_stream("aac", rate=RATE, layout="mono")
        packets = []
        for number in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        for place in range(0, int(seconds * RATE), SAMPLES):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, SAMPLES), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = RATE, place + int(first_second * RATE)
            packets += sound.encode(silence)
        packets += sound.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    if path.suffix == ".mkv":  # as old muxers write it: the file's length alone
        path.write_bytes(path.read_bytes().replace(b"DURATION", b"xxxxxxxx"))
    return path


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.flv"])
def test_audio_longer_than_the_video_is_not_taken_for_truncation(tmp_path, name, decoder):
    path = write_with_sound(tmp_path / name, seconds=9)
    found = [read_barcode(frame.pixels) for frame in decode(path, decoder=decoder)]
    assert found == list(range(NUM_FRAMES))
    if name != "x.mp4":
        assert probe(path).duration_seconds > 8  # nothing there tells how long the video is


@pytest.mark.parametrize("seconds", [2.4, 9])
@pytest.mark.parametrize("name", ["x.mkv", "x.flv"])
def test_truncated_file_with_audio_is_refused_at_any_cut(tmp_path, name, seconds):
    path = write_with_sound(tmp_path / name, seconds=seconds)
    data = path.read_bytes()
    for share in np.linspace(0.05, 0.95, 19):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(VideoError):
            list(decode(path))


def test_stream_found_while_reading_is_no_damage():
    class Container:
        """PyAV's, where the flush at the end meets a stream that the header did not name."""

        def demux(self, *streams):
            yield "a packet"
            yield "the flush of the video"
            raise IndexError("list index out of range")

    assert list(packets_of(Container(), "video")) == ["a packet", "the flush of the video"]
