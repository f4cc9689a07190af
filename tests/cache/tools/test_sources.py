"""Whether videos are what they were when they were extracted: by size and time, then by hash."""

import hashlib
import importlib.util
import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.source_notes import NOTES, SourceNotes, load_notes
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.source_state import source_sha256, source_state
from tokenreel.cache.tools import sources
from tokenreel.cache.tools.maintenance import mend_logs
from tokenreel.cache.tools.sources import check_sources
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

LONG_AGO = 10**18  # nanoseconds, in 2001


def set_time(path: Path, mtime_ns: int = LONG_AGO) -> None:
    os.utime(path, ns=(mtime_ns, mtime_ns))


@pytest.fixture
def made(tmp_path):
    """A folder of three videos and a store of four clips of them."""
    root, path = tmp_path / "videos", stores.make_store(tmp_path / "store")
    root.mkdir()
    with StoreWriter(path, writer_id="w") as writer:
        for name, video in (("a", "a.mp4"), ("b1", "b.mp4"), ("b2", "b.mp4"), ("c", "c.mp4")):
            (root / video).write_bytes(video.encode() * 100)
            set_time(root / video)
            source = replace(
                stores.SOURCE,
                video=video,
                num_bytes=500,
                sha256=hashlib.sha256(video.encode() * 100).hexdigest(),
                mtime_ns=LONG_AGO,
            )
            clip = writer.begin(
                replace(stores.make_clip(name), video=video),
                dataset="d",
                phases=(),
                source=source,
                time_base=Fraction(1, 25),
            )
            stores.append(writer, clip, name, 3)
            count = np.arange(3)
            clip.commit(count, count, count * 0, np.zeros(3, np.uint8))
    return root, path


def check(path: Path, root: Path):
    return check_sources(path, open_store(path).records.values(), root, progress=False)


def changed_clips(found) -> list[str]:
    return [change.record.clip_id for change in found.changed]


def test_videos_as_they_were_are_looked_at_once_each_and_not_hashed(made, monkeypatch):
    monkeypatch.setattr(sources, "source_sha256", None)
    found = check(made[1], made[0])
    assert (found.num_videos, found.num_hashed, found.changed, found.missing) == (3, 0, (), ())
    assert not (made[1] / NOTES).exists()


def other_size(path: Path) -> None:
    path.write_bytes(b"longer" * 200)


def other_bytes(path: Path) -> None:
    path.write_bytes(b"B" * 500)
    set_time(path, LONG_AGO + 1)


def renamed(path: Path) -> None:
    beside = path.with_suffix(".new")
    beside.write_bytes(b"B" * 500)
    beside.replace(path)


@pytest.mark.parametrize("change", [other_size, other_bytes, renamed])
def test_every_clip_of_a_video_with_other_bytes_is_named_with_what_was_and_is(made, change):
    root, path = made
    change(root / "b.mp4")
    found = check(path, root)
    assert changed_clips(found) == ["b1", "b2"]
    assert found.exit_status == 3
    line = str(found.changed[0])
    assert line.startswith("b1: b.mp4 was 500 bytes of 2001-09-09 01:46:40 (sha256 ")
    assert f"is {(root / 'b.mp4').stat().st_size} bytes of " in line


def test_equal_bytes_with_a_new_time_are_the_same_and_hashed_once(made, monkeypatch):
    root, path = made
    set_time(root / "b.mp4", LONG_AGO + 10**9)
    found = check(path, root)
    assert (found.num_hashed, found.num_touched, found.changed) == (1, 1, ())
    assert "1 with another time and the same bytes" in found.summary()
    monkeypatch.setattr(sources, "source_sha256", None)
    again = check(path, root)
    assert (again.num_hashed, again.num_touched, again.changed) == (0, 1, ())
    assert verify_store(path, deep=True).problems == ()


