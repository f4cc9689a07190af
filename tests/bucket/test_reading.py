"""Stores on a bucket are read as those on a disk are, byte for byte; the cache is never trusted."""

import importlib.util
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from tests.bucket.counts import requests_of
from tokenreel.cache.bucket import local_cache as caches
from tokenreel.cache.bucket.path import BucketPath, store_path
from tokenreel.cache.errors import Damaged, StoreError, StoreNotFound, UsageError
from tokenreel.cache.read.store_reader import Request, open_store
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location(
    "stores", Path(__file__).parents[1] / "cache" / "stores.py"
)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """A store on disk: two clips, one of them of two shards."""
    path = stores.make_store(tmp_path_factory.mktemp("local") / "s")
    with StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a", 70)
        stores.write_clip(writer, "b", 5)
    return path


def cache():
    return caches.local_cache()


def read_all(store, clip_id: str, frames=None) -> list[bytes]:
    tokens = store.read(clip_id, frames)
    arrays = [*tokens.codes.values(), *tokens.scales.values(), store.labels(clip_id)]
    arrays += [store.units(clip_id), store.flags(clip_id), store.read_cls(clip_id, frames)]
    return [np.ascontiguousarray(array).tobytes() for array in arrays]


def test_a_store_on_a_bucket_reads_as_the_one_on_disk(local, upload):
    here, there = open_store(local), open_store(upload(local))
    assert there.records == here.records
    assert there.fingerprint == here.fingerprint
    for frames in (None, [69, 3, 3, 63, 64], slice(10, 20)):
        assert read_all(there, "a", frames) == read_all(here, "a", frames)
    requests = [Request("a", [1, 65]), Request("b")]
    for left, right in zip(here.read_many(requests), there.read_many(requests), strict=True):
        assert all((left.codes[block] == right.codes[block]).all() for block in left.codes)


@pytest.mark.parametrize("checks", ["never", "always"])
def test_reads_without_a_cache_are_the_same(local, upload, monkeypatch, checks):
    monkeypatch.setenv(caches.BYTES, "0")
    there = open_store(upload(local), checks=checks)
    assert read_all(there, "a", [5, 60, 66]) == read_all(open_store(local), "a", [5, 60, 66])


def test_a_second_run_fetches_no_token_again(local, upload, monkeypatch):
    url = upload(local)
    first = read_all(open_store(url), "a")
    seen = requests_of(monkeypatch)
    again = pickle.loads(pickle.dumps(open_store(url)))
    assert read_all(again, "a") == first
    assert [key for key, _ in seen if "/c/" in key and "calibration" not in key] == []


def test_frames_of_a_shard_are_fetched_alone_where_gaps_are_large(local, upload, monkeypatch):
    from tokenreel.cache.read import bucket_shard

    url = upload(local)
    monkeypatch.setattr(bucket_shard, "GAP_BYTES", 0)
    store = open_store(url)
    store.labels("a")
    seen = requests_of(monkeypatch)
    store.read("a", [0, 1, 40], blocks=[1])
    frame = 16 * stores.DIM
    assert [size for key, size in seen if "tokens/1/c/0" in key] == [3 * frame]
    seen.clear()
    store.read("a", [1, 2, 40], blocks=[1])
    assert [size for key, size in seen if "tokens/1/c/0" in key] == [frame]


def cached_shards() -> list[Path]:
    return [file for file in cache().folder.glob("??/*") if file.stat().st_size > 10_000]


def test_a_flipped_byte_in_the_cache_is_found_and_fetched_again(local, upload):
    url, here = upload(local), read_all(open_store(local), "a")
    assert read_all(open_store(url), "a") == here
    flipped = 0
    for file in cache().folder.glob("??/*"):
        if not file.name.endswith(caches.HAVE):
            data = bytearray(file.read_bytes())
            data[100 % len(data)] ^= 1
            file.write_bytes(data)
            flipped += 1
    before = cache().num_refetched
    assert read_all(open_store(url), "a") == here
    assert cache().num_refetched - before >= flipped // 2 > 5
    counted = cache().num_refetched
    assert read_all(open_store(url), "a") == here
    assert cache().num_refetched == counted


