"""The reader: every way to read gives the same bytes; damage is an error at every moment."""

import gc
import os
import pickle
import resource
import shutil
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.cache import stores
from tokenreel.cache.errors import ClipNotFound, Damaged
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.layout import view_arrays
from tokenreel.cache.read.direct import Shard
from tokenreel.cache.read.store_reader import Request, Store, frame_numbers, open_store, run_pieces
from tokenreel.cache.write.store_writer import StoreWriter

FRAMES = 130
ODD = [3, 4, 5, 63, 64, 100, 129]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = stores.make_store(tmp_path_factory.mktemp("stores") / "s")
    with StoreWriter(found, writer_id="w") as writer:
        stores.write_clip(writer, "a", FRAMES)
        stores.write_clip(writer, "b", FRAMES)
    return found


@pytest.fixture
def copy(path, tmp_path):
    return shutil.copytree(path, tmp_path / "s")


def shard_file(path, clip_id: str = "a", number: int = 0):
    return path / folder_of(clip_key(clip_id)) / f"views/0/tokens/1/c/{number}/0/0"


def flip(file, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("checks", ["once", "always", "never"])
@pytest.mark.parametrize("placement", ["disk", "memory"])
def test_the_second_read_is_the_first_one(path, checks, placement):
    reader = open_store(path, checks=checks, placement=placement)
    reference = open_store(path, backend="tensorstore").read("a", ODD)
    for _ in range(3):
        tokens = reader.read("a", ODD)
        for block in stores.BLOCKS:
            np.testing.assert_array_equal(tokens.codes[block], reference.codes[block])
            np.testing.assert_array_equal(tokens.scales[block], reference.scales[block])


@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
def test_a_frame_that_was_not_read_yet_is_checked_when_it_is(copy, backend):
    flip(shard_file(copy), 20 * 16 * 16)
    reader = open_store(copy, backend=backend, placement="memory")
    reader.read("a", range(20))
    with pytest.raises(Damaged, match="crc32c"):
        reader.read("a", [19, 20])
    reader.read("a", [19, 21])


def test_checked_always_sees_damage_that_comes_after_the_first_read(copy):
    reader = open_store(copy, checks="always", placement="memory")
    reader.read("a")
    file = shard_file(copy)
    with file.open("r+b") as raw:
        raw.write(bytes([file.read_bytes()[0] ^ 1]))
    with pytest.raises(Damaged, match="crc32c"):
        reader.read("a", [0])
    reader.read("a", [1])


@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
@pytest.mark.parametrize("placement", ["disk", "memory"])
@pytest.mark.parametrize("reads", [0, 1, 2])
def test_a_shard_that_is_cut_while_it_is_open_is_an_error_and_no_crash(
    copy, reads, placement, backend
):
    reader = open_store(copy, placement=placement, backend=backend)
    for _ in range(reads):
        reader.read("a")
    os.truncate(shard_file(copy), 4096)
    with pytest.raises(Damaged, match=r"4096|truncated|tokens/1"):
        reader.read("a")


def test_a_shard_with_more_bytes_than_its_frames_is_damaged(copy):
    with shard_file(copy).open("ab") as file:
        file.write(b"x")
    with pytest.raises(Damaged, match=r"tokens/1/.*: \d+ bytes, wanted \d+; run verify"):
        open_store(copy).read("a", [3])


def shard_of(store, number=0):
    """A shard of block 1 of clip a."""
    identity = store.identity
    spec = view_arrays(identity, store.codec, 0, FRAMES)[0]
    return Shard(shard_file(store.path, number=number), spec, number, sums=None)


def test_frames_of_which_one_was_not_read_come_from_the_file_again(path, monkeypatch):
    shard, reads = shard_of(open_store(path)), []
    out = np.empty((2, 16, 16), np.int8)
    shard.read(np.array([0]), out[:1])
    read = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *words: reads.append(words[2]) or read(*words))
    shard.read(np.array([0, 1]), out)
    assert reads == [0]  # so that an error of the disk is an error here
    shard.read(np.array([0, 1]), out)
    assert reads == [0]
    np.testing.assert_array_equal(out, open_store(path).read("a", [0, 1]).codes[1])


def test_a_shard_is_closed_with_its_last_reference(path):
    shard = shard_of(open_store(path))
    number = shard._handle
    os.fstat(number)
    del shard
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_shard_that_vanished_is_named(copy):
    shard_file(copy, number=1).unlink()
    reader = open_store(copy)
    reader.read("a", range(64))
    with pytest.raises(Damaged, match="run verify, then repair"):
        reader.read("a", [64])


