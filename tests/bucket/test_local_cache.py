"""The local cache of buckets: bounded for all processes, whole after a kill, and never trusted."""

import errno
import fcntl
import importlib.util
import multiprocessing
import os
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.bucket.counts import requests_of
from tokenreel.cache.bucket import local_cache as caches
from tokenreel.cache.bucket.local_cache import LocalCache, local_cache
from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.read import bucket_shard
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location(
    "stores", Path(__file__).parents[1] / "cache" / "stores.py"
)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

fork = multiprocessing.get_context("fork")  # of processes that use no bucket


def held(folder: Path) -> int:
    """Bytes that the files of a cache hold on the disk."""
    total = 0
    for file in folder.glob("??/*"):
        with suppress(FileNotFoundError):
            total += file.stat().st_blocks * 512
    return total


def counted_and_held(cache: LocalCache) -> tuple[int, int]:
    """Bytes that the ledger counts, and that the files hold, at a moment when nobody writes."""
    with cache._ledger() as ledger, cache._flock(caches.WRITERS, fcntl.LOCK_EX):
        return ledger.used, held(cache.folder)


class User:
    """Keeps files of rows, and leaves them open."""

    def close_removed(self) -> None:
        pass


def parsed(data: bytes) -> bytes:
    if data[:1] * len(data) != data:
        raise Damaged("other bytes")
    return data


def fill(folder: Path, limit: int, name: str, count: int = 60) -> None:
    """Read objects of 40 KB each, and a shard, through a cache."""
    cache, user = LocalCache(folder, limit), User()
    for number in range(count):
        data = bytes([number]) * 40_000
        assert cache.read(f"{name} {number}", lambda data=data: data, parsed) == data
        key, starts = f"{name} shard {number // 10}", range(0, 100_000, 10_000)
        rows = cache.open_rows(key, starts, b"end", user=user)
        if rows is not None and number % 10 < 9:
            rows.write(range(number % 10, number % 10 + 1), memoryview(bytes(10_000)))


def test_several_processes_together_stay_within_the_bytes(tmp_path):
    limit, cache = 1_000_000, LocalCache(tmp_path, 1_000_000)
    processes = [fork.Process(target=fill, args=(tmp_path, limit, str(n))) for n in range(4)]
    for process in processes:
        process.start()
    seen = []
    while any(process.is_alive() for process in processes):
        seen.append(counted_and_held(cache))
    assert [process.exitcode for process in processes] == [0] * 4
    seen.append(counted_and_held(cache))
    assert all(here <= counted <= limit for counted, here in seen)
    assert max(here for _, here in seen) > limit // 2


def test_a_smaller_bound_of_the_next_run_holds_at_once(tmp_path):
    fill(tmp_path, 2_000_000, "a", 30)
    assert held(tmp_path) > 600_000
    cache = LocalCache(tmp_path, 500_000)
    assert held(tmp_path) <= 500_000
    assert cache.num_evicted > 3
    (tmp_path / caches.USED).unlink()  # of an earlier version, or lost
    LocalCache(tmp_path, 200_000)
    assert held(tmp_path) <= 200_000


def write_shards(folder: Path, count: int) -> list[tuple[Path, Path]]:
    """Files of rows, each with that of which are there."""
    cache, pairs = LocalCache(folder, 1_000_000), []
    for number in range(count):
        rows = cache.open_rows(str(number), range(0, 100_000, 10_000), b"end", user=User())
        assert rows is not None
        assert rows.write(range(8), memoryview(bytes(80_000)))
        pairs.append((rows.path, caches._have_of(rows.path, rows.inode)))
    return pairs


@pytest.mark.parametrize("older", [0, 1])
def test_rows_and_which_are_there_are_as_old_as_the_newer_and_go_together(tmp_path, older):
    pairs = write_shards(tmp_path, 4)
    for pair in pairs[2:]:
        for path, at in zip(pair, ((0, 10), (10, 0))[older], strict=True):
            os.utime(path, (at, at))
    for path in (*pairs[0], *pairs[1]):
        os.utime(path, (5, 5))
    limit = held(tmp_path) * 3 // 4 - caches.BLOCK
    cache = LocalCache(tmp_path, limit)
    counted, here = counted_and_held(cache)
    assert counted == here <= limit  # nothing is counted twice
    assert [path.exists() for pair in pairs for path in pair] == [False] * 4 + [True] * 4
    assert cache.num_evicted == 4


def test_a_kill_while_room_is_made_leaves_no_note_of_rows_that_are_gone(tmp_path, monkeypatch):
    (rows, have), *_ = write_shards(tmp_path, 1)
    unlink, count = Path.unlink, []

    def one(path: Path, **options: bool) -> None:
        if count:
            raise KeyboardInterrupt
        count.append(path)
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", one)
    with pytest.raises(KeyboardInterrupt):
        LocalCache(tmp_path, 1)
    assert (rows.exists(), have.exists()) == (True, False)


