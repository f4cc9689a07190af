"""The steps by which a clip takes the place of another, each alone."""

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.cache import stores
from tokenreel.cache.canonical import open_seal, read_json
from tokenreel.cache.errors import StoreError
from tokenreel.cache.format.clip import ClipRecord, clip_key, folder_of
from tokenreel.cache.format.index import load_records
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write import clip_writer
from tokenreel.cache.write.claims import EXPIRY_SECONDS, take_claim
from tokenreel.cache.write.clip_writer import replace_clip, restore_replaced, set_aside_name
from tokenreel.cache.write.store_writer import StoreWriter


@pytest.fixture
def store(tmp_path):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="first") as writer:
        stores.write_clip(writer, "a", 3)
    return path


def put_another(path: Path, held: ClipRecord) -> ClipRecord:
    with StoreWriter(path, writer_id="second") as writer:
        clip = writer.begin(
            stores.make_clip("a"),
            dataset="d",
            phases=("x", "y"),
            source=replace(stores.SOURCE, num_bytes=11),
            time_base=Fraction(1, 25),
            replaces=held,
        )
        stores.append(writer, clip, "a", 5)
        return clip.commit(*[np.arange(5)] * 2, np.arange(5) % 2, np.zeros(5, np.uint8))


def folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in (path / "clips").glob("*/*"))


def test_the_new_record_is_logged_once_and_before_it_takes_the_place(store, monkeypatch):
    seen, real = [], clip_writer.replace_clip
    monkeypatch.setattr(
        clip_writer, "replace_clip", lambda *given: seen.append(logged(store)) or real(*given)
    )
    record = put_another(store, load_records(store)["a"])
    assert (record.num_frames, record.source["num_bytes"]) == (5, 11)
    assert seen == [[record.to_dict(format_version=2)]]
    assert logged(store) == seen[0]
    assert load_records(store) == {"a": record}
    assert folders(store) == [clip_key("a")]
    assert verify_store(store, deep=True).problems == ()


def logged(path: Path) -> list[dict]:
    [log] = (path / "manifest").glob("second-*.jsonl")
    lines = log.read_bytes().splitlines()
    records = [open_seal(read_json(line), where=log)["record"] for line in lines]
    tuples = ("phases", "tags", "byte_arrays", "time_base")
    return [values | {name: tuple(values[name]) for name in tuples} for values in records]


def test_where_the_place_cannot_be_taken_the_writer_says_so_and_the_old_clip_stays(
    store, monkeypatch
):
    held = load_records(store)["a"]

    def refuse(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(clip_writer, "replace_clip", refuse)
    with pytest.raises(StoreError, match=r"a: cannot commit: .*Input/output error"):
        put_another(store, held)
    assert open_store(store).record("a").num_frames == 3
    assert verify_store(store, deep=True).problems == ()


@pytest.fixture
def both(tmp_path):
    """A committed folder and a written one, each with a file that names it."""
    final, new = tmp_path / "clips" / "key", tmp_path / "clips" / ".tmp-key-w"
    for folder, name in ((final, "old"), (new, "new")):
        folder.mkdir(parents=True)
        (folder / name).touch()
    return final, new


@pytest.mark.parametrize("can_exchange", [True, False])
def test_the_old_clip_is_deleted_when_the_new_one_is_in_its_place_on_the_disk(
    both, monkeypatch, can_exchange
):
    final, new = both
    events, real = [], shutil.rmtree
    if not can_exchange:
        monkeypatch.setattr(clip_writer, "exchange_folders", lambda *_: False)

    def rmtree(path, **given):
        events.append(("delete", [x.name for x in Path(path).iterdir()], (final / "new").exists()))
        real(path, **given)

    monkeypatch.setattr(clip_writer.shutil, "rmtree", rmtree)
    monkeypatch.setattr(clip_writer, "sync_directory", lambda path: events.append(("sync", path)))
    replace_clip(final, new)
    assert events == [("sync", final.parent), ("delete", ["old"], True)]
    assert [entry.name for entry in final.parent.rglob("*")] == ["key", "new"]


def test_where_no_clip_is_left_the_new_one_takes_the_place(both):
    final, new = both
    shutil.rmtree(final)
    replace_clip(final, new)
    assert [entry.name for entry in final.parent.rglob("*")] == ["key", "new"]


def test_what_a_kill_left_aside_is_brought_back_or_removed_unless_its_writer_lives(
    both, tmp_path, monkeypatch
):
    final, _ = both
    folder, claims, synced = final.parent, tmp_path / "claims", []
    monkeypatch.setattr(clip_writer, "sync_directory", synced.append)
    final.rename(set_aside_name(final))
    claim = take_claim(claims, "key", owner="w", expiry_seconds=EXPIRY_SECONDS)
    restore_replaced(folder, claims)
    assert not final.exists()
    claim.release()
    restore_replaced(folder, claims)
    assert (final / "old").exists()
    assert synced == [folder]
    shutil.copytree(final, set_aside_name(final))
    (final / "newer").touch()
    restore_replaced(folder, claims)
    assert not set_aside_name(final).exists()
    assert sorted(entry.name for entry in final.iterdir()) == ["newer", "old"]
    assert (folder / ".tmp-key-w").exists()


def test_a_clip_that_another_writer_brings_back_at_the_same_time_is_no_error(
    both, tmp_path, monkeypatch
):
    final, _ = both
    shutil.copytree(final, set_aside_name(final))
    monkeypatch.setattr(Path, "exists", lambda self: False)
    restore_replaced(final.parent, tmp_path / "claims")
    monkeypatch.undo()
    assert (final / "old").exists()


def test_a_clip_of_another_record_is_not_replaced_and_one_of_this_record_is(store):
    held = load_records(store)["a"]
    with pytest.raises(StoreError, match="already committed"):
        put_another(store, replace(held, num_frames=4))
    assert put_another(store, held).num_frames == 5
    assert (store / folder_of(clip_key("a"))).is_dir()
