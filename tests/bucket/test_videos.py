"""Videos on a bucket: the frames of the files on disk, of which only what is needed is fetched."""

import io
import time
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tokenreel.cache.bucket import objects
from tokenreel.cache.bucket import path as paths
from tokenreel.cache.bucket.local_cache import BYTES, local_cache
from tokenreel.cache.bucket.objects import Bucket
from tokenreel.cache.bucket.path import ObjectReader, store_path
from tokenreel.cache.errors import ServiceError, UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.decode_pool.worker import MachineFailure, failure_of
from tokenreel.extract.flow import clip_queue
from tokenreel.extract.flow.clip_queue import ClipQueue
from tokenreel.extract.scene_list import SceneList, SceneSource, change_of_version
from tokenreel.extract.scenes import run
from tokenreel.extract.video import decoders, seeking
from tokenreel.extract.video.decode import decode
from tokenreel.extract.video.seeking import scan_packets
from tokenreel.extract.video.source import SourceFiles, state_fields
from tokenreel.extract.video.types import VideoError, VideoReplaced
from tokenreel.pipeline.apply.videos import list_videos, watch_folder
from tokenreel.pipeline.datasets import check_dataset
from tokenreel.pipeline.datasets.tree import walk_tree
from tokenreel.pipeline.text import say