def test_a_flipped_byte_on_the_bucket_is_damage(local, upload):
    url = store_path(upload(local))
    shard = next(path for path in url.rglob("0") if "tokens/3/c/1/0/0" in str(path))
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(bytes(data))
    store = open_store(url)
    assert len(store.read("a", slice(0, 64)).codes[3]) == 64
    with pytest.raises(Damaged, match="frame 64 of the clip is damaged"):
        store.read("a")
    shard.unlink()
    with pytest.raises(Damaged, match="no such object"):
        open_store(url).read("a")


def test_the_cache_stays_within_its_bytes(upload, tmp_path, monkeypatch):
    path = stores.make_store(tmp_path / "s")
    names = [f"c{number}" for number in range(10)]
    with StoreWriter(path, writer_id="w") as writer:
        for name in names:
            stores.write_clip(writer, name, 64, batch=64)
    limit = 800_000
    monkeypatch.setenv(caches.BYTES, str(limit))
    here, there = open_store(path), open_store(upload(path))
    for name in names * 2:
        assert read_all(there, name) == read_all(here, name)
        used = sum(file.stat().st_blocks * 512 for file in cache().folder.glob("??/*"))
        assert used <= limit
    assert cache().num_evicted > 5


def test_urls_are_paths_of_buckets_also_once_they_were_paths():
    url = "s3://bucket/a/b"
    for given in (url, Path(url), Path("/work") / Path(url), store_path(url)):
        assert store_path(given) == BucketPath("s3", "bucket", ("a", "b"))
    path = store_path(url)
    assert (str(path), path.name, str(path.parent / "c.txt")) == (url, "b", "s3://bucket/a/c.txt")
    assert str((path / "c.json").relative_to(path)) == "c.json"
    assert store_path("here/there") == Path("here/there")
    with pytest.raises(UsageError, match="this needs a disk"):
        Path(path)
    with pytest.raises(UsageError, match="a rename is impossible on a bucket"):
        path.rename(path)
    for wrong in ("s3://", "s3://key:secret@bucket/a", "s3://bucket/a?key=secret"):
        with pytest.raises(UsageError, match="credentials come from the environment") as caught:
            store_path(wrong)
        assert "secret" not in str(caught.value)


def test_what_is_not_there_is_said_by_name(s3, monkeypatch):
    with pytest.raises(StoreNotFound, match="no token store here"):
        open_store(f"{s3}/nothing")
    with pytest.raises(UsageError, match="there is no such bucket"):
        open_store("s3://no-such-bucket/store")
    with pytest.raises(UsageError, match="reads disks alone"):
        open_store(f"{s3}/nothing", backend="tensorstore")


def test_an_open_object_reads_as_a_file_and_fetches_little(s3):
    data = np.random.default_rng(0).bytes(3_000_000)
    path = store_path(f"{s3}/video.bin")
    path.write_bytes(data)
    with path.open("rb") as file:
        assert file.read(10) == data[:10]
        assert file.seek(-5, 2) == len(data) - 5
        assert file.read() == data[-5:]
        assert file.seek(1_000_000) == 1_000_000
        assert file.read(300_000) == data[1_000_000:1_300_000]
        assert file.raw.num_fetched < 1_500_000
    assert path.stat().st_size == len(data)
    assert abs(path.stat().st_mtime - time.time()) < 60


def test_a_forked_process_is_told_to_be_spawned(local, upload, monkeypatch):
    from tokenreel.cache.bucket import objects

    url = upload(local)
    open_store(url)
    monkeypatch.setattr(objects, "_used_in", [1])
    with pytest.raises(StoreError, match="spawn workers"):
        open_store(url)


@pytest.mark.parametrize(
    "address", ["https://b.amazonaws.com/a?X-Amz-Signature=secret", "https://key:secret@host/a"]
)
def test_a_signed_address_is_refused_without_its_signature(address):
    for given in (address, Path(address)):
        with pytest.raises(UsageError, match="no such place: give a path") as caught:
            store_path(given)
        assert "secret" not in str(caught.value)
        assert "https:/" in str(caught.value)
