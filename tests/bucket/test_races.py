"""Writers that meet on a bucket: late ones overwrite nothing, and one of two makes a store."""

import threading
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

from tests.cache import stores
from tokenreel.cache.bucket import objects
from tokenreel.cache.bucket.objects import Bucket
from tokenreel.cache.bucket.path import object_state, put_object, store_path
from tokenreel.cache.errors import WrongIdentity
from tokenreel.cache.files import files_below
from tokenreel.cache.format import bucket_store, index
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.store_files import read_failures, record_failure
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.status import store_status
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write import bucket_claims, claims
from tokenreel.cache.write.bucket_claims import BucketClaims, OnlyWriter
from tokenreel.cache.write.claims import ClaimHeld
from tokenreel.cache.write.store_writer import StoreWriter


def contents(path) -> dict[str, bytes]:
    path = store_path(path)
    files = {f.relative_to(path).as_posix(): f.read_bytes() for f in files_below(path)}
    return {name: data for name, data in files.items() if not name.startswith("manifest/")}


def commit(writer, clip, frames):
    stores.append(writer, clip, "a", frames)
    count = np.arange(frames)
    return clip.commit(count, count, count % 2, np.zeros(frames, np.uint8))


@pytest.fixture
def dead_processes(monkeypatch):
    """Claims of this process are those of one that has ended."""
    return lambda: monkeypatch.setattr(claims, "_started", lambda pid: "")


@pytest.mark.parametrize("at", [0, 5, 15, 30])
def test_a_writer_that_wakes_after_another_took_its_clip_over_changes_no_object(
    memory, monkeypatch, dead_processes, tmp_path, at
):
    """It sleeps in its upload; the other one has another version of the clip, and commits it."""
    url, put, count = stores.make_store(f"{memory}/store"), Bucket.put, [0]
    late, done = StoreWriter(url, writer_id="late"), []
    clip = stores.begin(late, "a")
    monkeypatch.setattr(objects, "REQUESTS", 1)

    def sleeping(self, key, data, **how):
        if "/clips/" in key and not done:
            count[0] += 1
            if count[0] > at:
                done.append(True)
                dead_processes()
                monkeypatch.setenv("TOKENREEL_CACHE_DIR", str(tmp_path / "another machine"))
                with StoreWriter(url, writer_id="other") as other:
                    commit(other, stores.begin(other, "a"), 70)
                done.append(contents(url))
        return put(self, key, data, **how)

    monkeypatch.setattr(Bucket, "put", sleeping)
    with suppress(ClaimHeld):  # where it finds no clip yet, it puts its claim again first
        assert commit(late, clip, 5).num_frames == 70
    assert contents(url) == done[1]
    assert open_store(url).record("a").num_frames == 70
    assert verify_store(url, deep=True).problems == ()


def test_a_claim_that_was_put_again_has_another_tag_so_that_a_late_look_takes_nothing(
    s3, monkeypatch
):
    url = stores.make_store(f"{s3}/store")  # its tags are hashes of the bytes
    mine = BucketClaims(url / "claims", owner="mine")
    claim = mine.take("a")
    tags = {object_state(claim.path).tag}
    for _ in range(3):
        claim.renew()
        tags.add(object_state(claim.path).tag)
    assert len(tags) == 4
    look, theirs = bucket_claims.is_live_object, BucketClaims(url / "claims", owner="theirs")

    def late(*given, **how):
        look(*given, **how)
        claim.renew()
        return False

    monkeypatch.setattr(bucket_claims, "is_live_object", late)
    with pytest.raises(ClaimHeld, match="claimed by another writer"):
        theirs.take("a")
    claim.renew()
    mine.release_all()
    assert list((url / "claims").iterdir()) == []


