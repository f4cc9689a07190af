"""The stores of formats 1 and 2 that every later version must open."""

import hashlib
from pathlib import Path

import numpy as np

from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store

GOLDEN = Path(__file__).parents[2] / "golden" / "store_v1"
GOLDEN_2 = GOLDEN.with_name("store_v2")


def test_the_store_of_version_1_opens_and_is_clean(tmp_path):
    store = open_store(GOLDEN)
    tokens = store.read("a/1", slice(60, 66))
    digest = hashlib.sha256(tokens.codes[1].tobytes() + tokens.codes[3].tobytes()).hexdigest()
    assert digest == "8dba037204033895e3bfff681985341fbd55243ee034c36bd4bf37da7367e868"
    assert verify_store(GOLDEN, deep=True).problems == ()


def test_the_store_of_format_2_opens_and_is_clean():
    store = open_store(GOLDEN_2)
    tokens = store.read("a/1", slice(60, 66))
    digest = hashlib.sha256(tokens.codes[1].tobytes() + tokens.codes[3].tobytes()).hexdigest()
    assert digest == "8dba037204033895e3bfff681985341fbd55243ee034c36bd4bf37da7367e868"
    texts = store.read_bytes("a/1", "text")
    assert len(texts) == 66
    assert texts[60:] == [b"", b"scene", b"62", b"", b"", b"sc"]
    units = np.arange(66)[:, None] * 4 + [0, 3]
    np.testing.assert_allclose(store.units("a/1"), units / 25)
    assert (store.identity.unit, store.identity.frames_per_window) == ("scene", 12)
    assert store.identity.frames == {"policy": "listed", "sha256": "1" * 64}
    assert (store.facts.root, store.facts.former_fingerprints) == ("videos", ("2" * 64,))
    record = store.record("a/1")
    assert (record.tags, record.extra) == (("comedy", "war"), {"lab.camera": {"id": 3}})
    assert (record.rules, record.source["orientation"]) == (1, 90)
    assert store.fingerprint == "13b75d04b059264f4ec56de32aa1da370cb1255c02677a87e5dc30299946b744"
    assert verify_store(GOLDEN_2, deep=True).problems == ()
