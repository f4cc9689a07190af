"""Small films of scenes of one colour each, with hard cuts."""

from pathlib import Path

import av
import numpy as np

COLOURS = [(200, 40, 40), (40, 180, 60), (50, 60, 200), (190, 190, 60), (120, 120, 120)]


def write_film(
    path: Path,
    lengths: list[int],
    *,
    size: tuple[int, int] = (48, 64),
    colours: list[tuple[int, int, int]] = COLOURS,
    pix_fmt: str = "yuv420p",
    codec: str = "libx264",
) -> Path:
    """A scene of a colour for each number of frames, 25 a second, in weak noise of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(len(lengths))
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "crf": "10"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        for number, length in enumerate(lengths):
            for _ in range(length):
                pixels = np.array(colours[number % len(colours)]) + draw.integers(-8, 9, (*size, 3))
                pixels = pixels.clip(0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def starts(scenes, *, rate=25):
    """Numbers of the first frames of scenes of a film of a constant rate."""
    return [round(scene.start_seconds * rate) for scene in scenes]


def repeat_film(path: Path, film: Path, times: int) -> Path:
    """A film again and again, its packets copied: hours take seconds to write."""
    with av.open(str(film)) as source, av.open(str(path), "w") as container:
        taken = source.streams.video[0]
        stream = container.add_stream_from_template(taken)
        length = int(taken.frames / taken.average_rate / taken.time_base)
        packets = [
            (bytes(packet), packet.pts, packet.dts, packet.is_keyframe, packet.duration)
            for packet in source.demux(taken)
            if packet.dts is not None
        ]
        for number in range(times):
            for data, pts, dts, is_keyframe, duration in packets:
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, taken.time_base
                packet.pts, packet.dts = pts + number * length, dts + number * length
                packet.is_keyframe, packet.duration = is_keyframe, duration
                container.mux(packet)
    return path
