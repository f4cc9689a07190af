"""Stores are written to a bucket with the bytes of a disk; conditional puts keep writers apart."""

import importlib.util
import socket
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.bucket import objects
from tokenreel.cache.bucket.local_cache import FOLDER
from tokenreel.cache.bucket.objects import Bucket
from tokenreel.cache.bucket.path import object_state, store_path
from tokenreel.cache.errors import MachineError, UsageError, WrongIdentity
from tokenreel.cache.files import files_below
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.index import load_records
from tokenreel.cache.format.store_files import read_failures, record_failure
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.maintenance import diff_stores
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write import bucket_claims, claims
from tokenreel.cache.write.bucket_claims import BucketClaims
from tokenreel.cache.write.bucket_writer import scratch_of
from tokenreel.cache.write.claims import ClaimHeld, is_live, read_claim
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location(
    "stores", Path(__file__).parents[1] / "cache" / "stores.py"
)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


def write(path, *names: str, frames: int = 5) -> None:
    with StoreWriter(path, writer_id="w") as writer:
        for name in names:
            stores.write_clip(writer, name, frames)


def contents(path: Path) -> dict[str, bytes]:
    """Files of a store by name, without the logs, whose names are of their writers."""
    files = {file.relative_to(path).as_posix(): file.read_bytes() for file in files_below(path)}
    return {name: data for name, data in files.items() if not name.startswith("manifest/")}


def test_a_store_written_to_a_bucket_has_the_bytes_of_one_on_disk(s3, tmp_path):
    url = stores.make_store(f"{s3}/team/store")
    here = stores.make_store(tmp_path / "store")
    for path in (url, here):
        write(path, "a", frames=70)
        write(path, "b")
    assert contents(url) == contents(here)
    assert diff_stores(url, here) == []
    assert [len(load_records(url)), len(list(url.glob("manifest/*.jsonl")))] == [2, 2]
    assert verify_store(url, deep=True).problems == ()
    assert not list(scratch_of(url).rglob("*.json"))


def test_the_group_of_a_clip_is_put_last_and_only_where_there_is_none(s3, monkeypatch):
    url, order = stores.make_store(f"{s3}/store"), []
    put = Bucket.put

    def noted(self, key, data, *, tag=None, new=False):
        order.append((key, new, tag is not None))
        return put(self, key, data, tag=tag, new=new)

    monkeypatch.setattr(Bucket, "put", noted)
    write(url, "a")
    folder = f"store/{folder_of(clip_key('a'))}/"
    own = [(key.removeprefix(folder), new) for key, new, _ in order if key.startswith(folder)]
    assert own[-1] == ("zarr.json", True)
    assert all(new for _, new in own)  # who lost its claim overwrites nothing
    claim = [(new, has_tag) for key, new, has_tag in order if "/claims/" in key]
    assert claim == [(True, False)]  # taken, and ours before the upload, as it is young


def test_an_old_claim_is_put_again_before_the_upload(s3, monkeypatch):
    url, order = stores.make_store(f"{s3}/store"), []
    put = Bucket.put

    def noted(self, key, data, *, tag=None, new=False):
        order.append((key, tag is not None))
        return put(self, key, data, tag=tag, new=new)

    with StoreWriter(url, writer_id="w") as writer:
        clip = stores.begin(writer, "a")
        stores.append(writer, clip, "a", 5)
        grow_older(monkeypatch, 151)  # half of the expiry
        monkeypatch.setattr(Bucket, "put", noted)
        count = np.arange(5)
        clip.commit(count, count, count % 2, np.zeros(5, np.uint8))
    claim = f"store/claims/{clip_key('a')}.json"
    first = next(at for at, (key, _) in enumerate(order) if "/clips/" in key)
    assert [has_tag for key, has_tag in order[:first] if key == claim] == [True]


def test_a_heartbeat_puts_the_claims_again_those_taken_ahead_too(s3):
    url = stores.make_store(f"{s3}/store")
    mine = BucketClaims(url / "claims", owner="mine")
    mine.take("a")
    mine.take_ahead(["b"])
    before = [claim._put_at for claim in (mine._held["a"], mine._ahead["b"])]
    mine.beat()
    after = [claim._put_at for claim in (mine._held["a"], mine._ahead["b"])]
    assert all(new > old for new, old in zip(after, before, strict=True))
    assert mine.take("b").is_held
    mine.release_all()
    assert list((url / "claims").iterdir()) == []


def grow_older(monkeypatch, seconds):
    now = claims.steady_clock()
    for module in (claims, bucket_claims):
        monkeypatch.setattr(module, "steady_clock", lambda: now + seconds)


