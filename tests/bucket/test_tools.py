"""Tools on a bucket: verify, repair, merge, export, collect garbage."""

import importlib.util
import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.bucket.objects import in_parallel
from tokenreel.cache.bucket.path import bucket_path, store_path
from tokenreel.cache.errors import UsageError
from tokenreel.cache.files import files_below, make_directory
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.copying import merge_store, migrate_store, recode_store
from tokenreel.cache.tools.export import export_store
from tokenreel.cache.tools.import_features import ImportStatement, import_features
from tokenreel.cache.tools.maintenance import (
    collect_garbage,
    diff_stores,
    mend_logs,
    remove_damaged,
    store_info,
)
from tokenreel.cache.tools.status import store_status
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.pipeline.phases.relabelling import renew_labels

_spec = importlib.util.spec_from_file_location(
    "stores", Path(__file__).parents[1] / "cache" / "stores.py"
)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


def store_at(path, *names: str):
    path = stores.make_store(path)
    with StoreWriter(path, writer_id="w") as writer:
        for name in names:
            stores.write_clip(writer, name, 5)
    return path


def test_stores_are_merged_from_disk_to_bucket_to_disk_and_are_equal(s3, tmp_path):
    here = store_at(tmp_path / "here", "a", "b")
    url = f"{s3}/store"
    assert merge_store(here, url).copied == ("a", "b")
    assert merge_store(here, url).copied == ()
    back = tmp_path / "back"
    assert merge_store(url, back).copied == ("a", "b")
    assert diff_stores(here, url) == diff_stores(url, back) == []
    assert store_info(url).num_clips == 2
    assert store_status(url).num_committed == 2


@pytest.mark.parametrize("name", ["", "store", "a/store"])
def test_a_store_is_not_merged_into_a_folder_of_its_own(memory, tmp_path, name):
    url = store_at(f"{memory}/{name}", "a")
    here = store_at(tmp_path / "store", "a")
    for store in (url, here):
        with pytest.raises(UsageError, match=r"copy is inside the store .*: name another"):
            merge_store(store, f"{store}/clips/copy")
    assert merge_store(url, tmp_path / "store-2").copied == ("a",)


def test_damage_on_a_bucket_is_found_and_removed(s3):
    url = store_at(f"{s3}/store", "a", "b", "c")
    folder = url / folder_of(clip_key("a"))
    shard = folder / "views/0/tokens/1/c/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    (url / folder_of(clip_key("b")) / "views/0/cls/1/c/0/0").unlink()
    (url / "stray.txt").write_bytes(b"x")
    (url / "claims" / "x.json").write_bytes(b"{")
    report = verify_store(url, deep=True)
    assert report.repair == ("a", "b")
    table = report.table()
    for part in ("stray.txt: does not belong here", "bytes, wanted", "no such object", "nobody"):
        assert part in table
    assert mend_logs(url) == ["x.json"]
    assert remove_damaged(url, report) == ["a", "b"]
    (url / "stray.txt").unlink()
    assert list(open_store(url).records) == ["c"]
    assert [p.clip_id for p in verify_store(url).problems] == ["a", "b"]  # logged, and missing
    with StoreWriter(url, writer_id="w") as writer:
        for name in ("a", "b"):
            stores.write_clip(writer, name, 5)
    assert verify_store(url, deep=True).problems == ()


def test_clips_are_exported_to_a_disk_alone(s3, tmp_path):
    url, here = store_at(f"{s3}/store", "a"), store_at(tmp_path / "here", "a")
    ours, theirs = (
        export_store(path, tmp_path / name, kind="npy").files
        for path, name in ((url, "x"), (here, "y"))
    )
    assert [file.name for file in ours] == [file.name for file in theirs]
    assert all((np.load(a) == np.load(b)).all() for a, b in zip(ours, theirs, strict=True))
    for out in (f"{s3}/out", Path(f"{s3}/out")):
        with pytest.raises(UsageError, match="exported files cannot be written"):
            export_store(url, out)
    with pytest.raises(UsageError, match="only token stores and videos"):
        make_directory(Path(f"{s3}/runs"))


def test_garbage_of_killed_writers_is_listed_and_deleted(s3, s3_address):
    import boto3

    url = store_at(f"{s3}/store", "a")
    torn = url / folder_of(clip_key("torn"))
    (torn / "views/0/tokens/1/c/0/0/0").write_bytes(b"x" * 1000)
    (url / "claims" / f"{clip_key('dead')}.json").write_bytes(b"{")
    writer = StoreWriter(url, writer_id="live")
    stores.begin(writer, "live")
    (url / folder_of(clip_key("live")) / "pts/c/0").write_bytes(b"y")
    name = s3.removeprefix("s3://")
    client = boto3.client("s3", endpoint_url=s3_address)
    client.create_multipart_upload(Bucket=name, Key="store/clips/big")
    client.create_multipart_upload(Bucket=name, Key="others/big")
    found = collect_garbage(url)  # all else is recent; this server dates all uploads to 2010
    assert [entry for entry, _ in found] == [f"multipart upload of {s3}/store/clips/big"]
    found = collect_garbage(url, older_than_seconds=-5)
    assert (str(torn), 1000) in found
    expected = {
        str(torn),
        f"{url}/claims/{clip_key('dead')}.json",
        f"multipart upload of {s3}/store/clips/big",
    }
    assert {entry for entry, _ in found if "cache/writing" not in entry} == expected
    collect_garbage(url, older_than_seconds=-5, delete=True)
    left = [str(path) for path, _ in bucket_path(store_path(url)).objects()]
    assert not any("torn" in path or "dead" in path for path in left)
    assert any("live" in path for path in left)
    uploads = client.list_multipart_uploads(Bucket=name)["Uploads"]
    assert [upload["Key"] for upload in uploads] == ["others/big"]
    assert list(open_store(url).records) == ["a"]


