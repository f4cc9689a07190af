"""Videos against records alone, without a store: each count, each reason, each use of a note."""

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cache import stores
from tokenreel.cache.format.clip import ClipRecord, clip_key
from tokenreel.cache.format.source_notes import add_notes, load_notes
from tokenreel.cache.tools import sources
from tokenreel.cache.tools.sources import SourceChange, SourceCheck, check_sources, in_threads

LONG_AGO = 10**18  # nanoseconds, in 2001
BYTES = b"0123456789"
SHA256 = hashlib.sha256(BYTES).hexdigest()


def record(clip_id: str, video: str, **source) -> ClipRecord:
    """The record of a clip of a video of ten bytes."""
    held = replace(stores.SOURCE, video=video, num_bytes=10, sha256=SHA256, mtime_ns=LONG_AGO)
    return ClipRecord(
        clip_id=clip_id,
        key=clip_key(clip_id),
        dataset="d",
        video=video,
        split="train",
        action="",
        group="",
        phases=(),
        num_frames=1,
        num_views=1,
        start_seconds=None,
        stop_seconds=None,
        time_base=(1, 25),
        source=held.to_dict(format_version=2) | source,
    )


@pytest.fixture
def folder(tmp_path):
    """The videos, and beside them a folder of notes in place of a store."""
    root, store = tmp_path / "videos", tmp_path / "store"
    root.mkdir(), store.mkdir()
    for name in "abc":
        put(root / name)
    return root, store


def put(path: Path, data: bytes = BYTES, mtime_ns: int = LONG_AGO) -> None:
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def check(folder, *records) -> SourceCheck:
    return check_sources(folder[1], records, folder[0], progress=False)


def counts(found: SourceCheck) -> tuple[int, ...]:
    return found.num_videos, found.num_hashed, found.num_touched, found.num_missing


def test_videos_are_counted_once_however_many_clips_they_have(folder):
    put(folder[0] / "a", b"longer than ten")
    (folder[0] / "b").unlink()
    put(folder[0] / "c", mtime_ns=LONG_AGO + 1)
    names = [name + number for name in "abc" for number in "12"]
    found = check(folder, *(record(name, name[0]) for name in names))
    assert counts(found) == (3, 1, 1, 1)
    assert [change.record.clip_id for change in found.changed] == ["a1", "a2"]
    assert [clip.clip_id for clip, _ in found.missing] == ["b1", "b2"]
    assert found.summary() == (
        "3 compared, 1 hashed, 1 with another time and the same bytes, 1 changed, 1 missing"
    )
    wanted = [f"{name}: b: no such file or directory" for name in ("b1", "b2")]
    assert found.lines() == [*map(str, found.changed), *wanted]


def test_where_every_video_is_missing_one_line_says_so_and_else_each(folder):
    (folder[0] / "a").unlink()
    [line] = check(folder, record("1", "a"), record("2", "a")).lines()
    assert line == (
        "1: a: no such file or directory; none of the 1 videos is there: another --root?"
    )
    assert len(check(folder, record("1", "a"), record("2", "a"), record("3", "b")).lines()) == 2


def test_a_clip_that_is_missing_and_one_that_changed_are_both_told():
    gone, other = record("1", "a"), record("2", "b")
    found = SourceCheck(1, changed=(SourceChange(other, "x", "y"),), missing=((gone, "no"),))
    assert found.lines() == ["2: b was x when it was extracted, is y", "1: a: no"]
    assert [SourceCheck(missing=((gone, "no"),)).exit_status, SourceCheck().exit_status] == [3, 0]


def test_imported_clips_are_counted_and_not_looked_at(folder):
    found = check(folder, record("1", "nowhere", decoder="import"), record("2", "a"))
    assert (counts(found), found.num_imported) == ((1, 0, 0, 0), 1)
    assert (
        found.summary() == "1 compared, 1 imported clip(s) left out, whose videos were never seen"
    )


@pytest.mark.parametrize(
    ("source", "is_changed", "is_touched", "num_hashed"),
    [
        ({}, False, False, 0),
        ({"mtime_ns": LONG_AGO - 5}, False, True, 1),
        ({"mtime_ns": None}, False, False, 1),
        ({"sha256": "1" * 64}, False, False, 0),  # its size and time are those of the record
        ({"sha256": "1" * 64, "mtime_ns": LONG_AGO - 5}, True, False, 1),
        ({"num_bytes": 11}, True, False, 0),
        ({"num_bytes": 11, "mtime_ns": LONG_AGO - 5}, True, False, 0),
        ({"sha256": ""}, False, False, 0),
        ({"sha256": "", "mtime_ns": LONG_AGO - 5}, False, False, 0),  # nothing but a size
        ({"sha256": "", "num_bytes": 11}, True, False, 0),
    ],
)
def test_size_comes_first_then_time_then_the_hash(
    folder, source, is_changed, is_touched, num_hashed
):
    found = check(folder, record("1", "a", **source))
    assert (bool(found.changed), counts(found)) == (is_changed, (1, num_hashed, is_touched, 0))