def test_many_reads_at_once_come_back_in_their_order(path):
    reader = open_store(path)
    requests = [Request(clip, [i, i + 60]) for i in range(40) for clip in ("b", "a")]
    for request, tokens in zip(requests, reader.read_many(requests, threads=4), strict=True):
        alone = reader.read(request.clip_id, request.frames)
        np.testing.assert_array_equal(tokens.codes[3], alone.codes[3])


def test_frames_asked_for_twice_come_twice_and_in_their_order(path):
    reader, wanted = open_store(path), open_store(path).read("a").codes[1]
    frames = [70, 5, 70, 5, 6]
    out = {block: np.empty((5, 16, 16), np.int8) for block in stores.BLOCKS}
    tokens = reader.read("a", frames, out=out)
    np.testing.assert_array_equal(tokens.codes[1], wanted[frames])
    assert tokens.codes[1] is out[1]


def test_a_damaged_frame_is_named_as_the_clip_counts_it(copy):
    flip(shard_file(copy, number=1), 256 * 7 + 3)
    with pytest.raises(Damaged, match=r"/a-.*tokens/1/.*: frame 71 of the clip is damaged"):
        open_store(copy).read("a", [*ODD[:4], 71])


def test_pages_that_were_released_are_no_memory_of_the_process(copy):
    def resident() -> int:
        maps, inside, total = Path("/proc/self/smaps").read_text().splitlines(), False, 0
        for line in maps:
            inside = str(copy) in line if "-" in line.split()[0] else inside
            total += int(line.split()[1]) if inside and line.startswith("Rss:") else 0
        return total

    reader = open_store(copy, placement="memory")
    first = reader.read("a")
    np.testing.assert_array_equal(reader.read("a").codes[1], first.codes[1])
    assert resident() > 0
    reader.release_pages()
    assert resident() == 0
    np.testing.assert_array_equal(reader.read("a").codes[1], first.codes[1])


@pytest.mark.parametrize("many", [False, True])
def test_a_buffer_is_free_when_its_user_is_done_and_not_when_garbage_is_collected(path, many):
    reader = open_store(path)
    out = {block: np.empty((130, 16, 16), np.int8) for block in stores.BLOCKS}
    buffer = weakref.ref(out[1])
    gc.disable()
    try:
        if many:
            reader.read_many([Request("a", range(130), out=out)])
        else:
            reader.read("a", range(130), out=out)
        del out
        assert buffer() is None
    finally:
        gc.enable()


def test_a_buffer_that_cannot_take_the_frames_is_refused_before_anything_is_read(path):
    reader = open_store(path)
    for wrong, words in (
        ({1: np.empty((2, 16, 16), np.int8)}, "no array for block 3"),
        ({1: np.empty((3, 16, 16), np.int8)}, r"wanted contiguous int8\(2, 16, 16\)"),
        ({1: np.empty((2, 16, 16), np.uint8)}, r"out\[1\] is uint8"),
        ({1: np.empty((2, 16, 32), np.int8)[..., ::2]}, "contiguous"),
    ):
        with pytest.raises(ValueError, match=words):
            reader.read("a", [0, 1], out=wrong)


def test_an_error_of_many_reads_comes_when_no_thread_writes_any_longer():
    written = []

    def slow() -> None:
        time.sleep(0.2)
        written.append(1)

    def broken() -> None:
        raise Damaged("this one")

    with ThreadPoolExecutor(4) as pool:
        with pytest.raises(Damaged, match="this one"):
            run_pieces([broken, slow, slow], pool)
        count = len(written)
        time.sleep(0.3)
        assert len(written) == count


