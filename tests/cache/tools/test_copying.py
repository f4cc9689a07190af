"""Clips from store to store: merged, brought up to date, kept by another codec."""

import importlib.util
import json
import shutil
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.errors import Damaged, UsageError, WrongIdentity
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.copying import CopyReport, merge_store, migrate_store, recode_store
from tokenreel.cache.tools.import_features import ImportStatement, import_features
from tokenreel.cache.tools.maintenance import compare_stores, diff_stores
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.claims import ClaimHeld, take_claim
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

GOLDEN = Path(__file__).parents[2] / "golden" / "store_v1"


def store_of(path: Path, codec: str, *names: str) -> Path:
    stores.make_store(path, codec)
    with StoreWriter(path, writer_id="w") as writer:
        for name in names:
            stores.write_clip(writer, name, 70)
    return path


def test_merge_makes_the_stores_equal_and_diff_says_so(tmp_path):
    store = store_of(tmp_path / "s", "int8", "a", "b")
    other = stores.make_store(tmp_path / "t")
    assert diff_stores(store, other) == [f"only in {store}: a", f"only in {store}: b"]
    found = compare_stores(store, other)
    assert found.exit_status == 1
    assert found.table().splitlines() == [
        f"only in {store}: 2 clips, the first a (--clips names all)"
    ]
    assert found.table(clips=True).splitlines() == found.lines
    assert merge_store(store, other).copied == ("a", "b")
    assert merge_store(store, other).copied == ()
    assert diff_stores(store, other) == []
    assert compare_stores(store, other).exit_status == 0
    assert verify_store(other, deep=True).problems == ()
    with pytest.raises(WrongIdentity):
        merge_store(store, stores.make_store(tmp_path / "u", "fp16"))


def replace_video_of(store: Path, name: str) -> None:
    """Extract a clip again, as from another video of the same name."""
    with StoreWriter(store, writer_id="w") as writer:
        clip = writer.begin(
            stores.make_clip(name),
            dataset="d",
            phases=("x", "y"),
            source=replace(stores.SOURCE, num_bytes=999),
            time_base=Fraction(1, 25),
            replaces=open_store(store).record(name),
        )
        stores.append(writer, clip, name, 70)
        count = np.arange(70)
        clip.commit(count, count * 2, count % 2, np.zeros(70, np.uint8))


@pytest.mark.parametrize("copy", [merge_store, partial(recode_store, codec="int4")])
def test_a_clip_that_was_extracted_again_since_it_was_copied_is_told(tmp_path, copy):
    store, target = store_of(tmp_path / "s", "fp16", "a", "b"), tmp_path / "t"
    if copy is merge_store:
        stores.make_store(target, "fp16")
    assert copy(store, target) == CopyReport(("a", "b"), {})
    assert copy(store, target) == CopyReport((), {})
    replace_video_of(store, "a")
    report = copy(store, target)
    assert (report.copied, list(report.differing), report.exit_status) == ((), ["a"], 3)
    assert "is of 999 bytes" in report.differing["a"]


def test_a_clip_with_other_labels_in_the_target_is_told(tmp_path):
    store, target = store_of(tmp_path / "s", "fp16", "a"), tmp_path / "t"
    with StoreWriter(stores.make_store(target, "fp16"), writer_id="w") as writer:
        clip = stores.begin(writer, "a")
        stores.append(writer, clip, "a", 70)
        count = np.arange(70)
        clip.commit(count, count * 2, count % 3, np.zeros(70, np.uint8))
    assert merge_store(store, target).differing == {"a": "other labels of frames"}


def test_diff_compares_cls_too(tmp_path):
    store, other = store_of(tmp_path / "s", "fp16", "a"), stores.make_store(tmp_path / "t", "fp16")
    with StoreWriter(other, writer_id="w") as writer:
        clip = stores.begin(writer, "a")
        append = clip.append
        clip.append = lambda view, encoded, cls, normed: append(view, encoded, cls, normed + 1)
        stores.append(writer, clip, "a", 70)
        count = np.arange(70)
        clip.commit(count, count * 2, count % 2, np.zeros(70, np.uint8))
    assert diff_stores(store, other) == ["differs: a"]


def test_a_clip_copied_by_hand_from_a_store_of_another_identity_is_refused(tmp_path):
    rng = np.random.default_rng(5)
    store = store_of(tmp_path / "s", "int8", "a")
    identity, _ = stores.make_identity("int8")
    samples = {b: 3 * rng.standard_normal((4, 16, stores.DIM)).astype("f4") for b in stores.BLOCKS}
    calibration = stores.calibrate("int8", samples, grid=stores.GRID)
    codec = stores.codec_identity("int8", calibration)
    other = stores.create_store(
        tmp_path / "t",
        identity.model_copy(update={"codec": codec}),
        made_with={},
        calibration=calibration,
    )
    folder = folder_of(clip_key("a"))
    (other / folder).parent.mkdir()
    shutil.copytree(store / folder, other / folder)
    with pytest.raises(Damaged, match="written for a store of fingerprint"):
        open_store(other).read("a")
    assert verify_store(other).exit_status == 5


def test_the_first_stores_of_version_1_are_brought_up_to_date(tmp_path):
    store = shutil.copytree(GOLDEN, tmp_path / "s")
    before = open_store(store).read("a/1").codes[1]
    assert migrate_store(store) == ["a/1"]
    assert migrate_store(store) == []
    meta = json.loads((store / folder_of(clip_key("a/1")) / "zarr.json").read_text())
    assert meta["attributes"]["tokenreel"]["fingerprint"] == open_store(store).fingerprint
    np.testing.assert_array_equal(open_store(store).read("a/1").codes[1], before)
    assert verify_store(store, deep=True).problems == ()