SECONDS, RATE = 40, 10
KINDS = {  # ending and flags of a file of the same frames
    "faststart": (".mp4", {"movflags": "faststart"}),
    "index at the end": (".mov", {}),
    "fragments": (".mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "fragments after a part": (".mp4", {"movflags": "frag_keyframe"}),
    "Matroska": (".mkv", {}),
}


def make_film(
    path: Path, seed: int = 0, flags: dict[str, str] | None = None, seconds: int = SECONDS
) -> Path:
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w", options=flags or {}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"crf": "18", "preset": "ultrafast", "threads": "1"}
        stream.codec_context.gop_size = RATE
        for number in range(seconds * RATE):
            picture = rng.integers(0, 256, (64, 96, 3), np.uint8)
            picture[:8, : number % 96] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Noise in H.264, 40 s, a key frame each second: its bytes are nearly all of its pictures."""
    return make_film(tmp_path_factory.mktemp("film") / "long film.mp4")


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """As film, 12 s."""
    return make_film(tmp_path_factory.mktemp("film") / "short.mp4", seconds=12)


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


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] if "after" in k else []) for k in KINDS]
)
def test_a_clip_fetches_ranges_of_any_container_by_the_server_s_count(
    tmp_path, s3, proxy, monkeypatch, caplog, kind
):
    seeking._said_unlisted.clear()
    ending, flags = KINDS[kind]
    here = make_film(tmp_path / f"film{ending}", flags=flags, seconds=16)
    there, size = store_path(f"{s3}/{here.name}"), here.stat().st_size
    there.write_bytes(here.read_bytes())
    monkeypatch.setattr(paths, "BLOCK_BYTES", 2**14)

    def fetch(**clip) -> float:
        paths._blocks.clear()
        proxy.sent.clear()
        assert frames_of(there, **clip) == frames_of(here, **clip)
        return sum(count for method, _, count in proxy.sent if method == "GET") / size

    clip = {"from_seconds": 12.0, "until_seconds": 12.5}
    is_listed = kind in ("faststart", "index at the end")
    assert fetch(**clip) < (0.4 if is_listed else 1.4)  # the scan of its packets is the rest
    assert caplog.text.count("no packets are listed in its header") == (not is_listed)
    assert fetch(**clip) < (0.25 if is_listed or kind == "Matroska" else 0.5)


def replaced_after(monkeypatch, path, data: bytes, count: int) -> None:
    """Another object takes the place of a video after some of its requests."""
    ranges, left = Bucket.get_ranges, [count]

    def get_ranges(self, *given, **options):
        if left[0] == 0:
            path.write_bytes(data)
        left[0] -= 1
        return ranges(self, *given, **options)

    monkeypatch.setattr(Bucket, "get_ranges", get_ranges)


@pytest.mark.parametrize("clip", [{}, {"from_seconds": 9.0, "until_seconds": 12.0}])
def test_a_video_that_is_replaced_while_it_is_read_is_an_error_and_never_a_mix(
    short, there, tmp_path, opened, monkeypatch, clip
):
    was, other = frames_of(short, **clip), make_film(tmp_path / "other.mp4", seed=1, seconds=12)
    now, data, ends = frames_of(other, **clip), other.read_bytes(), set()
    for count in range(1, 10, 2):
        there.write_bytes(short.read_bytes())
        paths._blocks.clear()
        seeking.examined.clear()
        with monkeypatch.context() as patch:
            replaced_after(patch, there, data, count)
            try:
                found = frames_of(there, **clip)
                assert found in (was, now)
                ends.add("whole")
            except VideoReplaced as error:
                ends.add(str(error))
    assert "another object took its place while it was read" in ends


@pytest.mark.parametrize("kind", ["503", "500", "cut", "lost"])
def test_reads_of_videos_survive_faults(film, there, proxy, opened, kind):
    proxy.fail_every(3, kind)
    assert frames_of(there) == frames_of(film)
    assert proxy.seen.count(kind) > 3


def fails(proxy, kind: str, after: int, only: str = "") -> None:
    first = [None]

    def fault(number, _, path):
        first[0] = first[0] or number
        return kind if number - first[0] >= after and only in path else ""

    proxy.fault = fault


@pytest.mark.parametrize("after", [0, 1, 3, 5])
@pytest.mark.parametrize("kind", ["403", "400", "503"])
def test_a_service_that_refuses_is_no_fault_of_a_video(
    there, proxy, opened, monkeypatch, capfd, kind, after
):
    monkeypatch.setattr(objects, "RETRIES", 1)
    objects.forget_clients()
    fails(proxy, kind, after)
    with pytest.raises(ServiceError) as caught:
        frames_of(there)
    failure = failure_of(caught.value)
    assert isinstance(failure, MachineFailure)
    assert kind in failure.reason
    assert "rerun" in failure.reason.lower()
    assert "check that the path" not in failure.reason
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err  # of PyAV, which prints what it drops
    for secret in ("AKIDOFTESTS", "secret-of-tests"):
        assert secret not in failure.reason + printed.out + printed.err


def test_one_video_that_is_refused_fails_alone(there, proxy, opened):
    fails(proxy, "403", 0, only="long%20film.mp4")
    with pytest.raises(VideoError, match="refused, though what is beside it is listed") as caught:
        frames_of(there)
    assert failure_of(caught.value).stage == "open"


def test_a_wait_for_a_service_is_a_sign_of_life(there, proxy, monkeypatch):
    monkeypatch.setattr(objects, "BEAT_SECONDS", 0.05)
    proxy.fault = lambda *_: "held"
    beats = []

    def beat():
        beats.append(time.monotonic())
        if len(beats) == 6:
            proxy.free.set()

    with objects.signs_of_life(beat):
        there.stat()
    assert len(beats) >= 6
    assert min(np.diff(beats)) > 0.04  # and none without a wait
    count, proxy.fault = len(beats), lambda *_: ""
    there.stat()
    assert len(beats) == count


def test_a_state_has_the_tag_of_the_object(film, there):
    files = SourceFiles(there.parent)
    source, _, state = files.examine_settled(there.name, "pyav")
    assert source.container["object_tag"] == there.stat().tag == state.tag != ""
    held = state_fields(state)
    assert files.is_still(there.name, held)
    moment = there.stat().st_mtime_ns
    there.write_bytes(film.read_bytes()[:-1] + b"x")
    assert there.stat().st_size == state.num_bytes
    now = dict(held, mtime_ns=there.stat().st_mtime_ns)  # as if within the same second
    assert moment <= now["mtime_ns"]
    assert not files.is_still(there.name, now)
    assert "tag" in files.change_since(source, state)


@pytest.mark.slow
def test_3000_videos_are_listed_by_pages(s3, proxy):
    import obstore

    _, client = objects._client_of("s3", s3.removeprefix("s3://"))
    names = [f"many/{number % 7}/v{number:04}.mp4" for number in range(3000)]
    objects.in_parallel(lambda name: obstore.put(client, name, b"x"), names)
    proxy.sent.clear()
    tree = walk_tree(store_path(f"{s3}/many"), follow_links=False)
    assert sorted(tree.files) == sorted(name.removeprefix("many/") for name in names)
    assert len(proxy.sent) == 3


@pytest.fixture
def copies(monkeypatch):
    """The files that decord opens from now on."""
    decord, seen = pytest.importorskip("decord"), []
    reader = decord.VideoReader

    def opens(path, **how):
        seen.append(Path(path))
        return reader(path, **how)

    monkeypatch.setattr(decord, "VideoReader", opens)
    return seen


def test_decord_gets_a_copy_that_is_bounded_and_removed(short, s3, copies, monkeypatch):
    cache, there, size = local_cache(), store_path(f"{s3}/short.mp4"), short.stat().st_size
    there.write_bytes(short.read_bytes())
    here = frames_of(short, decoder="decord")
    copies.clear()
    assert frames_of(there, decoder="decord") == here
    assert [path.parent.parent for path in copies] == [cache.folder]
    assert not any(path.exists() for path in copies)
    with closing(decode(there, decoder="decord")) as frames:  # two at once, and one is given up
        next(frames)
        assert frames_of(there, decoder="decord") == here
        assert copies[-2].stat().st_size == size
    assert not list(cache.folder.glob("??/*"))
    monkeypatch.setenv(BYTES, str(size))  # which is without the blocks of the disk
    with pytest.raises(VideoError, match=r"needs a copy of 1 MB in .*no room.*--cache-bytes"):
        frames_of(there, decoder="decord")
    monkeypatch.setenv(BYTES, str(3 * size // 2))
    with closing(decode(there, decoder="decord")) as frames:
        next(frames)
        with pytest.raises(VideoError, match="no room"):  # not beside the other
            frames_of(there, decoder="decord")
    assert frames_of(there, decoder="decord") == here


def test_a_copy_that_a_killed_process_left_is_removed(there, copies):
    cache = local_cache()
    left = cache.folder / "ab" / "cdef.copy"
    left.parent.mkdir()
    left.write_bytes(bytes(10**6))
    with closing(decode(there, decoder="decord")) as frames:
        next(frames)
        assert [path.name for path in cache.folder.glob("??/*")] == [copies[0].name]


def test_what_is_not_there_is_said(film, there):
    with pytest.raises(VideoError, match="no such object"):
        next(decode(there.parent / "missing.mp4"))
    torn = there.parent / "torn.mp4"
    torn.write_bytes(film.read_bytes()[:100_000])
    with pytest.raises(VideoError):
        frames_of(torn)


def test_words_of_apply_name_videos_of_one_bucket(there, s3, tmp_path):
    other = store_path(f"{s3}/videos/deeper/b.mp4")
    other.write_bytes(b"x")
    store_path(f"{s3}/videos/notes.txt").write_bytes(b"no video")
    folder = list_videos([Path(f"{s3}/videos")])
    assert (str(folder.root), folder.names) == (f"{s3}/videos", ["deeper/b.mp4", "long film.mp4"])
    one = list_videos([Path(f"{s3}/videos/deeper/b.mp4")])
    assert (str(one.root), one.names) == (f"{s3}/videos/deeper", ["b.mp4"])
    for words, wanted in (
        ([f"{s3}/nothing"], "does not exist"),
        ([f"{s3}/videos/notes.txt", str(tmp_path)], "a bucket and of another place"),
    ):
        with pytest.raises(UsageError, match=wanted):
            list_videos(list(map(Path, words)))
    with pytest.raises(UsageError, match="a folder on a disk is watched"):
        watch_folder(Path(f"{s3}/videos"), lambda *_: iter(()))


def test_a_folder_of_videos_on_a_bucket_is_checked_and_found_by_its_store(there, s3, capsys):
    check = check_dataset("folder", Path(f"{s3}/videos"), {})
    assert (str(check.root), check.is_complete) == (f"{s3}/videos", True)
    say(f"store: {Path('s3://lab/store')} and gs:/b, not C:/temp or a-s3:")
    assert capsys.readouterr().out == "store: s3://lab/store and gs://b, not C:/temp or a-s3:\n"


def test_the_sizes_of_many_videos_are_listed_and_not_asked_for_one_by_one(s3, proxy, monkeypatch):
    root = store_path(f"{s3}/many")
    for number in range(5):
        (root / f"{number}.mp4").write_bytes(bytes(number))
    queue = ClipQueue.__new__(ClipQueue)
    queue._part = [Clip(f"{n}", f"{n % 6}.mp4", start_seconds=1.0) for n in range(12)]
    queue._manifest, wanted = Manifest("m", root, tuple(queue._part), {}), [4, 3, 2, 1, 0, 0]
    for most, count in ((3, 3), (100, 6)):  # a list, the empty and the missing one; or each
        monkeypatch.setattr(clip_queue, "MOST_SINGLE", most)
        queue._sizes = {}
        proxy.sent.clear()
        order = sorted(queue._part, key=queue._order)
        assert [-queue._order(clip)[0] for clip in order[::2]] == wanted
        assert len(proxy.sent) == count


def test_a_folder_of_pictures_on_a_bucket_is_a_clip_and_a_change_of_one_is_seen(s3):
    folder = store_path(f"{s3}/pictures/clip")
    for number in range(3):
        data = io.BytesIO()
        Image.new("RGB", (32, 24), (80 * number, 0, 0)).save(data, "PNG")
        (folder / f"{number:03}.png").write_bytes(data.getvalue())
    assert len(frames_of(folder)) == 3
    files = SourceFiles(folder.parent)
    source, info, state = files.examine_settled("clip", "pyav")
    assert (source.sha256, info.width) == ("", 32)
    assert source.num_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert files.change_since(source, state) == ""
    one = folder / "001.png"
    one.write_bytes(one.read_bytes()[:-1] + b"x")
    assert "tag" in files.change_since(source, state)
    with pytest.raises(VideoError, match="no such object"):
        files.examine_settled("none", "pyav")


def test_scenes_of_a_disk_are_those_of_the_same_video_on_a_bucket():
    hashed, not_hashed = (
        SceneList({}, {"v.mp4": SceneSource(10, 0, sha256)}) for sha256 in ("a" * 64, "")
    )
    assert change_of_version(hashed, "v.mp4", "", 10) == ""
    assert change_of_version(not_hashed, "v.mp4", "a" * 64, 10) == ""
    assert change_of_version(not_hashed, "v.mp4", "", 10) == ""
    assert "now it has 11 bytes" in change_of_version(hashed, "v.mp4", "", 11)
    assert "now its sha256 is bbb" in change_of_version(hashed, "v.mp4", "b" * 64, 10)


def test_scenes_of_a_bucket_are_found_again_only_where_the_object_is_another(short, s3, tmp_path):
    there, here = store_path(f"{s3}/v.mp4"), tmp_path / "v.mp4"
    there.write_bytes(short.read_bytes())
    here.write_bytes(short.read_bytes())
    size, of_bucket, of_disk = here.stat().st_size, there.stat().st_mtime_ns, "a" * 64
    assert run._change(there, SceneSource(size, of_bucket, "")) == ""
    assert run._change(there, SceneSource(size, 5, of_disk)) == ""
    assert run._change(here, SceneSource(size, of_bucket, "")) == ""
    assert "is " in run._change(there, SceneSource(size, 5, ""))
    assert "is " in run._change(there, SceneSource(size - 1, 5, of_disk))
    assert "is " in run._change(here, SceneSource(size, 5, of_disk))
