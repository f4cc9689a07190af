"""Files of features and records of clips compared: which difference is told, and in which words."""

import hashlib
import os
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.cache import stores
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import ClipRecord, SourceInfo, clip_key
from tokenreel.cache.format.source_notes import add_notes, load_notes
from tokenreel.cache.manifest import Clip
from tokenreel.cache.tools import imported_clips
from tokenreel.cache.tools.imported_clips import FeatureSources, clip_changes, record_changes

LONG_AGO = 10**18
ONE, TWO = b"one", b"twice"
HASHES = [hashlib.sha256(data).digest() for data in (ONE, TWO)]


@pytest.fixture
def folder(tmp_path):
    """A folder with two files of features, and a folder in place of a store."""
    for name, data in (("sub/b.npy", TWO), ("a.npy", ONE)):
        path = tmp_path / "f" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    (tmp_path / "s").mkdir()
    return tmp_path / "f"


def paths(folder: Path) -> list[Path]:
    return [folder / "sub" / "b.npy", folder / "a.npy", folder / "a.npy"]


def test_files_of_a_clip_are_one_source_noted_by_their_paths(folder, tmp_path, monkeypatch):
    with FeatureSources(folder, tmp_path / "s") as sources:
        found = sources.describe(paths(folder))
    digest = hashlib.sha256(HASHES[0] + HASHES[1]).hexdigest()
    assert found == SourceInfo("a.npy", 8, digest, "import", "1", {})
    notes = {
        name: (len(data), LONG_AGO, digest.hex())
        for name, data, digest in zip(("a.npy", "sub/b.npy"), (ONE, TWO), HASHES, strict=True)
    }
    assert load_notes(tmp_path / "s").videos == notes
    monkeypatch.setattr(imported_clips, "source_sha256", None)
    assert FeatureSources(folder, tmp_path / "s").describe(paths(folder)) == found


@pytest.mark.parametrize("note", [(3, LONG_AGO + 1, "0" * 64), (4, LONG_AGO, "0" * 64)])
def test_a_note_of_another_size_or_time_is_not_taken(folder, tmp_path, note):
    add_notes(tmp_path / "s", videos={"a.npy": note})
    found = FeatureSources(folder, tmp_path / "s").describe([folder / "a.npy"])
    assert found.sha256 == hashlib.sha256(HASHES[0]).hexdigest()


def test_each_file_is_looked_at_once_and_a_recent_one_is_not_noted(folder, tmp_path, monkeypatch):
    now = LONG_AGO + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: now)
    os.utime(folder / "a.npy", ns=(now, now))
    seen: list[Path] = []
    real = imported_clips.source_sha256
    monkeypatch.setattr(imported_clips, "source_sha256", lambda p: seen.append(p) or real(p))
    with FeatureSources(folder, tmp_path / "s") as sources:
        sources.describe(paths(folder))
        sources.describe(paths(folder))
    assert sorted(seen) == sorted(paths(folder)[:2])
    assert load_notes(tmp_path / "s").videos.keys() == {"sub/b.npy"}


def test_a_store_that_may_only_be_read_is_not_noted_in(folder, tmp_path, monkeypatch):
    def refuse(*args, **given):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(imported_clips, "add_notes", refuse)
    with FeatureSources(folder, tmp_path / "s") as sources:
        sources.describe(paths(folder))


@pytest.mark.parametrize("how", ["written", "gone"])
@pytest.mark.parametrize("name", ["a.npy", "sub/b.npy"])
def test_any_file_that_changes_meanwhile_is_named(folder, tmp_path, how, name):
    sources = FeatureSources(folder, tmp_path / "s")
    sources.describe(paths(folder))
    sources.require_unchanged(paths(folder))
    (folder / name).unlink() if how == "gone" else (folder / name).write_bytes(b"another")
    with pytest.raises(UsageError, match=f"{name} changed while it was imported; nothing of its"):
        sources.require_unchanged(paths(folder))


def test_a_file_that_cannot_be_read_is_named(folder, tmp_path):
    sources = FeatureSources(folder, tmp_path / "s")
    with pytest.raises(UsageError, match=r"c\.npy: No such file or directory"):
        sources.describe([folder / "c.npy"])


