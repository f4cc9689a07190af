"""Addresses of buckets: every form is taken, or refused with what is wrong and what to do."""

import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cache import stores
from tests.programs import call
from tokenreel.cache.bucket import objects
from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.errors import MachineError, StoreError, UsageError
from tokenreel.cache.files import files_below
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.maintenance import collect_garbage
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter

NAMES = ("team/s", "my stores/s 1", "ünï/größe-日本", "a%20b~c/+[x]&=", "")  # "": the whole bucket


@pytest.mark.parametrize("name", NAMES)
def test_a_store_below_any_name_is_written_read_verified_and_collected(s3, name):
    url = stores.make_store(f"{s3}/{name}/")
    with StoreWriter(url, writer_id="w") as writer:
        stores.write_clip(writer, "a", 3)
    for form in (f"{s3}/{name}", f"{s3}/{name}/", Path(f"{s3}/{name}")):
        assert list(open_store(form).records) == ["a"]
    assert verify_store(url, deep=True).problems == ()
    assert collect_garbage(url, older_than_seconds=-5, delete=True) == []
    found = {str(path).removeprefix(f"{s3}/{name}").lstrip("/") for path in files_below(url)}
    assert {"recipe.json", "zarr.json"} < found


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("s3:///store", "the name of the bucket is missing"),
        ("s3://", "give s3://BUCKET/PATH and nothing else"),
        ("s3:store/x", "no such place: give a path on a disk, or s3://BUCKET/PATH"),
        ("S3://bucket/store", "no such place: give a path on a disk, or s3://BUCKET/PATH"),
        ("https://host/store", "no such place: give a path on a disk, or s3://BUCKET/PATH"),
        ("gs://bucket/a/../b", "a bucket has no '..'"),
    ],
)
def test_an_address_that_is_none_is_refused_and_makes_no_folder(address, why, tmp_path):
    with pytest.raises(UsageError, match=why):
        store_path(address)
    for words in (["store", "info", address], ["status", address]):
        status, printed = call("tokenreel", *words, cwd=tmp_path)
        assert status == 2
        assert printed.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_is_none_is_named(s3):
    for make in (stores.make_store, open_store):
        with pytest.raises(UsageError, match=r"^s3://nobody: there is no such bucket$"):
            make("s3://nobody/store")


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
def test_an_endpoint_that_is_none_is_told_soon_by_its_variable(
    credentials, closed_port, monkeypatch, host
):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(objects, "time", clock)
    for name, value in {"CONNECT_SECONDS": 3.0, "MOST_SECONDS": 1.0, "RETRIES": 64}.items():
        monkeypatch.setattr(objects, name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{closed_port}")
    with pytest.raises(MachineError, match="no connection to the endpoint of AWS_ENDPOINT_URL"):
        open_store("s3://bucket/store")
    assert 2 < now[0] <= 3.0


def test_an_endpoint_without_a_scheme_and_missing_credentials_are_named(credentials, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "user:secret@127.0.0.1:9000")
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL is no https://HOST") as caught:
        open_store("s3://bucket/store")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UsageError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/store")


def test_an_object_of_more_bytes_than_one_request_puts_is_refused(memory, monkeypatch):
    monkeypatch.setattr(objects, "MOST_BYTES", 10)
    with pytest.raises(UsageError, match="11 bytes, and one request puts at most 10"):
        store_path(f"{memory}/x").write_bytes(bytes(11))


@pytest.mark.parametrize("name", ["//a.mp4", "/tab%09b.mp4"])
def test_a_key_that_cannot_be_read_is_named_at_once(s3, s3_address, name):
    place = f"{s3_address}/{s3.removeprefix('s3://')}/videos{name}"
    urllib.request.urlopen(urllib.request.Request(place, b"x", method="PUT")).close()
    with pytest.raises(UsageError, match=r"videos: the key 'videos/.*' below it has .*: rename"):
        store_path(f"{s3}/videos").objects()


def test_a_bucket_itself_is_a_folder_and_no_file(s3):
    (store_path(s3) / "a").write_bytes(b"x")
    assert [store_path(s3).is_file(), store_path(s3).is_dir()] == [False, True]
    with pytest.raises(StoreError, match="no token store here"):
        open_store(s3)


def test_a_folder_of_the_cache_that_cannot_be_written_is_named(memory, monkeypatch, tmp_path):
    url = stores.make_store(f"{memory}/store")
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setenv("TOKENREEL_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"file: Not a directory: clips .* by --cache-dir"):
        StoreWriter(url, writer_id="w")