def test_clips_that_are_claimed_ahead_are_begun_without_a_request_of_the_claims(s3, monkeypatch):
    url, asked = stores.make_store(f"{s3}/store"), []
    write(url, "b")
    with StoreWriter(url, writer_id="w") as writer, StoreWriter(url, writer_id="x") as other:
        stores.begin(other, "c")
        writer.claim_ahead(["a", "b", "c"])
        assert [writer.has_claimed(name) for name in "abc"] == [True, True, False]
        for name in ("put", "head", "get", "objects"):
            real = getattr(Bucket, name)

            def noted(self, key="", *given, real=real, name=name, **how):
                asked.append((name, key))
                return real(self, key, *given, **how)

            monkeypatch.setattr(Bucket, name, noted)
        stores.begin(writer, "a")
        with pytest.raises(ClaimHeld, match="already committed"):
            stores.begin(writer, "b")
        with pytest.raises(ClaimHeld, match="works on it"):
            stores.begin(writer, "c")
        assert [key for _, key in asked if "/claims/" in key or clip_key("a") in key] == []
        assert not writer.has_claimed("a")


class Killed(BaseException):
    """In the place of a kill."""


@pytest.mark.parametrize("survives", [3, 9, 17])
def test_a_killed_upload_is_no_clip_and_the_next_writer_makes_it(
    s3, monkeypatch, tmp_path, survives
):
    url, put, count = stores.make_store(f"{s3}/store"), Bucket.put, [0]

    def dying(self, key, data, **how):
        if "/clips/" in key:
            count[0] += 1
            if count[0] > survives:
                raise Killed
        return put(self, key, data, **how)

    monkeypatch.setattr(Bucket, "put", dying)
    with pytest.raises(Killed):
        write(url, "a")
    monkeypatch.setattr(Bucket, "put", put)
    assert open_store(url).records == {}
    (url / folder_of(clip_key("a")) / "views/9/old").write_bytes(b"of another version")
    write(url, "a")
    here = stores.make_store(tmp_path / "store")
    write(here, "a")
    assert contents(url) == contents(here)
    assert verify_store(url, deep=True).problems == ()


def test_whole_segments_of_a_killed_writer_of_this_machine_are_kept(s3):
    url = stores.make_store(f"{s3}/store")
    writer = StoreWriter(url, writer_id="w")
    clip = stores.begin(writer, "a")
    stores.append(writer, clip, "a", 66)
    clip.suspend()
    writer._claims.release_all()
    with StoreWriter(url, writer_id="w") as writer:
        clip = stores.begin(writer, "a")
        assert clip.resume_frames == 64
        stores.append(writer, clip, "a", 66)
        count = np.arange(66)
        clip.commit(count, count, count % 2, np.zeros(66, np.uint8))
    assert verify_store(url, deep=True).problems == ()


def test_of_two_writers_of_a_clip_one_works_and_a_dead_one_gives_way(s3, monkeypatch, tmp_path):
    url = stores.make_store(f"{s3}/store")
    first, second = (StoreWriter(url, writer_id=name) for name in ("one", "two"))
    clip = stores.begin(first, "a")
    with pytest.raises(ClaimHeld, match=r"a-\w+: one-\w+ on .* works on it"):
        stores.begin(second, "a")
    claim = url / "claims" / f"{clip_key('a')}.json"
    assert is_live(claim)
    held = read_claim(claim)
    assert (held.host, held.owner) == (socket.gethostname(), first.name)
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    monkeypatch.setenv(FOLDER, str(tmp_path / "of another machine"))
    later = StoreWriter(url, writer_id="three", expiry_seconds=-5.0)
    taken = stores.begin(later, "a")
    stores.append(first, clip, "a", 5)
    count = np.arange(5)
    grow_older(monkeypatch, 151)
    with pytest.raises(ClaimHeld, match="another writer has taken it over"):
        clip.commit(count, count, count % 2, np.zeros(5, np.uint8))
    stores.append(later, taken, "a", 5)
    taken.commit(count, count, count % 2, np.zeros(5, np.uint8))
    assert list(open_store(url).records) == ["a"]
    with pytest.raises(ClaimHeld, match="already committed"):
        stores.begin(later, "a")


def test_claims_are_taken_and_deleted_in_batches(s3, monkeypatch):
    url, calls = stores.make_store(f"{s3}/store"), []
    mine, theirs = (BucketClaims(url / "claims", owner=name) for name in ("mine", "theirs"))
    theirs.take("c3")
    keys = [f"c{number}" for number in range(bucket_claims.AHEAD)]
    mine.take_ahead(keys)
    for name in ("put", "delete", "get", "head"):
        real = getattr(Bucket, name)

        def counted(self, *given, real=real, name=name, **how):
            calls.append(name)
            return real(self, *given, **how)

        monkeypatch.setattr(Bucket, name, counted)
    assert [key for key in keys if mine.is_refused(key)] == ["c3"]
    taken = [mine.take(key) for key in keys if key != "c3"]
    with pytest.raises(ClaimHeld, match="theirs on"):
        mine.take("c3")
    assert calls == []
    for claim in taken:
        claim.release()
    assert calls == []
    mine.release_all()
    assert calls == ["delete"], "they are young: nobody can have taken them over"
    assert [path.stem for path in (url / "claims").iterdir()] == ["c3"]


def test_a_damaged_claim_is_of_nobody(s3, caplog):
    url = stores.make_store(f"{s3}/store")
    (url / "claims" / f"{clip_key('a')}.json").write_bytes(b"{")
    write(url, "a")
    assert list(open_store(url).records) == ["a"]
    assert "the claim of a dead writer" in caplog.text