def test_a_quarter_of_the_handles_that_are_allowed_is_used(path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    reader = open_store(path, placement="memory")
    for clip in ("a", "b", "a"):
        reader.read(clip)
    assert len(reader._kept.shards) == 64 // 8


def test_more_shards_than_may_be_open_are_read_all_the_same(path, monkeypatch):
    monkeypatch.setattr("tokenreel.cache.read.clip_reader.SHARDS", 2)
    monkeypatch.setattr("tokenreel.cache.read.clip_reader.CLIPS", 1)
    monkeypatch.setattr("tokenreel.cache.read.clip_reader.CHUNKS", 1)
    reader, whole = open_store(path), open_store(path, backend="tensorstore")
    for clip in ("a", "b", "a"):
        np.testing.assert_array_equal(reader.read(clip).codes[1], whole.read(clip).codes[1])
        np.testing.assert_array_equal(reader.read(clip).scales[1], whole.read(clip).scales[1])


def test_an_unknown_way_to_read_is_refused(path):
    for wrong in ({"checks": "often"}, {"placement": "gpu"}, {"backend": "zarr"}):
        with pytest.raises(ValueError, match="is none of"):
            open_store(path, **wrong)


class Sums(Dataset):
    """Sum of the codes of one frame."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __len__(self) -> int:
        return FRAMES

    def __getitem__(self, frame: int) -> int:
        return int(self.store.read("a", [frame]).codes[1].astype(int).sum())


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_read_what_this_process_reads(path, method):
    store = open_store(path)
    wanted = [Sums(store)[i] for i in range(FRAMES)]  # its handles and threads are in use
    store.read_many([Request("a", [0])])
    loader = DataLoader(
        Sums(store), batch_size=13, num_workers=2, multiprocessing_context=method, timeout=300
    )
    assert torch.cat(list(loader)).tolist() == wanted


def test_a_store_is_pickled_without_its_handles(path):
    store = open_store(path)
    store.read("a")
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.read("a").codes[1], store.read("a").codes[1])


def test_frames_are_numbered_from_0_to_the_last_of_the_clip(path):
    record = open_store(path).record("a")
    for given, wanted in (
        (None, list(range(FRAMES))),
        (slice(-2, None), [128, 129]),
        ([], []),
        ([129, 0], [129, 0]),
        (np.array([3], np.uint8), [3]),
    ):
        found = frame_numbers(record, given)
        assert (found.tolist(), found.dtype) == (wanted, np.int64)
    for wrong in ([130], [-1], [0, 130]):
        with pytest.raises(ClipNotFound, match="a has frames 0 to 129, not"):
            frame_numbers(record, wrong)
    for kind in (3, [[3]], [3.0], [True]):
        with pytest.raises(TypeError, match="wanted a 1-d list of integers"):
            frame_numbers(record, kind)


def test_bytes_and_pages_of_a_store_by_hand(path, tmp_path, monkeypatch):
    assert open_store(path).num_bytes == 2 * FRAMES * 16 * 16 * 2  # clips, tokens, int8, blocks
    views = stores.make_store(tmp_path / "v", "fp16", views=2)
    with StoreWriter(views, writer_id="w") as writer:
        stores.write_clip(writer, "a", 3)
    size = 3 * 2 * 16 * 16 * 2 * 2  # frames, views, tokens, fp16, blocks
    assert open_store(views).num_bytes == size
    for pages, placement, is_direct in (
        (2 * size, "auto", False),
        (2 * size - 1, "auto", True),
        (2 * size - 1, "memory", False),
        (2 * size, "disk", True),
    ):
        sizes = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": pages}
        monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
        assert open_store(views, placement=placement)._policy.direct is is_direct


def test_clips_are_selected_and_hashed_by_what_they_are(path):
    store = open_store(path)
    before, labels = store.clips_sha256, store.labels_sha256
    own = store.records["a"]
    for change in ({"num_frames": 9}, {"split": "val"}, {"action": "jump"}):
        store.records["a"] = replace(own, **change)
        assert store.clips_sha256 != before
    store.records["a"] = replace(own, action="jump", group="g")
    assert [
        [r.clip_id for r in store.select(*words)]
        for words in (
            (None, "jump"),
            ("train", "jump"),
            ("val", "jump"),
            (None, None),
            ("train", ""),
        )
    ] == [["a"], ["a"], [], ["a", "b"], ["b"]]
    store.records["a"] = replace(own, group="g")
    assert store.clips_sha256 == before
    del store.labels_sha256
    assert store.labels_sha256 != labels


def test_threads_are_those_of_the_last_call_and_kept(path):
    store = open_store(path)
    pools = []
    for threads in (1, 1, 3):
        store.read_many([Request("a", [0])], threads=threads)
        pools.append(store._pool)
    assert [pool._max_workers for pool in pools] == [1, 1, 3]
    assert pools[0] is pools[1]


def test_pieces_that_have_not_begun_are_not_run_after_an_error():
    begun, futures = [], []

    class Noting(ThreadPoolExecutor):
        def submit(self, piece):
            futures.append(super().submit(piece))
            return futures[-1]

    def broken() -> None:
        raise Damaged("this one")

    def begun_already() -> None:
        end = time.monotonic() + 60
        while not futures[-1].cancelled() and time.monotonic() < end:
            time.sleep(0.001)

    with Noting(1) as pool, pytest.raises(Damaged, match="this one"):
        run_pieces([broken, begun_already, lambda: begun.append(1)], pool)
    assert len(futures) == 3
    assert begun == []
