"""Clips from store to store: merged, brought up to date, kept by another codec."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.errors import Damaged, UsageError, WrongIdentity
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.copying import merge_store, migrate_store, recode_store
from tokenreel.cache.tools.maintenance import diff_stores
from tokenreel.cache.tools.verify import verify_store
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
    assert merge_store(store, other) == ["a", "b"]
    assert merge_store(store, other) == []
    assert diff_stores(store, other) == []
    assert verify_store(other, deep=True).problems == ()
    with pytest.raises(WrongIdentity):
        merge_store(store, stores.make_store(tmp_path / "u", "fp16"))


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
    assert recode_store(store, out, codec=codec) == ["a", "v/2"]
    assert recode_store(store, out, codec=codec) == []
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
