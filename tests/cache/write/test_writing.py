"""A writer of a store: its name, its claims and heartbeat, what it refuses and records."""

import os
import shutil
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.cache import stores
from tokenreel.cache.errors import MachineError, StoreError, UsageError
from tokenreel.cache.format.clip import folder_of
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.write import store_writer
from tokenreel.cache.write.canary import TOLERANCE, canary_errors, make_canary
from tokenreel.cache.write.claims import ClaimHeld
from tokenreel.cache.write.store_writer import StoreWriter, plain_json


@pytest.fixture
def store(tmp_path):
    return stores.make_store(tmp_path / "s")


def claims(path: Path) -> list[Path]:
    return sorted((path / "claims").glob("*.json"))


def begin(writer: StoreWriter, clip_id: str = "a", **given):
    fields = {"dataset": "d", "phases": ("x", "y"), "source": stores.SOURCE}
    fields |= {"time_base": Fraction(1, 25)}
    return writer.begin(stores.make_clip(clip_id), **(fields | given))


def commit(writer, clip, frames: int = 3):
    stores.append(writer, clip, "a", frames)
    count = np.arange(frames)
    return clip.commit(count, count, count % 2, np.zeros(frames, np.uint8))


@pytest.mark.parametrize("name", ["a/b", "a b", "", "-_-", "a.b"])
def test_a_writer_is_called_by_a_word(store, name):
    assert StoreWriter(store, writer_id="a-B_1").name.startswith("a-B_1-")
    with pytest.raises(ValueError, match="letters, digits, '-' and '_' only"):
        StoreWriter(store, writer_id=name)


def test_claims_of_all_open_clips_are_released_at_the_end_and_one_when_it_is_committed(store):
    with StoreWriter(store, writer_id="w") as writer:
        commit(writer, begin(writer, "a"))
        assert claims(store) == []
        begin(writer, "b"), begin(writer, "c")
        assert len(claims(store)) == 2
        with pytest.raises(ClaimHeld, match="already committed"):
            begin(writer, "a")
        assert len(claims(store)) == 2
        inodes = {claim.stat().st_ino for claim in (store / "claims").iterdir()}
        assert len(inodes) == 1, "all are names of one file, and have one heartbeat"
    assert list((store / "claims").iterdir()) == []


def test_a_clip_that_cannot_be_opened_is_free_again(store, monkeypatch):
    def fail(*arguments, **given):
        raise KeyboardInterrupt

    monkeypatch.setattr(store_writer, "ClipWriter", fail)
    with StoreWriter(store, writer_id="w") as writer:
        with pytest.raises(KeyboardInterrupt):
            begin(writer)
        assert claims(store) == []


def test_a_claim_is_touched_ten_times_within_its_expiry(store):
    with StoreWriter(store, writer_id="w", expiry_seconds=2) as writer:
        begin(writer)
        [claim] = claims(store)
        os.utime(claim, (1, 1))
        end = time.monotonic() + 300
        while claim.stat().st_mtime < 2 and time.monotonic() < end:
            time.sleep(0.02)
        assert claim.stat().st_mtime > 2


def test_what_a_live_writer_works_on_is_not_swept_however_old_it_is(store):
    with StoreWriter(store, writer_id="w") as writer:
        begin(writer)
        [left] = (store / "clips").glob("*/.tmp-*")
        for entry in (left, *left.rglob("*")):
            os.utime(entry, (1, 1))
        StoreWriter(store, writer_id="other")
        assert left.exists()
    StoreWriter(store, writer_id="later")
    assert not left.exists()


def test_what_is_young_is_not_swept(store):
    with StoreWriter(store, writer_id="w") as writer:
        begin(writer)
    [left] = (store / "clips").glob("*/.tmp-*")
    StoreWriter(store, writer_id="other", sweep_seconds=3600)
    assert left.exists()
    StoreWriter(store, writer_id="other", sweep_seconds=-1)
    assert not left.exists()


@pytest.mark.parametrize("number", [28, 22])
def test_a_store_that_cannot_be_written_is_told_from_a_full_disk(store, monkeypatch, number):
    def fail(*arguments, **given):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store_writer.WriterClaims, "take", fail)
    kind, words = MachineError if number == 28 else StoreError, os.strerror(number)
    message = f"s: cannot be written.*{words}"
    with StoreWriter(store, writer_id="w") as writer:
        with pytest.raises(StoreError, match=message) as told:
            begin(writer)
        assert type(told.value) is kind


