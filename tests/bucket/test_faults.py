"""Faults between a store and its bucket: refused, slow, cut and stale answers change no byte."""

import importlib.util
import logging
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.bucket import objects
from tokenreel.cache.bucket.local_cache import BYTES
from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.errors import MachineError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.maintenance import diff_stores
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location(
    "stores", Path(__file__).parents[1] / "cache" / "stores.py"
)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    path = stores.make_store(tmp_path_factory.mktemp("local") / "s")
    with StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a", 70)
    return path


def tokens_of(path) -> list[bytes]:
    store = open_store(path)
    tokens = store.read("a")
    return [tokens.codes[block].tobytes() for block in (1, 3)] + [store.labels("a").tobytes()]


def be_impatient(monkeypatch) -> None:
    """Give up requests without an answer soon; only where some never get one."""
    monkeypatch.setattr(objects, "ANSWER_SECONDS", 1.5)
    objects.forget_clients()


@pytest.mark.parametrize("kind", ["503", "500", "cut", "lost", "slow"])
def test_reads_survive_faults(proxy, upload, local, monkeypatch, kind):
    url = upload(local)
    monkeypatch.setenv(BYTES, "0")
    if kind == "slow":
        be_impatient(monkeypatch)
    proxy.fail_every(40 if kind == "slow" else 4, kind)
    assert tokens_of(url) == tokens_of(local)
    assert proxy.seen.count(kind) >= 2 or kind == "slow"


@pytest.mark.parametrize(
    "kind",
    [
        "503",
        "cut",
        "lost",
        pytest.param("500", marks=pytest.mark.slow),
        pytest.param("slow", marks=pytest.mark.slow),
    ],
)
def test_writes_survive_faults_and_are_done_once(proxy, s3, local, monkeypatch, kind):
    if kind == "slow":
        be_impatient(monkeypatch)
    url = stores.make_store(f"{s3}/store")
    every = 12 if kind == "slow" else 5
    proxy.fail_every(every, kind)
    with StoreWriter(url, writer_id="w") as writer:
        stores.write_clip(writer, "a", 70)
    assert len(proxy.seen) > 60 / every
    proxy.heal()
    assert diff_stores(url, local) == []
    assert verify_store(url, deep=True).problems == ()
    assert not list((url / "claims").iterdir())


def test_a_stale_listing_shows_fewer_clips_and_never_a_wrong_one(proxy, s3):
    url = stores.make_store(f"{s3}/store")
    with StoreWriter(url, writer_id="w") as writer:
        stores.write_clip(writer, "a", 5)
    proxy.forget_listings()  # of before there was a store, by the writer that made it
    assert list(open_store(url).records) == ["a"]
    with StoreWriter(url, writer_id="w") as writer:
        stores.write_clip(writer, "a2", 5)
        proxy.fault = lambda number, method, path: "stale" if "list-type" in path else ""
        assert writer.is_committed("a2")  # a look at the object itself
    old = open_store(url)
    assert set(old.records) <= {"a", "a2"}
    assert all(len(old.read(name).codes[1]) == 5 for name in old.records)
    proxy.fault = lambda *_: ""
    assert list(open_store(url).records) == ["a", "a2"]


def test_a_service_that_stays_away_is_a_fault_of_the_machine(proxy, upload, local, caplog):
    url = upload(local)
    store = open_store(url)
    proxy.fault = lambda *_: "503"
    with caplog.at_level(logging.DEBUG), pytest.raises(MachineError) as caught:
        store.read("a")
    assert "503" in str(caught.value)
    assert "damaged" not in str(caught.value)
    for text in (str(caught.value), repr(caught.value.__cause__), caplog.text):
        assert "AKIDOFTESTS" not in text
        assert "secret-of-tests" not in text
    proxy.fault = lambda *_: ""
    assert len(store.read("a").codes[1]) == 70


def test_a_refused_key_is_said_without_the_key(proxy, upload, local):
    url = upload(local)
    proxy.fault = lambda *_: "403"
    with pytest.raises(MachineError, match="credentials are refused, have expired, or") as caught:
        open_store(url)
    assert "AKIDOFTESTS" not in str(caught.value)
    assert caught.value.__cause__ is None or "AKID" not in repr(caught.value.__cause__)


def deletes(method: str, path: str) -> bool:
    return method == "DELETE" or (method == "POST" and path.endswith("?delete"))


@pytest.mark.parametrize("kind", ["503", "500"])
def test_a_delete_is_tried_for_as_long_as_a_put(proxy, s3, kind):
    bucket = store_path(s3).bucket
    bucket.put("a", b"x")
    left = [10]  # the client alone gives up after 4

    def fault(number, method, path):
        left[0] -= deletes(method, path)
        return kind if deletes(method, path) and left[0] >= 0 else ""

    proxy.fault = fault
    bucket.delete(["a"])
    assert proxy.seen.count(kind) == 10
    assert bucket.objects() == []


def test_a_delete_that_may_be_of_another_by_now_is_made_again_only_where_it_was_refused(proxy, s3):
    bucket = store_path(s3).bucket
    seen = []
    proxy.fault = lambda number, method, path: (
        seen.append(path) or ("503" if len(seen) < 7 else "") if deletes(method, path) else ""
    )
    bucket.delete(["a"], again=False)
    assert len(seen) == 7
    proxy.fault = lambda number, method, path: "lost" if deletes(method, path) else ""
    with pytest.raises(TimeoutError, match="does not answer as it should"):
        bucket.delete(["a"], again=False)
    assert proxy.seen.count("lost") == 4


def test_a_right_to_delete_that_lacks_is_named(proxy, s3):
    bucket = store_path(s3).bucket
    bucket.put("a", b"x")
    proxy.fault = lambda number, method, path: "403" if deletes(method, path) else ""
    with pytest.raises(PermissionError, match="give the credentials the right to delete objects"):
        bucket.delete(["a"])


def test_the_code_of_one_of_many_objects_that_are_deleted_is_read():
    class GenericError(Exception):
        pass

    said = "Generic S3 error: DeleteObjects request failed for key a: no (code: AccessDenied)"
    assert isinstance(objects._failure(GenericError(said), "s3://b/a"), objects.Denied)
    said = "status code: 403 Forbidden <Error><Code>RequestTimeTooSkewed</Code></Error>"
    assert "the clock of this machine" in str(objects._failure(GenericError(said), "s3://b/a"))


def test_a_refused_list_says_that_a_right_may_lack(proxy, s3):
    proxy.fault = lambda number, method, path: "403" if "list-type" in path else ""
    with pytest.raises(PermissionError, match="refused, have expired, or lack the right to this"):
        store_path(f"{s3}/videos").objects()


def test_an_answer_to_a_commit_that_is_lost_is_no_lost_commit(proxy, s3):
    url = store_path(stores.make_store(f"{s3}/store"))
    proxy.fault = lambda number, method, path: (
        "lost" if method == "PUT" and path.endswith("/zarr.json") and number % 2 else ""
    )
    with StoreWriter(url, writer_id="w") as writer:
        record = stores.write_clip(writer, "a", 5)
    assert record.num_frames == 5
    store = open_store(url)
    assert np.array_equal(store.labels("a"), np.arange(5) % 2)
