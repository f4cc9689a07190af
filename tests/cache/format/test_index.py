"""The logs of a store are an index: what is torn, replaced, foreign or in no log at all."""

from dataclasses import replace

import pytest

from tests.cache import stores
from tokenreel.cache.errors import Damaged
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.index import (
    committed_keys,
    is_committed,
    load_records,
    log_commit,
    logged_lines,
    logged_records,
)
from tokenreel.cache.write.store_writer import StoreWriter


@pytest.fixture
def store(tmp_path):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as writer:
        for clip_id in ("b", "a"):
            stores.write_clip(writer, clip_id, 3)
    return path


def log(store, record, writer_name):
    log_commit(store, record, writer_name=writer_name, format_version=2)


def test_a_torn_last_line_is_no_problem_and_any_other_is_named_by_its_number(store):
    [file] = (store / "manifest").glob("*.jsonl")
    first, second, rest = file.read_bytes().split(b"\n")
    assert rest == b""
    file.write_bytes(first + b"\n" + second[:-9])
    records, problems = logged_records(store)
    assert ([record.clip_id for record in records.values()], problems) == (["b"], [])
    assert list(load_records(store)) == ["a", "b"], "the directories decide, in order of clip_id"
    broken = second.replace(b'"split":"train"', b'"split":"val"')
    file.write_bytes(b"[]\n" + broken + b"\n" + first + b"\n{}\n")
    records, problems = logged_records(store)
    assert [record.clip_id for record in records.values()] == ["b"]
    assert [problem.split(": ")[0] for problem in problems] == [f"{file}:{n}" for n in (1, 2, 4)]
    [(name, lines, wrong)] = logged_lines(store)
    assert (name, list(lines), wrong) == (file, [first], problems)


def test_of_a_clip_with_two_records_that_of_its_directory_counts(store):
    own = load_records(store)["a"]
    for writer_name in ("a", "z"):  # before and after the log of the writer
        log(store, replace(own, video="other.mp4"), writer_name)
    assert load_records(store)["a"] == own
    assert logged_records(store)[0][own.key] == own


def test_a_record_of_no_directory_is_no_clip_and_a_damaged_one_keeps_its_first(store):
    own = load_records(store)["a"]
    other = replace(own, video="other.mp4")
    log(store, other, "a")
    (store / folder_of(own.key) / "zarr.json").unlink()
    assert not is_committed(store, "a")
    assert logged_records(store)[0][own.key] == other, "its own cannot be read"
    assert is_committed(store, "b")
    log(store, replace(own, clip_id="c", key=clip_key("c")), "a")
    assert "c" not in load_records(store)


def test_what_is_no_clip_below_clips_is_refused_but_what_is_being_written(store):
    own = load_records(store)["a"]
    folder = (store / folder_of(own.key)).parent
    (folder / ".tmp-1").mkdir()
    (store / "clips/notes.txt").touch()
    assert committed_keys(store) == {clip_key("a"), clip_key("b")}
    link = folder / "link"
    link.symlink_to(store / folder_of(own.key))
    with pytest.raises(Damaged, match=r"link: not a clip of this store; refused"):
        committed_keys(store)
    link.unlink()
    (store / folder_of(own.key)).rename(store / "away")
    (store / folder_of(own.key)).symlink_to(store / "away")
    with pytest.raises(Damaged, match=r"a-\w+: not a clip of this store; refused"):
        committed_keys(store)
    (store / folder_of(own.key)).unlink()
    (folder / clip_key("c")).mkdir()
    with pytest.raises(Damaged, match=r"c-\w+: not a clip of this store; refused"):
        committed_keys(store)
    (folder / clip_key("c")).rmdir()
    (store / "clips/zz").symlink_to(folder)
    with pytest.raises(Damaged, match=r"zz is a symbolic link; refused"):
        committed_keys(store)


def test_a_store_without_clips_has_none(store):
    (store / "clips").rename(store / "away")
    assert committed_keys(store) == set()
    assert load_records(store) == {}