def test_a_clip_that_another_writer_committed_meanwhile_stays_and_nothing_is_left_of_this_one(
    store, tmp_path
):
    other = stores.make_store(tmp_path / "other")
    with StoreWriter(other, writer_id="o") as writer:
        first = commit(writer, begin(writer), 5)
    folder = folder_of(first.key)
    with StoreWriter(store, writer_id="w") as writer:
        clip = begin(writer)
        shutil.copytree(other / folder, store / folder)
        assert commit(writer, clip, 3) == first
        assert claims(store) == []
    assert [entry.name for entry in (store / "clips").glob("*/*")] == [first.key]
    assert open_store(store).record("a") == first


def test_a_record_says_what_the_clip_was_begun_with(store):
    with StoreWriter(store, writer_id="w") as writer:
        clip = begin(writer, byte_arrays=("text", "jpeg", "text"), rules=2, extra={"k": [1]})
        buffer = bytearray(b"abc")
        for name in ("text", "jpeg"):
            clip.append_bytes(name, [buffer] * 3)
        buffer[:] = b"xyz"
        record = commit(writer, clip)
        with pytest.raises(UsageError, match=r"b: video '\.\./v\.mp4' is not a path below"):
            writer.begin(
                replace(stores.make_clip("b"), video="../v.mp4"),
                dataset="d",
                phases=(),
                source=stores.SOURCE,
                time_base=Fraction(1, 25),
            )
    assert record.byte_arrays == ("jpeg", "text")
    assert (record.rules, record.extra, record.time_base) == (2, {"k": [1]}, (1, 25))
    assert open_store(store).record("a") == record
    assert open_store(store).read_bytes("a", "text") == [b"abc"] * 3


def test_what_format_1_cannot_keep_is_refused_before_the_clip_is_claimed(tmp_path):
    identity, calibration = stores.make_identity()
    old = identity.model_copy(update={"format_version": 1})
    path = create_store(tmp_path / "s", old, made_with={}, calibration=calibration)
    with StoreWriter(path, writer_id="w") as writer:
        for given in ({"rules": 2}, {"extra": {"k": 1}}, {"byte_arrays": ("text",)}):
            with pytest.raises(UsageError, match="format 1 cannot keep"):
                begin(writer, **given)
            assert claims(path) == []
            assert list((path / "clips").rglob("*")) == []


def test_extra_fields_nested_too_deeply_are_no_json():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UsageError, match="the extra fields of a are no JSON"):
        plain_json({"k": deep}, "a")


def test_the_canary_keeps_the_frames_and_64_tokens_spread_over_each():
    frames = np.zeros((2, 3, 4, 3), np.uint8)
    place = np.broadcast_to(np.arange(100.0)[None, :, None], (2, 100, 8))
    made = make_canary(frames, {12: place, 3: place[:, :20], 7: place[:, :64]})
    assert made.keys() == {"frames", "tokens/3", "tokens/7", "tokens/12"}
    assert made["frames"] is frames
    kept = made["tokens/12"][0, :, 0]
    assert (len(kept), kept[0], kept[-1]) == (64, 0, 99)
    assert set(np.diff(kept)) == {1, 2}
    assert made["tokens/3"].shape == (2, 20, 8)
    assert list(canary_errors(made, {12: place, 3: place[:, :20], 7: place[:, :64]})) == [3, 7, 12]


def test_the_error_of_the_canary_is_relative_to_the_spread_about_each_channels_mean():
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((2, 50, 8)).astype(np.float32) + 50 * np.arange(8, dtype="f4")
    canary = make_canary(np.zeros(1, np.uint8), {1: tokens})
    assert canary_errors(canary, {1: tokens + np.float32(0.01)}) == pytest.approx(
        {1: 0.01}, rel=0.1
    )
    same = make_canary(np.zeros(1, np.uint8), {1: np.ones((2, 5, 8), np.float32)})
    assert canary_errors(same, {1: np.ones((2, 5, 8), np.float32)}) == {1: 0.0}
    assert TOLERANCE == {"float32": 1e-3, "bfloat16": 3e-2}
