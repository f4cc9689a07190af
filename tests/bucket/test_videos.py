"""Videos on a bucket: the frames of the files on disk, of which only what is needed is fetched."""

from pathlib import Path

import av
import numpy as np
import pytest

from tokenreel.cache.bucket import path as paths
from tokenreel.cache.bucket.path import ObjectReader, store_path
from tokenreel.extract.video import decoders, seeking
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.seeking import scan_packets
from tokenreel.extract.video.source import SourceFiles
from tokenreel.extract.video.types import VideoError

SECONDS, RATE = 40, 10


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Noise in H.264, 40 s, a key frame each second: its bytes are nearly all of its pictures."""
    path = tmp_path_factory.mktemp("film") / "long film.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"crf": "18", "preset": "ultrafast", "threads": "1"}
        stream.codec_context.gop_size = RATE
        for number in range(SECONDS * RATE):
            picture = rng.integers(0, 256, (64, 96, 3), np.uint8)
            picture[:8, : number % 96] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def opened(monkeypatch) -> list[ObjectReader]:
    """The objects that are opened from now on."""
    readers: list[ObjectReader] = []

    class Noted(ObjectReader):
        def __init__(self, path):
            super().__init__(path)
            readers.append(self)

    monkeypatch.setattr(
        paths, "BLOCK_BYTES", 2**14
    )  # as small to this film as others are to long ones
    paths._blocks.clear()
    for module in (decoders, seeking):
        monkeypatch.setattr(module, "ObjectReader", Noted)
    return readers


@pytest.fixture
def there(s3, film):
    path = store_path(f"{s3}/videos/{film.name}")
    path.write_bytes(film.read_bytes())
    return path


def frames_of(path, **how) -> list[tuple[int, int, bytes]]:
    return [(f.index, f.ticks, f.pixels.tobytes()) for f in decode(path, **how)]


def test_a_video_on_a_bucket_has_the_frames_of_the_file(film, there):
    assert frames_of(there) == frames_of(film)


def test_a_clip_of_a_long_video_does_not_download_it(film, there, opened):
    clip = {"from_seconds": 30.0, "until_seconds": 31.0}
    assert frames_of(there, **clip) == frames_of(film, **clip)
    size, fetched = film.stat().st_size, sum(reader.num_fetched for reader in opened)
    assert size > 2_000_000
    assert fetched < 0.5 * size
    opened.clear()
    assert frames_of(there, **clip) == frames_of(film, **clip)  # its packets are known by now
    assert sum(reader.num_fetched for reader in opened) < 0.3 * size


def test_a_scan_of_a_listed_file_fetches_its_header_alone(film, there, opened):
    here, found = scan_packets(film), scan_packets(there)
    for name in ("pts", "place", "shown"):
        assert (getattr(here, name) == getattr(found, name)).all()
    assert (here.keys, here.first_pts) == (found.keys, found.first_pts)
    assert sum(reader.num_fetched for reader in opened) < 0.3 * film.stat().st_size


def test_a_video_is_not_hashed_and_another_in_its_place_is_seen(film, there):
    files = SourceFiles(there.parent)
    source, _, state = files.examine_settled(there.name, "pyav")
    assert (source.sha256, source.num_bytes) == ("", film.stat().st_size)
    assert files.change_since(source, state) == ""
    there.write_bytes(film.read_bytes()[:-1] + b"x")
    assert "bytes of" in files.change_since(source, state)


def test_what_decord_cannot_read_and_what_is_not_there_is_said(film, there):
    with pytest.raises(VideoError, match="does not read videos on a bucket"):
        next(decode(there, decoder="decord"))
    with pytest.raises(VideoError, match="no such object"):
        next(decode(there.parent / "missing.mp4"))
    torn = there.parent / "torn.mp4"
    torn.write_bytes(film.read_bytes()[:100_000])
    with pytest.raises(VideoError):
        frames_of(torn)