def test_a_clip_is_replaced_and_the_old_one_is_gone_at_once(s3):
    url = stores.make_store(f"{s3}/store")
    write(url, "a", frames=70)
    old = open_store(url).record("a")
    with StoreWriter(url, writer_id="w") as writer:
        clip = stores.begin(writer, "a", replaces=old)
        assert open_store(url).record("a") == old
        stores.append(writer, clip, "a", 5)
        count = np.arange(5)
        clip.commit(count, count, count % 2, np.zeros(5, np.uint8))
    store = open_store(url)
    assert store.record("a").num_frames == len(store.read("a").codes[1]) == 5
    assert verify_store(url, deep=True).problems == ()


def test_two_identities_at_one_url_are_refused_and_one_store_is_whole(s3):
    url = stores.make_store(f"{s3}/store", "int8")
    before = contents(url)
    with pytest.raises(WrongIdentity):
        stores.make_store(f"{s3}/store", "fp16")
    assert contents(url) == before
    assert stores.make_store(f"{s3}/store", "int8") == url


def test_failures_count_their_attempts_also_where_two_writers_record_one(s3, monkeypatch):
    url = stores.make_store(f"{s3}/store")
    for _ in range(2):
        record_failure(url, "a", stage="decode", reason="torn", details={})
    real, done = object_state, []

    def late(path):
        state = real(path)
        if not done:
            done.append(True)
            record_failure(url, "a", stage="decode", reason="torn", details={})
        return state

    monkeypatch.setattr("tokenreel.cache.format.store_files.object_state", late)
    record_failure(url, "a", stage="decode", reason="torn", details={})
    assert [record["attempts"] for record in read_failures(url)] == [4]
    write(url, "a")
    assert read_failures(url) == []


@pytest.mark.parametrize("kind", ["ignored", "refused"])
def test_a_bucket_without_conditional_puts_is_told_and_has_one_writer(
    s3, monkeypatch, caplog, kind
):
    url, call = stores.make_store(f"{s3}/store"), Bucket._call
    monkeypatch.setattr(bucket_claims, "SETTLE_SECONDS", 0.05)

    def plain(self, key, work, *, again=False):
        class Client:
            def __getattr__(self, name):
                import obstore

                return getattr(obstore, name)

            def put(self, store, key, data, *, mode="overwrite", **how):
                import obstore

                if mode != "overwrite" and kind == "refused":
                    raise obstore.exceptions.NotSupportedError("no such header")
                return obstore.put(store, key, data, **how)

        return call(self, key, lambda _, store: work(Client(), store), again=again)

    monkeypatch.setattr(Bucket, "_call", plain)
    try:
        write(url, "a")
        assert "has no conditional puts" in caplog.text
        assert list(open_store(url).records) == ["a"]
        first = StoreWriter(url, writer_id="one")
        stores.begin(first, "b")
        with pytest.raises(ClaimHeld, match="no conditional puts to keep two apart"):
            StoreWriter(url, writer_id="two")
    finally:
        objects._unconditional.clear()


def test_credentials_that_expire_stop_a_writer_clean_and_the_next_resumes(s3, monkeypatch, caplog):
    url, call = stores.make_store(f"{s3}/store"), Bucket._call
    write(url, "a")

    def expired(self, key, work, *, again=False):
        def refuse(client, store):
            text = "status code: 400 Bad Request <Code>ExpiredToken</Code><Key>AKIDOFTESTS</Key>"
            raise client.exceptions.GenericError(text)

        return call(self, key, refuse if "/views/" in key else work, again=again)

    writer = StoreWriter(url, writer_id="w")
    with writer:
        clip = stores.begin(writer, "b")
        stores.append(writer, clip, "b", 5)
        monkeypatch.setattr(Bucket, "_call", expired)
        count = np.arange(5)
        with pytest.raises(MachineError, match="the credentials are refused or have") as caught:
            clip.commit(count, count, count % 2, np.zeros(5, np.uint8))
        clip.suspend()
    cause = caught.value
    while cause is not None:
        assert "AKIDOFTESTS" not in str(cause)
        cause = cause.__cause__ or cause.__context__
    monkeypatch.setattr(Bucket, "_call", call)
    assert list(open_store(url).records) == ["a"]
    write(url, "b")
    assert verify_store(url, deep=True).problems == ()
    assert "AKIDOFTESTS" not in caplog.text


def test_what_needs_a_disk_says_so_of_a_bucket(s3):
    with pytest.raises(UsageError, match="is on a bucket, and this needs a disk"):
        open(store_path(f"{s3}/store"))  # noqa: PTH123, SIM115


def test_no_multipart_upload_is_ever_left(s3, s3_address):
    import boto3

    write(stores.make_store(f"{s3}/store"), "a")
    client = boto3.client("s3", endpoint_url=s3_address)
    found = client.list_multipart_uploads(Bucket=s3.removeprefix("s3://"))
    assert found.get("Uploads", []) == []