def test_a_clip_that_another_process_writes_is_left_to_it_by_a_migration_in_place(tmp_path):
    store = shutil.copytree(GOLDEN, tmp_path / "s")
    group = store / folder_of(clip_key("a/1")) / "zarr.json"
    before = group.read_bytes()
    claim = take_claim(store / "claims", clip_key("a/1"), owner="extract-1", expiry_seconds=9)
    words = r"0 clip\(s\) changed, 1 left to other writers \(a_1-.*: extract-1 on .* works on it\)"
    with pytest.raises(ClaimHeld, match=words):
        migrate_store(store)
    assert group.read_bytes() == before
    claim.release()
    assert migrate_store(store) == ["a/1"]
    assert list((store / "claims").iterdir()) == []


def test_a_store_of_a_later_version_is_refused_by_name(tmp_path):
    store = store_of(tmp_path / "s", "fp16", "a")
    values = json.loads((store / "recipe.json").read_text()) | {"format_version": 3}
    (store / "recipe.json").write_text(json.dumps(values))
    for use in (open_store, migrate_store, verify_store):
        with pytest.raises(
            WrongIdentity, match="format 3, this version reads 1 and 2: update TokenReel"
        ):
            use(store)


@pytest.mark.parametrize("codec", ["int8", "int4", "pool2+int8", "pca:8+int8"])
def test_a_recoded_store_is_what_the_codec_makes_of_the_tokens(tmp_path, codec):
    store, out = store_of(tmp_path / "s", "fp16", "a", "v/2"), tmp_path / "t"
    assert recode_store(store, out, codec=codec).copied == ("a", "v/2")
    assert recode_store(store, out, codec=codec).copied == ()
    one, two = open_store(store), open_store(out)
    assert two.identity.codec["from_fingerprint"] == one.fingerprint
    assert verify_store(out, deep=True).problems == ()
    for name in one.records:
        tokens = one.read(name).decode(3)
        want = two.codec.encode(tokens, block=3, grid=stores.GRID).codes
        np.testing.assert_array_equal(two.read(name).codes[3], want)
        np.testing.assert_array_equal(one.labels(name), two.labels(name))
        np.testing.assert_array_equal(one.read_cls(name), two.read_cls(name))


@pytest.mark.parametrize(
    ("source", "codec"),
    [("int8", "fp16"), ("int8", "pool2+fp16"), ("int8", "int8"), ("pool2+int8", "int4")],
)
def test_a_codec_that_would_pretend_to_know_more_is_refused(tmp_path, source, codec):
    store = store_of(tmp_path / "s", source, "a")
    with pytest.raises(UsageError, match="cannot be recoded as"):
        recode_store(store, tmp_path / "t", codec=codec)
    assert not (tmp_path / "t").exists()


def test_a_recoded_store_is_not_taken_for_an_extracted_one(tmp_path):
    store = store_of(tmp_path / "s", "fp16", "a")
    recode_store(store, tmp_path / "t", codec="pool2")
    plain = store_of(tmp_path / "u", "pool2", "b")
    with pytest.raises(WrongIdentity, match=r"codec\.from_fingerprint"):
        merge_store(plain, tmp_path / "t")


UNFIT = {  # 16 channels
    "pca:9999+int8": "pca:9999 of tokens with 16 channels: pca:16 at most",
    "pca:17+int8": "pca:17 of tokens with 16 channels",
    "pool2+pca:17+fp16": "pca:17 of tokens with 16 channels",
    "pca:17+int4": "pca:17 of tokens with 16 channels",
    "pca:7+int4": "int4 packs channels in pairs, got 7 channels",
    "pool2+pca:3+int4": "int4 packs channels in pairs, got 3 channels",
    "pca:0+int8": "number of components after a colon",
    "pca:+int8": "number of components after a colon",
    "pca:-1+int8": "number of components after a colon",
    "pca:8+pca:4+int8": "one pca at most",
    "int8+pca:4": "after the quantiser",
    "": "no codec ''",
}


@pytest.mark.parametrize(("codec", "reason"), UNFIT.items(), ids=UNFIT)
def test_a_codec_that_does_not_fit_is_a_sentence_and_nothing_is_written(tmp_path, codec, reason):
    store = store_of(tmp_path / "s", "fp16", "a")
    with pytest.raises(UsageError, match=reason) as found:
        recode_store(store, tmp_path / "t", codec=codec)
    assert found.value.exit_status == 2
    assert "\n" not in str(found.value)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert recode_store(store, tmp_path / "t", codec="pca:16+int4").copied == ("a",)  # the next try


@pytest.mark.parametrize(("codec", "reason"), UNFIT.items(), ids=UNFIT)
def test_features_are_not_imported_by_a_codec_that_does_not_fit(tmp_path, codec, reason):
    (tmp_path / "f").mkdir()
    np.save(tmp_path / "f/a.npy", np.zeros((3, 16, 16), np.float32))
    statement = ImportStatement(
        dataset="d",
        architecture="a",
        weights_sha256="0" * 64,
        blocks=(1,),
        grid=(4, 4),
        dim=16,
        image_size=(64, 64),
        transform={"name": "t"},
        fps=25,
        codec=codec,
    )
    with pytest.raises(UsageError, match=reason):
        import_features(tmp_path / "f", tmp_path / "t", statement)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