def test_a_store_that_a_killed_writer_began_is_made_whole_by_one_of_another_identity(
    memory, monkeypatch
):
    class Killed(BaseException):
        pass

    def dying(path, data, **how):
        if path.name == "zarr.json" and path.parent.name == "store":
            raise Killed
        return put_object(path, data, **how)

    monkeypatch.setattr(bucket_store, "put_object", dying)
    with suppress(Killed):
        stores.make_store(f"{memory}/store", "int8")
    monkeypatch.setattr(bucket_store, "put_object", put_object)
    assert list(store_path(f"{memory}/store").iterdir())  # its calibration
    url = stores.make_store(f"{memory}/store", "fp16")
    other = stores.make_store(f"{memory}/other", "fp16")
    assert contents(url) == contents(other)
    assert verify_store(url).problems == ()
    with pytest.raises(WrongIdentity):
        stores.make_store(url, "int8")


@pytest.mark.parametrize("codecs", [("fp16", "fp16"), ("fp16", "int8")])
def test_of_two_that_make_a_store_at_once_both_get_it_or_one_is_refused(
    memory, monkeypatch, codecs
):
    monkeypatch.setattr(bucket_store, "WAIT_SECONDS", 0.01)
    for number in range(5):
        url, made = f"{memory}/{number}", []

        def make(codec, url=url, made=made):
            with suppress(WrongIdentity):
                made.append(stores.make_store(url, codec))

        threads = [threading.Thread(target=make, args=(codec,)) for codec in codecs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == (2 if codecs[0] == codecs[1] else 1)
        assert verify_store(url).problems == ()
        assert not [name for name in contents(url) if name.startswith(".tmp-")]


def test_without_conditional_puts_one_of_two_writers_that_begin_at_once_works(memory, monkeypatch):
    url = stores.make_store(f"{memory}/store")
    monkeypatch.setattr(bucket_claims, "is_live", lambda *given, **how: False)  # neither saw any
    started, put = [], threading.Barrier(3)
    wait = SimpleNamespace(sleep=lambda seconds: put.wait(60))  # until the puts of all are done
    monkeypatch.setattr(bucket_claims, "time", wait)

    def start(name):
        with suppress(ClaimHeld):
            started.append(OnlyWriter(url / "claims", owner=name))

    threads = [threading.Thread(target=start, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1
    started[0].require_own()
    put_object(url / "claims" / ".tmp-writer", BucketClaims(url, owner="x").next_data())
    started[0].beat()
    with pytest.raises(ClaimHeld, match="another writer is at work there"):
        started[0].require_own()


def test_what_is_deleted_after_it_was_listed_is_no_damage(memory, monkeypatch):
    url = stores.make_store(f"{memory}/store")
    with StoreWriter(url, writer_id="w") as writer:
        for name in ("a", "b"):
            stores.write_clip(writer, name, 3)
    for log in (url / "manifest").iterdir():
        log.unlink()
    record_failure(url, "c", stage="decode", reason="torn", details={})
    stale, level, read = (
        index.groups_on_bucket(url),
        Bucket.level,
        Bucket.level(url.bucket, "store/failed"),
    )
    (url / folder_of(clip_key("a")) / "zarr.json").unlink()
    (url / "failed" / f"{clip_key('c')}.json").unlink()
    monkeypatch.setattr(index, "groups_on_bucket", lambda path: stale)
    monkeypatch.setattr(
        Bucket, "level", lambda self, key: read if key.endswith("failed") else level(self, key)
    )
    assert list(open_store(url).records) == ["b"]
    assert read_failures(url) == []
    assert store_status(url).num_committed == 1


def test_claims_that_ended_and_are_not_deleted_yet_are_not_in_work(memory):
    url = stores.make_store(f"{memory}/store")
    with StoreWriter(url, writer_id="w") as writer:
        stores.write_clip(writer, "a", 3)
        stores.begin(writer, "b")
        assert len(list((url / "claims").iterdir())) == 2
        assert store_status(url).num_claimed == 1
    assert store_status(url).is_complete
