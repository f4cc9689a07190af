"""The store of version 1 that every later version must open."""

import hashlib
from pathlib import Path

from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store

GOLDEN = Path(__file__).parents[2] / "golden" / "store_v1"


def test_the_store_of_version_1_opens_and_is_clean(tmp_path):
    store = open_store(GOLDEN)
    tokens = store.read("a/1", slice(60, 66))
    digest = hashlib.sha256(tokens.codes[1].tobytes() + tokens.codes[3].tobytes()).hexdigest()
    assert digest == "8dba037204033895e3bfff681985341fbd55243ee034c36bd4bf37da7367e868"
    assert verify_store(GOLDEN, deep=True).problems == ()