def test_by_default_a_cache_takes_half_of_what_other_files_leave(tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 4_000_000})
    monkeypatch.setattr(caches.shutil, "disk_usage", lambda _: usage)
    first = LocalCache(tmp_path)
    assert first.num_bytes == 2_000_000
    fill(tmp_path, 2_000_000, "a", 30)
    used = int((tmp_path / caches.USED).read_text())
    usage.free -= used
    assert LocalCache(tmp_path).num_bytes == 2_000_000  # also once it is full itself


def killed_in_a_write(folder: Path) -> None:
    def half(handle: int, data) -> None:
        os.write(handle, bytes(data)[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    caches.write_all = half
    LocalCache(folder, 1_000_000).read("key", lambda: b"x" * 60_000, parsed)


def test_a_kill_in_mid_write_leaves_nothing_that_is_read(tmp_path):
    for _ in range(3):
        process = fork.Process(target=killed_in_a_write, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    cache, fetched = LocalCache(tmp_path, 1_000_000), []
    for _ in range(2):
        assert cache.read("key", lambda: fetched.append(0) or b"x" * 60_000, parsed)[:1] == b"x"
    assert (len(fetched), cache.num_refetched) == (1, 0)
    fill(tmp_path, 1_000_000, "more")
    assert not list(tmp_path.glob("??/.tmp-*"))  # they are the oldest
    assert held(tmp_path) <= 1_000_000


def test_a_file_that_another_process_removes_as_it_is_opened_costs_that_file_alone(
    tmp_path, monkeypatch, caplog
):
    cache, starts, user = LocalCache(tmp_path, 1_000_000), range(0, 100_000, 10_000), User()
    assert cache.open_rows("shard", starts, b"end", user=user) is not None
    with monkeypatch.context() as patch:
        patch.setattr(LocalCache, "_touch", lambda _, path: path.unlink())  # where it is found
        assert cache.open_rows("shard", starts, b"end", user=user) is None
    assert cache.open_rows("shard", starts, b"end", user=user) is not None
    assert caplog.text == ""


def test_nobody_makes_room_while_a_file_of_rows_is_opened(tmp_path, monkeypatch):
    cache, starts, user = LocalCache(tmp_path, 1_000_000), range(0, 100_000, 10_000), User()
    have_of, seen = caches._have_of, []

    def looked_at(path: Path, inode: int) -> Path:
        with (tmp_path / caches.WRITERS).open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.append(path)
        return have_of(path, inode)

    monkeypatch.setattr(caches, "_have_of", looked_at)
    assert cache.open_rows("shard", starts, b"end", user=user) is not None
    assert len(seen) == 1


def test_a_full_disk_is_said_once_and_costs_the_cache_alone(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caches, "write_all", full)
    monkeypatch.setattr(caches.os, "posix_fallocate", full)  # a hole that is mapped would kill
    cache = LocalCache(tmp_path, 10**6)
    for number in range(5):
        assert cache.read(str(number), lambda: b"dddd", parsed) == b"dddd"
        assert cache.open_rows("shard", range(0, 500, 100), b"", user=User()) is None
    assert caplog.text.count("nothing more of buckets is kept there (No space left") == 1
    assert not [file for file in tmp_path.glob("??/*") if file.name.startswith(".tmp")]


def test_a_disk_that_may_only_be_read_is_said_once(tmp_path, monkeypatch, caplog):
    fill(tmp_path, 10**6, "a", 3)

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(LocalCache, "_flock", read_only)
    cache = LocalCache(tmp_path, 10**6)
    assert cache.read("a 1", lambda: pytest.fail("it is there"), parsed)[:1] == b"\1"
    assert cache.read("b", lambda: b"b", parsed) == b"b"
    assert caplog.text.count("(Read-only file system)") == 1


def test_a_folder_that_cannot_be_made_is_no_cache(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = LocalCache(tmp_path / "file" / "cache", 10**6)
    assert cache.read("key", lambda: b"data", bytes) == b"data"
    assert "by --cache-dir" in caplog.text


@pytest.mark.parametrize("text", ["x", "-1", "1e9", "5 GiB", "1,5G", "10 000", "nan", "9999999T"])
def test_what_is_no_size_is_refused_by_the_name_of_its_variable(monkeypatch, text):
    monkeypatch.setenv(caches.BYTES, text)
    with pytest.raises(UsageError, match=rf"{caches.BYTES} '{text}' is not a size such as 2GB"):
        local_cache()


@pytest.mark.parametrize("text", ["s3://bucket/cache", "s3:/bucket/cache", "az://c/cache"])
def test_a_cache_on_a_bucket_is_refused_by_the_name_of_its_variable(monkeypatch, text, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(caches.FOLDER, text)
    with pytest.raises(UsageError, match=rf"{caches.FOLDER} {text[:2]}://.*: name a folder on a"):
        local_cache()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "num_bytes"), [("0", 0), ("1", 1), ("10GB", 10**10), ("1.5 MB", 1_500_000)]
)
def test_sizes_that_are_taken(tmp_path, monkeypatch, text, num_bytes):
    monkeypatch.setenv(caches.BYTES, text)
    monkeypatch.setenv(caches.FOLDER, str(tmp_path / "cache"))
    cache = local_cache()
    assert cache.num_bytes == num_bytes
    assert cache.read("key", lambda: b"data", bytes) == b"data"
    assert cache.open_rows("shard", [0, 10], b"", user=User()) is None or num_bytes > 1
    assert (tmp_path / "cache").exists() == (num_bytes > 0)
    assert bool(list((tmp_path / "cache").glob("??/*"))) == (num_bytes > 1)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """A store on disk: a clip of two shards with an array of bytes."""
    path = stores.make_store(tmp_path_factory.mktemp("local") / "s")
    with StoreWriter(path, writer_id="w") as writer:
        clip = stores.begin(writer, "a", byte_arrays=("pixels",))
        stores.append(writer, clip, "a", 70)
        rng = np.random.default_rng(0)
        clip.append_bytes("pixels", [rng.bytes(500 + 40 * number) for number in range(70)])
        count = np.arange(70)
        clip.commit(count, count * 2, count % 2, np.zeros(70, np.uint8))
    return path


def codes(store, frames=None) -> bytes:
    return store.read("a", frames, blocks=[1]).codes[1].tobytes()


@pytest.mark.parametrize("how", ["cut", "emptied", "other bytes", "rows that are holes"])
def test_a_damaged_shard_is_fetched_again_and_then_whole(local, upload, monkeypatch, how):
    url, here = upload(local), codes(open_store(local))
    assert codes(open_store(url), [1, 2, 3]) == codes(open_store(local), [1, 2, 3])
    monkeypatch.setattr(bucket_shard, "GAP_BYTES", 0)
    for file in local_cache().folder.glob("??/*"):
        if how == "rows that are holes" and file.suffix == caches.HAVE:
            file.write_bytes(b"\1" * file.stat().st_size)
        elif file.suffix != caches.HAVE and file.stat().st_size > 10_000:
            size = file.stat().st_size
            data = {"cut": size // 2, "emptied": 0}.get(how)
            if data is not None:
                os.truncate(file, data)
            elif how == "other bytes":
                file.write_bytes(np.random.default_rng(1).bytes(size))
    before = local_cache().num_refetched
    assert codes(open_store(url)) == here
    assert local_cache().num_refetched > before
    again, counted = requests_of(monkeypatch), local_cache().num_refetched
    assert codes(open_store(url)) == here
    assert [key for key, _ in again if "tokens/1/c" in key] == []
    assert local_cache().num_refetched == counted


def test_another_store_at_the_same_url_is_not_read_from_the_cache(local, upload, tmp_path):
    url = upload(local)
    first = codes(open_store(url))
    other = stores.make_store(tmp_path / "other")
    with StoreWriter(other, writer_id="w") as writer:
        clip = stores.begin(writer, "a")
        stores.append(writer, clip, "another", 70)
        count = np.arange(70)
        clip.commit(count, count * 2, count % 2, np.zeros(70, np.uint8))
    assert upload(other) == url  # other objects under the same keys
    assert codes(open_store(url)) == codes(open_store(other)) != first
    assert local_cache().num_refetched == 0


def test_strings_are_read_by_ranges_and_kept(local, upload, monkeypatch):
    url, here = upload(local), open_store(local)
    monkeypatch.setattr(bucket_shard, "GAP_BYTES", 0)
    seen = requests_of(monkeypatch)
    wanted, there = [5, 69, 6, 40, 5], open_store(url)
    strings = here.read_bytes("a", "pixels", wanted)
    assert there.read_bytes("a", "pixels", wanted) == strings
    read = [size for key, size in seen if "pixels/items/c/" in key and size not in (1028,)]
    assert read == [sum(8 + 500 + 40 * n for n in (5, 6, 40)), 8 + 500 + 40 * 69]
    for store in (there, open_store(url)):
        seen.clear()
        assert store.read_bytes("a", "pixels", wanted) == strings
        assert [key for key, _ in seen if "pixels/" in key] == []
    assert there.read_bytes("a", "pixels") == here.read_bytes("a", "pixels")
    assert there.open_clip(there.record("a")).string_bytes("pixels") == sum(
        map(len, here.read_bytes("a", "pixels"))
    )


def test_strings_of_a_damaged_cache_are_fetched_again_and_of_a_damaged_bucket_refused(
    local, upload, monkeypatch
):
    url, here = store_path(upload(local)), open_store(local).read_bytes("a", "pixels")
    assert open_store(url).read_bytes("a", "pixels") == here
    for file in local_cache().folder.glob("??/*"):
        if file.suffix != caches.HAVE:
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
    before = local_cache().num_refetched
    for _ in range(2):
        assert open_store(url).read_bytes("a", "pixels") == here
    assert local_cache().num_refetched > before
    monkeypatch.setenv(caches.BYTES, "0")
    assert open_store(url).read_bytes("a", "pixels") == here
    (file,) = [path for path in url.rglob("0") if "pixels/items/c/0" in str(path)]
    data = bytearray(file.read_bytes())
    data[600] ^= 1
    file.write_bytes(bytes(data))
    assert open_store(url).read_bytes("a", "pixels", [5]) == here[5:6]
    with pytest.raises(Damaged, match="the bytes of unit 1 are damaged"):
        open_store(url).read_bytes("a", "pixels")
    file.write_bytes(bytes(data[:-1]))
    with pytest.raises(Damaged, match="its index does not match"):
        open_store(url).read_bytes("a", "pixels")
    file.unlink()
    with pytest.raises(Damaged, match="no such object"):
        open_store(url).read_bytes("a", "pixels")


def test_a_cache_of_two_runs_at_once_serves_both(local, upload, monkeypatch):
    url = upload(local)
    one, two = open_store(url), open_store(url)
    assert codes(one, [1]) == codes(two, [1])
    seen = requests_of(monkeypatch)
    codes(one)
    seen.clear()
    assert codes(two) == codes(one)
    assert [key for key, _ in seen if "tokens/1/c" in key] == []


def deleted_in(folder: Path) -> list[str]:
    """Files of a folder that were removed and are still open or mapped by this process."""
    names = [
        line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()
    ]
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # of the list itself
            names.append(str(handle.readlink()))
    return [name for name in names if str(folder) in name and "(deleted)" in name]


def by_another_process(folder: Path, num_bytes: int) -> None:
    """Make the cache smaller as another process does."""
    process = fork.Process(target=LocalCache, args=(folder, num_bytes))
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("checks", ["once", "always"])
def test_files_that_another_process_removed_are_closed_at_the_next_read(
    local, upload, caplog, checks
):
    there, here = open_store(upload(local), checks=checks), open_store(local)
    folder = local_cache().folder
    for _ in range(2):  # mapped at the second
        assert codes(there) == codes(here)
    assert there.read_bytes("a", "pixels") == here.read_bytes("a", "pixels")
    by_another_process(folder, 1)
    assert held(folder) == 0 < len(deleted_in(folder))
    assert codes(there, [3]) == codes(here, [3])  # of one shard of two
    assert deleted_in(folder) == []  # of both, and of the strings
    assert there.read_bytes("a", "pixels") == here.read_bytes("a", "pixels")
    for _ in range(2):
        assert codes(there) == codes(here)
    by_another_process(folder, 1)
    assert there.read_bytes("a", "pixels", [4]) == here.read_bytes("a", "pixels", [4])
    assert deleted_in(folder) == []
    assert (local_cache().num_refetched, caplog.text) == (0, "")


def test_a_shard_that_another_process_removes_while_it_is_fetched_is_not_damaged(
    local, upload, monkeypatch, caplog
):
    fill_rows = bucket_shard.BucketShard._fill

    def fill_and_lose(shard, file, frames) -> bool:
        filled = fill_rows(shard, file, frames)
        file.path.unlink()
        return filled

    monkeypatch.setattr(bucket_shard.BucketShard, "_fill", fill_and_lose)
    assert codes(open_store(upload(local))) == codes(open_store(local))
    assert (local_cache().num_refetched, caplog.text) == (0, "")


def test_files_that_make_room_are_closed_by_the_process_that_needs_it(local, upload, monkeypatch):
    there, here = open_store(upload(local)), open_store(local)
    assert codes(there) == codes(here)
    cache = local_cache()
    cache.num_bytes = 3 * caches.BLOCK
    with cache.room(1, most=cache.num_bytes) as fits:
        assert fits
    assert held(cache.folder) == 0
    assert deleted_in(cache.folder) == []


def test_a_file_that_is_still_read_counts_as_used(local, upload):
    there = open_store(upload(local))
    codes(there)
    files = [shard._local[0].path for shard in there._kept.shards.values()]
    for file in files:
        os.utime(file, (0, 0))
    codes(there)
    assert min(file.stat().st_mtime for file in files) > 0
