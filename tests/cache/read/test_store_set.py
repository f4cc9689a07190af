"""Stores of the same clips, joined."""

import numpy as np
import pytest

from tests.cache.stores import append, begin, make_identity, make_store, write_clip
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.cache.write.store_writer import StoreWriter


def store_of(path, clips, codec="int8"):
    make_store(path, codec)
    with StoreWriter(path, writer_id="w") as writer:
        for clip_id, frames in clips.items():
            write_clip(writer, clip_id, frames)
    return path


def test_stores_of_the_same_clips_are_joined_by_name(tmp_path):
    clips = {"a": 5, "v": 7}
    stores = StoreSet({n: store_of(tmp_path / n, clips, n) for n in ("int8", "fp16")})
    assert list(stores) == ["int8", "fp16"]
    assert stores.first is stores["int8"]
    assert set(stores.records) == {"a", "v"}
    assert stores.fingerprints["fp16"] == stores["fp16"].fingerprint != stores["int8"].fingerprint


def test_clips_that_only_one_holds_are_refused_the_first_three_listed(tmp_path):
    one = store_of(tmp_path / "1", dict.fromkeys("abcde", 3))
    two = store_of(tmp_path / "2", {"e": 3})
    with pytest.raises(UsageError, match="clip 'a' is only in one") as error:
        StoreSet({"one": one, "two": two})
    assert "clip 'c' is only in one" in str(error.value)
    assert "clip 'd'" not in str(error.value)
    assert "and 1 more" in str(error.value)


def test_units_that_differ_are_refused(tmp_path):
    one, two = (store_of(tmp_path / str(n), {"a": n}) for n in (5, 6))
    with pytest.raises(UsageError, match="clip 'a' has 5 and 6 units"):
        StoreSet({"one": one, "two": two})


def test_units_that_begin_together_but_end_apart_are_refused(tmp_path):
    identity, calibration = make_identity("int8")
    for name, length in (("one", 2), ("two", 3)):
        create_store(tmp_path / name, identity, made_with={}, calibration=calibration)
        with StoreWriter(tmp_path / name, writer_id="w") as writer:
            clip = begin(writer, "a")
            append(writer, clip, "a", 5)
            starts = np.arange(5) * 5
            stops = starts + np.where(starts == 15, length, 1)
            clip.commit(starts, starts, starts * 0, np.zeros(5, np.uint8), stop_pts=stops)
    with pytest.raises(UsageError, match=r"clip 'a', unit 3, ends at 0\.68 s and at 0\.72 s"):
        StoreSet({"one": tmp_path / "one", "two": tmp_path / "two"})


def test_no_store_is_refused():
    with pytest.raises(UsageError, match="a StoreSet of no store"):
        StoreSet({})


def test_a_third_store_is_joined_too_and_named(tmp_path):
    stores = {n: store_of(tmp_path / n, {"a": 5}) for n in ("one", "two")}
    stores["three"] = store_of(tmp_path / "three", {"a": 6})
    with pytest.raises(UsageError, match=r"one=.* and three=.* cannot be joined"):
        StoreSet(stores)
    del stores["three"]
    assert len(StoreSet(stores)) == 2


def test_a_clip_that_only_a_later_store_holds_is_named_with_it(tmp_path):
    one = store_of(tmp_path / "1", {"a": 3})
    two = store_of(tmp_path / "2", dict.fromkeys("abcd", 3))
    with pytest.raises(UsageError, match="clip 'b' is only in two") as error:
        StoreSet({"one": one, "two": two})
    assert "more" not in str(error.value)  # three differ, three are listed
    with pytest.raises(UsageError, match="clip 'b' is only in two"):
        StoreSet({"two": two, "one": one})


def test_units_that_differ_are_refused_whichever_store_has_more(tmp_path):
    one, two = (store_of(tmp_path / str(n), {"a": n}) for n in (5, 6))
    with pytest.raises(UsageError, match="clip 'a' has 6 and 5 units"):
        StoreSet({"two": two, "one": one})


def test_units_that_begin_apart_are_refused_with_both_times(tmp_path):
    identity, calibration = make_identity("int8")
    for name, late in (("one", 0), ("two", 1)):
        create_store(tmp_path / name, identity, made_with={}, calibration=calibration)
        with StoreWriter(tmp_path / name, writer_id="w") as writer:
            clip = begin(writer, "a")
            append(writer, clip, "a", 5)
            starts = np.arange(5) * 5
            starts[4] += late
            clip.commit(starts, starts, starts * 0, np.zeros(5, np.uint8), stop_pts=starts + 3)
    with pytest.raises(UsageError, match=r"clip 'a', unit 4, begins at 0\.8 s and at 0\.84 s"):
        StoreSet({"one": tmp_path / "one", "two": tmp_path / "two"})
