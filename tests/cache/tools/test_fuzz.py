"""Mutated claims, logs, records and tables: errors of ours, and every other clip is still read."""

import time

import numpy as np
import pytest

from tests.cache.stores import begin, make_store, write_clip
from tests.memory import require_memory
from tokenreel.cache.errors import TokenReelError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.maintenance import collect_garbage, store_info
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter

MOST_BYTES = 64_000_000  # of a store of some kilobytes


def mutated(data, rng):
    """A file with some bytes changed, cut off, or replaced by JSON of another kind."""
    kind = rng.random()
    if kind < 0.1:
        return [b"", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b"{}", b'"a"'][rng.integers(7)]
    changed = bytearray(data)
    for place in rng.integers(0, len(changed), int(rng.integers(1, 6))):
        changed[place] = int(rng.integers(256))
    return bytes(changed[: int(rng.integers(0, len(changed)))] if kind < 0.3 else changed)


def use(store):
    """Every reader of a store's small files; what it raises is ours."""
    for call in (verify_store, store_info, _read_all, _garbage, _write):
        try:
            call(store)
        except TokenReelError:
            continue


def _read_all(store):
    opened = open_store(store)
    for clip_id in opened.records:
        try:
            opened.read(clip_id)
        except TokenReelError:
            continue


def _garbage(store):
    collect_garbage(store, older_than_seconds=0, delete=False)


def _write(store):
    with StoreWriter(store, writer_id="other"):
        pass


@pytest.mark.parametrize(
    "count", [60, pytest.param(500, marks=pytest.mark.slow)], ids=["60", "500"]
)
def test_mutated_small_files_of_a_store_give_errors_of_ours(tmp_path, count):
    store = make_store(tmp_path / "store")
    with StoreWriter(store, writer_id="test") as writer:
        for clip_id in ("t0", "v0"):
            write_clip(writer, clip_id, frames=8)
        begin(writer, "t1")  # and its claim
        files = [path for path in sorted(store.rglob("*")) if path.is_file()]
        files = [path for path in files if path.stat().st_size < 9000]
        assert any("claim" in str(path) for path in files)
        started = time.process_time()
        for number in range(count):
            rng = np.random.default_rng(
                [11, number]
            )  # names and claims have other lengths each time
            path = files[number % len(files)]
            data = path.read_bytes()
            if not data:
                continue
            path.write_bytes(mutated(data, rng))
            with require_memory(MOST_BYTES):
                use(store)
            path.write_bytes(data)
        assert time.process_time() - started < 0.5 * count
    assert verify_store(store, deep=True).repair == ()