def contents(path) -> dict[str, bytes]:
    path = store_path(path)
    files = {f.relative_to(path).as_posix(): f.read_bytes() for f in files_below(path)}
    return {name: data for name, data in files.items() if not name.startswith("manifest/")}


@pytest.mark.parametrize("prefix", ["claims/store", ".tmp-mine/store", "a/.tmp-/claims"])
def test_garbage_is_told_from_the_store_whatever_the_folders_above_are_called(memory, prefix):
    url = store_at(f"{memory}/{prefix}", "a")
    left = url / folder_of(clip_key("b")) / "pts/c/0"
    left.write_bytes(b"x")
    (url / ".tmp-probe").write_bytes(b"x")
    found = collect_garbage(url, older_than_seconds=-60, delete=True)
    assert {Path(name).name for name, _ in found} >= {clip_key("b"), ".tmp-probe"}
    assert not left.is_file()
    assert not (url / ".tmp-probe").is_file()
    assert verify_store(url, deep=True).problems == ()


def marks_of(url) -> list[str]:
    """Keys of the empty objects that a console puts for each folder below."""
    folders = set()
    for path, _ in url.objects():
        parts = path.relative_to(url).parts[:-1]
        parts = () if "views" in parts else parts
        folders |= {"/".join(parts[:depth]) for depth in range(len(parts) + 1)}
    return [f"{url.key}/{folder}/".replace("//", "/") for folder in sorted(folders)]


def test_empty_objects_that_a_console_puts_for_folders_are_no_files(s3, s3_address):
    url = bucket_path(store_at(f"{s3}/store", "a"))

    def put(key: str) -> None:
        place = f"{s3_address}/{s3.removeprefix('s3://')}/{key}"
        urllib.request.urlopen(urllib.request.Request(place, b"", method="PUT")).close()

    in_parallel(put, [*marks_of(url), "store/failed/", "store/workers/", "store/canary/more/"])
    assert verify_store(url, deep=True).problems == ()
    assert "workers" in {path.name for path in url.iterdir()}
    assert not {path.name for path in (url / "clips").iterdir()} & {"clips", ""}
    record = open_store(url).record("a")
    with StoreWriter(url, writer_id="w") as writer:
        clip = stores.begin(writer, "a", replaces=record)
        stores.append(writer, clip, "a", 7)
        count = np.arange(7)
        clip.commit(count, count * 2, count % 2, np.zeros(7, np.uint8))
    assert open_store(url).record("a").num_frames == 7
    assert verify_store(url, deep=True).problems == ()
    (url / "an-empty-file").write_bytes(b"")
    assert (url / "an-empty-file") in {path for path, _ in url.objects()}


def test_labels_are_renewed_on_a_bucket_as_on_a_disk(memory, tmp_path):
    url, here = store_at(f"{memory}/store", "a", "b"), store_at(tmp_path / "store", "a", "b")
    clips = [{"clip_id": "b", "frame_labels": [1, 1, 0, 0, -1], "split": "val"}]
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"clips": clips}))
    for path in (url, Path(str(url)), here):  # as typed, too: Path drops a slash
        renew_labels(path, manifest=labels)
    store = open_store(url)
    assert store.labels("b").tolist() == [1, 1, 0, 0, -1]
    assert (store.record("b").split, store.record("a").split) == ("val", "train")
    assert contents(url) == contents(here)
    labels.write_text(json.dumps({"clips": [{"clip_id": "c"}]}))
    with pytest.raises(UsageError, match=f"{url} has no clip 'c'"):
        renew_labels(url, manifest=labels)
    assert contents(url) == contents(here)


def test_features_are_imported_and_replaced_on_a_bucket_as_on_a_disk(memory, tmp_path):
    stated = {"dataset": "mine", "architecture": "i3d", "weights_sha256": "a" * 64, "blocks": [0]}
    stated |= {"grid": [1, 1], "dim": 12, "image_size": [8, 8], "transform": {}, "fps": 5}
    statement, url, here = ImportStatement.model_validate(stated), f"{memory}/s", tmp_path / "s"
    folder, rng = tmp_path / "features", np.random.default_rng(0)
    folder.mkdir()
    for name in "ab":
        np.save(folder / f"{name}.npy", rng.standard_normal((5, 12)).astype(np.float32))
    for changed, frames in (("refuse", 70), ("replace", 3)):
        for path in (url, here):
            report = import_features(folder, path, statement, changed=changed)
            assert report.replaced == (["a"] if changed == "replace" else [])
        assert contents(url) == contents(here)
        np.save(folder / "a.npy", rng.standard_normal((frames, 12)).astype(np.float32))
    assert open_store(url).record("a").num_frames == 70
    with pytest.raises(UsageError, match="features"):
        import_features(f"{memory}/features", here, statement)


def test_stores_are_recoded_and_merged_from_bucket_to_bucket(memory, tmp_path):
    made = [stores.make_store(path, "fp16") for path in (f"{memory}/s", tmp_path / "s")]
    for path in made:
        with StoreWriter(path, writer_id="w") as writer:
            stores.write_clip(writer, "a", 5)
    url, here = made
    recode_store(url, f"{memory}/small", codec="int8")
    recode_store(here, tmp_path / "small", codec="int8")
    assert diff_stores(f"{memory}/small", tmp_path / "small") == []
    assert merge_store(url, f"{memory}/twin").copied == ("a",)
    assert contents(f"{memory}/twin") == contents(here)
    assert migrate_store(url) == []