HELD = ClipRecord(
    clip_id="a",
    key=clip_key("a"),
    dataset="d",
    video="v.mp4",
    split="train",
    action="turn",
    group="g",
    phases=("x",),
    num_frames=3,
    num_views=1,
    start_seconds=None,
    stop_seconds=None,
    time_base=(1, 25),
    source=replace(stores.SOURCE, num_bytes=10, sha256="a" * 64).to_dict(format_version=2),
    tags=("t",),
    labels_sha256="1" * 64,
)
CLIP = Clip("a", "v.mp4", split="train", action="turn", group="g", tags=("t",))
WAS = "was of 10 bytes (sha256 aaaaaaaaaaaa)"


def changes(
    clip=CLIP, *, held=HELD, size=10, sha256="a" * 64, phases=("x",), labels=(0, 0, 0), base=None
) -> str:
    store = SimpleNamespace(record=lambda _: held, labels=lambda _: np.zeros(3, np.int16))
    source = replace(stores.SOURCE, num_bytes=size, sha256=sha256)
    words = {"phases": phases, "labels": np.array(labels, np.int16), "time_base": base}
    return clip_changes(store, clip, source, **words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, ""),
        ({"base": Fraction(1, 25)}, ""),
        ({"size": 11}, f"{WAS}, is of 11 bytes (sha256 aaaaaaaaaaaa)"),
        ({"sha256": "b" * 64}, f"{WAS}, is of 10 bytes (sha256 bbbbbbbbbbbb)"),
        ({"clip": replace(CLIP, video="w.mp4")}, "video was 'v.mp4', is 'w.mp4'"),
        ({"clip": replace(CLIP, split="val")}, "split was 'train', is 'val'"),
        ({"clip": replace(CLIP, action="leap")}, "action was 'turn', is 'leap'"),
        ({"clip": replace(CLIP, group="")}, "group was 'g', is ''"),
        ({"clip": replace(CLIP, tags=())}, "tags was ('t',), is ()"),
        ({"phases": ("x", "y")}, "phases was ('x',), is ('x', 'y')"),
        ({"labels": (0, 0, 1)}, "other labels of frames"),
        ({"labels": (0, 0)}, "other labels of frames"),
        ({"phases": (), "labels": (1, 1, 1)}, "phases was ('x',), is ()"),
        ({"base": Fraction(1, 30)}, "was 25 frames/s, is 30 frames/s"),
        ({"base": Fraction(2, 25)}, "was 25 frames/s, is 25/2 frames/s"),
        (
            {"labels": (0, 1, 1), "base": Fraction(1, 30)},
            "other labels of frames; was 25 frames/s, is 30 frames/s",
        ),
    ],
)
def test_what_a_file_says_otherwise_is_told(given, words):
    assert changes(**given) == words


def test_a_record_without_a_hash_is_compared_by_size_alone():
    held = replace(HELD, source={**HELD.source, "sha256": ""})
    assert changes(held=held, sha256="b" * 64) == ""
    assert changes(held=held, size=11) == "was of 10 bytes, is of 11 bytes (sha256 aaaaaaaaaaaa)"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"video": "w.mp4"}, "video was 'v.mp4', is 'w.mp4'"),
        ({"phases": ()}, "phases was ('x',), is ()"),
        ({"start_seconds": 1.0}, "start_seconds was None, is 1.0"),
        ({"stop_seconds": 1.0}, "stop_seconds was None, is 1.0"),
        ({"num_frames": 4}, "num_frames was 3, is 4"),
        ({"rules": 2}, "rules was 1, is 2"),
        ({"labels_sha256": "2" * 64}, "other labels of frames"),
        ({"labels_sha256": ""}, ""),  # of a store of format 1
        ({"labels_sha256": "2" * 64, "split": "val"}, "split was 'train', is 'val'"),
        ({"dataset": "e", "extra": {"k": 1}}, ""),
    ],
)
def test_what_another_record_says_otherwise_is_told(changed, words):
    assert record_changes(HELD, replace(HELD, **changed)) == words


def test_records_of_other_videos_are_told_apart_by_size_and_hash():
    other = replace(HELD, source={**HELD.source, "num_bytes": 9, "sha256": "b" * 64})
    assert record_changes(HELD, other) == f"{WAS}, is of 9 bytes (sha256 bbbbbbbbbbbb)"