def test_a_clip_of_size_alone_is_not_judged_by_the_hash_of_another_clip_of_its_video(folder):
    records = [record("1", "a", mtime_ns=LONG_AGO - 5), record("2", "a", sha256="", mtime_ns=None)]
    found = check(folder, *records)
    assert (counts(found), found.changed) == ((1, 1, 1, 0), ())


@pytest.mark.parametrize(
    ("note", "is_changed", "num_hashed"),
    [
        ((10, LONG_AGO + 1, SHA256), False, 0),
        ((10, LONG_AGO + 1, "1" * 64), True, 0),
        ((10, LONG_AGO + 2, "1" * 64), False, 1),  # of another time: hashed again
        ((11, LONG_AGO + 1, "1" * 64), False, 1),
    ],
)
def test_a_note_of_this_size_and_time_saves_the_hash(folder, note, is_changed, num_hashed):
    put(folder[0] / "a", mtime_ns=LONG_AGO + 1)
    add_notes(folder[1], videos={"a": note})
    found = check(folder, record("1", "a"))
    assert (bool(found.changed), found.num_hashed) == (is_changed, num_hashed)
    assert load_notes(folder[1]).videos["a"][:2] == ((10, LONG_AGO + 1))


def test_a_note_of_another_state_does_not_speak_for_a_video_of_its_recorded_time(folder):
    add_notes(folder[1], videos={"a": (10, LONG_AGO + 1, "1" * 64)})
    found = check(folder, record("1", "a"))
    assert (found.changed, found.num_hashed) == ((), 0)


def test_what_was_hashed_of_a_recent_file_is_not_noted(folder, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: LONG_AGO + 10**10)
    put(folder[0] / "a", mtime_ns=LONG_AGO + 10**10 - 10**9)  # a second ago
    assert check(folder, record("1", "a")).num_hashed == 1
    assert load_notes(folder[1]).videos == {}


def test_a_change_names_size_time_and_hash_of_both(folder):
    put(folder[0] / "a", b"9876543210", mtime_ns=LONG_AGO + 10**9)
    [change] = check(folder, record("1", "a")).changed
    sha256 = hashlib.sha256(b"9876543210").hexdigest()
    assert change.was == f"10 bytes of 2001-09-09 01:46:40 (sha256 {SHA256[:12]})"
    assert change.now == f"10 bytes of 2001-09-09 01:46:41 (sha256 {sha256[:12]})"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError("Odd")])
def test_a_video_that_cannot_be_hashed_is_missing_with_the_reason(folder, monkeypatch, error):
    def refuse(path):
        raise error

    monkeypatch.setattr(sources, "source_sha256", refuse)
    found = check(folder, record("1", "a", mtime_ns=1), record("2", "b"))
    assert (found.changed, counts(found)) == ((), (2, 1, 0, 1))
    assert found.lines() == [f"1: a: {(error.strerror or 'odd').lower()}"]
    assert load_notes(folder[1]).videos == {}


def test_a_store_that_may_only_be_read_is_compared_and_not_noted(folder, monkeypatch, caplog):
    def refuse(*args, **given):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(sources, "add_notes", refuse)
    caplog.set_level("INFO")
    assert check(folder, record("1", "a", mtime_ns=1)).num_hashed == 1
    assert "what was hashed is not noted: Read-only file system" in caplog.text


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 70])
def test_work_in_threads_keeps_the_order(count):
    assert in_threads(lambda item: item * 2, range(count)) == list(range(0, 2 * count, 2))


def test_the_hash_of_each_video_is_its_own_and_the_bar_counts_them(folder, monkeypatch):
    class Bar:
        def __init__(self, **given):
            self.given, self.count = given, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, count):
            self.count += count

    bars: list[Bar] = []
    monkeypatch.setattr(sources, "Progress", Bar)
    for name in "abc":
        put(folder[0] / name, name.encode() * 10)
    hashes = {name: hashlib.sha256(name.encode() * 10).hexdigest() for name in "abc"}
    records = [record(name, name, mtime_ns=1, sha256=hashes[name]) for name in "abc"]
    found = check(folder, *records)
    assert (found.changed, counts(found)) == ((), (3, 3, 3, 0))
    [bar] = bars
    assert bar.count == bar.given["total"] == 3
    assert bar.given["enabled"] is False