def test_a_video_that_changed_is_hashed_once_too(made, monkeypatch):
    root, path = made
    other_bytes(root / "b.mp4")
    assert changed_clips(check(path, root)) == ["b1", "b2"]
    monkeypatch.setattr(sources, "source_sha256", None)
    assert changed_clips(check(path, root)) == ["b1", "b2"]


def test_a_record_without_a_time_as_in_format_1_is_hashed_and_then_noted(made, monkeypatch):
    root, path = made
    records = [
        replace(record, source={k: v for k, v in record.source.items() if k != "mtime_ns"})
        for record in open_store(path).records.values()
    ]
    first = check_sources(path, records, root, progress=False)
    assert (first.num_hashed, first.num_touched, first.changed) == (3, 0, ())
    monkeypatch.setattr(sources, "source_sha256", None)
    assert check_sources(path, records, root, progress=False).num_hashed == 0


def test_a_missing_video_is_named_and_is_no_change(made):
    root, path = made
    (root / "c.mp4").unlink()
    found = check(path, root)
    assert found.changed == ()
    assert found.lines() == ["c: c.mp4: no such file or directory"]
    assert found.exit_status == 3


def test_a_wrong_folder_is_one_line_and_none_a_usage_error(made, tmp_path):
    (tmp_path / "empty").mkdir()
    (line,) = check(made[1], tmp_path / "empty").lines()
    assert line.endswith("none of the 3 videos is there: another --root?")
    with pytest.raises(UsageError, match="no such folder; --root is the folder of the videos"):
        verify_store(made[1], root=tmp_path / "no")
    with pytest.raises(UsageError, match="no such folder"):
        verify_store(made[1], root=made[0] / "a.mp4")


def test_verify_with_the_root_finds_changed_videos_and_says_what_to_type(made):
    root, path = made
    assert verify_store(path, root=root).exit_status == 0
    other_bytes(root / "a.mp4")
    report = verify_store(path, root=root)
    assert (report.problems, report.exit_status) == ((), 3)
    assert "a: a.mp4 was 500 bytes" in report.table()
    assert "--changed replace" in report.table()
    assert verify_store(path).exit_status == 0


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b"{}", b'{"root":"","videos":{"a":[1]},"crc32c":1}']
)
def test_damaged_notes_cost_a_hash_are_reported_and_removed_by_a_repair(made, damage):
    root, path = made
    set_time(root / "b.mp4", LONG_AGO + 10**9)
    check(path, root)
    (path / NOTES).write_bytes(damage)
    (problem,) = verify_store(path).problems
    assert NOTES in problem.what
    assert check(path, root).num_hashed == 1
    assert load_notes(path).videos.keys() == {"b.mp4"}
    (path / NOTES).write_bytes(damage)
    assert mend_logs(path) == [NOTES]
    assert load_notes(path) == SourceNotes()


def test_notes_are_plain_sealed_json(made):
    root, path = made
    set_time(root / "b.mp4", LONG_AGO + 5)
    check(path, root)
    values = json.loads((path / NOTES).read_bytes())
    assert values["videos"] == {"b.mp4": [500, LONG_AGO + 5, source_sha256(root / "b.mp4")]}
    assert values.keys() == {"root", "videos", "crc32c"}


def picture_folder(root: Path) -> Path:
    folder = root / "clip"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(bytes([number]) * 10)
        set_time(folder / f"{number}.png")
    set_time(folder)
    return folder


def test_a_folder_of_pictures_is_one_source(tmp_path):
    folder = picture_folder(tmp_path)
    state, sha256 = source_state(folder), source_sha256(folder)
    assert (state.num_bytes, state.mtime_ns) == (30, LONG_AGO)
    (folder / "1.png").write_bytes(b"x" * 10)
    assert source_state(folder).mtime_ns > LONG_AGO
    assert source_sha256(folder) != sha256
    (folder / "1.png").write_bytes(bytes([1]) * 10)
    assert source_sha256(folder) == sha256
    (folder / "1.png").rename(folder / "3.png")  # another order
    assert source_sha256(folder) != sha256
