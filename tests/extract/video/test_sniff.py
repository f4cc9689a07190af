"""Which files are videos: what FFmpeg opens as a film, whatever its name; the rest is counted."""

import os
import shutil
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tokenreel.extract.video import sniff
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.decoders import probe
from tokenreel.extract.video.sniff import find_videos, is_video

FORMATS = {  # ending -> (format of FFmpeg, encoder, pixel format)
    "gif": ("gif", "gif", "rgb8"),
    "m2ts": ("mpegts", "mpeg2video", "yuv420p"),
    "ts": ("mpegts", "mpeg2video", "yuv420p"),
    "asf": ("asf", "mpeg4", "yuv420p"),
    "vob": ("vob", "mpeg2video", "yuv420p"),
    "264": ("h264", "libx264", "yuv420p"),
    "m4v": ("m4v", "mpeg4", "yuv420p"),
    "nut": ("nut", "mpeg4", "yuv420p"),
    "flv": ("flv", "flv1", "yuv420p"),
    "3gp": ("3gp", "mpeg4", "yuv420p"),
    "mkv": ("matroska", "mpeg4", "yuv420p"),
    "apng": ("apng", "apng", "rgb24"),
}


def write_film(path: Path, kind: str, *, num_frames: int = 12, rate: int = 25) -> Path:
    name, encoder, pixel_format = FORMATS[kind]
    draw = np.random.default_rng(0)
    with av.open(str(path), "w", format=name) as container:
        stream = container.add_stream(encoder, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for number in range(num_frames):
            pixels = draw.integers(0, 255, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    "name", ["a.film", "a", "a.BIN", "a.txt", "a.jpg", "a.csv2", "caf\u00e9.dat"]
)
@pytest.mark.parametrize("kind", ["mkv", "gif", "m2ts", "nut"])
def test_a_film_is_a_video_under_any_name(tmp_path, name, kind):
    assert is_video(write_film(tmp_path / name, kind))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_film_is_a_video_in_any_format(tmp_path, kind):
    assert is_video(write_film(tmp_path / f"a.{kind.upper()}", kind))


def junk(folder: Path) -> list[str]:
    """Files of many kinds that are no films, by name."""
    folder.mkdir()
    draw = np.random.default_rng(0)  # the same files in any order of the tests
    picture = Image.fromarray(draw.integers(0, 255, (40, 60, 3), np.uint8))
    for ending in ("jpg", "png", "bmp", "tiff", "webp", "gif", "ppm", "tga"):
        picture.save(folder / f"picture.{ending}")
    shutil.copyfile(folder / "picture.jpg", folder / "picture_without_ending")
    with wave.open(str(folder / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(draw.bytes(16000))
    np.save(folder / "array.npy", draw.standard_normal((100, 100)))
    np.savez(folder / "arrays.npz", a=draw.standard_normal(100))
    texts = {
        "notes.txt": "notes\n" * 1000,
        "art.nfo": "\x1b[31mred\n" * 200,
        "list.m3u8": "#EXTM3U\n#EXTINF:1,\nfilm.mkv\n",
        "list.ffconcat": "ffconcat version 1.0\nfile film.mkv\n",
        "code.ts": "const a: number = 1;\n",
        "module.MTS": "export default 1;\n",
        "umlauts": "\u00e4" * 4095 + "b" * 10,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "empty.bin").touch()
    (folder / "zeros.dat").write_bytes(bytes(100_000))
    for number in range(8):
        (folder / f"random{number}.bin").write_bytes(draw.bytes(100_000))
        (folder / f"{number}").write_bytes(draw.bytes(50_000))
    return sorted(path.name for path in folder.iterdir())


def test_what_is_no_film_is_counted_by_ending(tmp_path):
    names = junk(tmp_path / "junk")
    found = find_videos(tmp_path / "junk", names)
    assert found.videos == []
    assert found.unreadable == []
    assert found.others.total() == len(names)
    assert found.others[".gif"] == found.others[".ts"] == found.others[".mts"] == 1
    assert found.others[""] == 10
    assert "10 without ending, 9 .bin, 1 .bmp, " in found.describe_others()


@pytest.mark.parametrize("name", ["a.mp4", "b.MXF", "c.ts"])
def test_a_damaged_or_empty_file_that_is_named_a_video_is_one(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / f"damaged_{name}").write_bytes(np.random.default_rng(0).bytes(5000))
    names = [name, f"damaged_{name}"]
    assert find_videos(tmp_path, names).videos == names


def test_a_list_of_other_files_is_not_opened_under_any_name(tmp_path):
    write_film(tmp_path / "film.mkv", "mkv")
    (tmp_path / "list.bin").write_text(f"ffconcat version 1.0\nfile {tmp_path}/film.mkv\n")
    assert not is_video(tmp_path / "list.bin")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.dat")
    assert not is_video(tmp_path / "pipe.dat")


def test_a_file_that_cannot_be_read_is_listed(tmp_path, monkeypatch):
    (tmp_path / "closed.dat").write_bytes(b"\1" * 100)
    (tmp_path / "broken").symlink_to("nowhere")
    opens = Path.open

    def refuse(path, *args, **options):
        if path.name == "closed.dat":
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    found = find_videos(tmp_path, ["broken", "closed.dat"])
    assert found.videos == []
    assert found.unreadable == [
        ("broken", "no such file or directory"),
        ("closed.dat", "permission denied"),
    ]


@pytest.mark.parametrize("kind", ["264", "m4v", "m2ts", "gif", "nut", "flv"])
def test_a_film_without_a_container_has_the_times_of_its_rate(tmp_path, kind):
    path = write_film(tmp_path / f"a.{kind}", kind)
    base = probe(path).time_base
    frames = list(decode(path))
    edges = [float(ticks * base) for ticks in [*(f.ticks for f in frames), frames[-1].stop]]
    np.testing.assert_allclose(np.diff(edges), 1 / 25, atol=0.0051)
    assert len(frames) == 12


@pytest.mark.parametrize("kind", ["264", "m4v"])
def test_the_last_frame_of_a_stream_without_times_lasts_as_long_as_the_others(tmp_path, kind):
    path = write_film(tmp_path / f"a.{kind}", kind, rate=10)  # FFmpeg shows it at 25 a second
    base = probe(path).time_base
    frames = list(decode(path))
    edges = [*(float(frame.ticks * base) for frame in frames), float(frames[-1].stop * base)]
    np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0], atol=1e-6)


def test_files_with_the_name_of_a_video_are_not_opened(tmp_path, monkeypatch):
    names = [*(f"{number}.mp4" for number in range(50)), "a.json", "b.json"]
    for name in names:
        (tmp_path / name).write_text("{}")
    opened = []
    monkeypatch.setattr(sniff, "is_video", lambda path: opened.append(path.name))
    assert len(find_videos(tmp_path, names).videos) == 50
    assert sorted(opened) == ["a.json", "b.json"]


FIELD = os.environ.get("TOKENREEL_FIELD")


@pytest.mark.skipif(not FIELD, reason="TOKENREEL_FIELD names no folder of failing inputs")
def test_all_containers_of_the_field_are_videos():
    folder = Path(FIELD, "mixed_containers")
    names = sorted(path.name for path in folder.iterdir())
    assert find_videos(folder, names).videos == names
    assert all(is_video(folder / name) for name in names)
    assert [len(list(decode(folder / name))) for name in names] == [12] * 8
