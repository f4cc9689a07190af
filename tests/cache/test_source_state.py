"""State of a source: what tells two states apart, and what its hash is of."""

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tokenreel.cache.source_state import (
    SourceState,
    describe_source,
    source_sha256,
    source_state,
)

SECOND = 10**9  # nanoseconds
NOW = 10**18


@pytest.mark.parametrize(
    ("changes", "seems"),
    [
        ({}, True),
        ({"is_recent": True}, True),
        ({"num_bytes": 6}, False),
        ({"mtime_ns": 8}, False),
        ({"inode": (9, 2, 3)}, False),
        ({"inode": (1, 9, 3)}, False),
        ({"inode": (1, 2, 9)}, False),
    ],
)
def test_one_number_of_the_file_system_tells_two_states_apart(changes, seems):
    state = SourceState(5, 7, (1, 2, 3))
    assert state.seems(replace(state, **changes)) is seems


def write(path: Path, data: bytes = b"12345", mtime_ns: int = NOW) -> Path:
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def wait_for_tick(probe: Path, ctime_ns: int) -> None:
    """Wait until the clock of the file system has another time than that one."""
    probe.touch()
    while probe.stat().st_ctime_ns == ctime_ns:
        time.sleep(0.001)
        probe.unlink()
        probe.touch()


@pytest.mark.parametrize("is_put_in_its_place", [True, False])
def test_a_file_of_the_same_size_and_time_that_was_written_again_is_another(
    tmp_path, is_put_in_its_place
):
    path = write(tmp_path / "a.mp4")
    before = source_state(path)
    assert before.seems(source_state(path))
    status = path.stat()
    assert before.inode == (status.st_dev, status.st_ino, status.st_ctime_ns)
    wait_for_tick(tmp_path / "tick", status.st_ctime_ns)
    if is_put_in_its_place:
        write(tmp_path / "b.mp4", b"abcde").replace(path)
    else:
        write(path, b"abcde")
    after = source_state(path)
    assert (after.num_bytes, after.mtime_ns) == (before.num_bytes, before.mtime_ns)
    assert not after.seems(before)


@pytest.mark.parametrize(
    ("age_seconds", "is_recent"),
    [(0, True), (1.9, True), (2, False), (-1.9, True), (-2, False), (-3600, False)],
)
def test_a_change_within_two_seconds_is_recent(tmp_path, monkeypatch, age_seconds, is_recent):
    path = write(tmp_path / "a.mp4")
    monkeypatch.setattr(time, "time_ns", lambda: NOW + int(age_seconds * SECOND))
    assert source_state(path).is_recent is is_recent


def test_a_folder_has_the_bytes_of_its_files_and_the_time_of_the_newest(tmp_path):
    folder = tmp_path / "clip"
    (folder / "not a picture").mkdir(parents=True)
    write(folder / "2.png", b"123", NOW + 2)
    write(folder / "1.png", b"12", NOW + 1)
    os.utime(folder, ns=(NOW, NOW))
    state = source_state(folder)
    assert (state.num_bytes, state.mtime_ns) == (5, NOW + 2)
    os.utime(folder, ns=(NOW + 3, NOW + 3))  # a file was taken away
    assert source_state(folder).mtime_ns == NOW + 3


def test_the_hash_of_a_folder_is_of_name_size_and_bytes_in_order_of_name(tmp_path):
    folder = tmp_path / "clip"
    (folder / "sub").mkdir(parents=True)
    write(folder / "b", b"z")
    write(folder / "a\u00e9", b"xy")
    wanted = b"3:2:a\xc3\xa9xy" + b"1:1:bz"
    assert source_sha256(folder) == hashlib.sha256(wanted).hexdigest()
    large = bytes(range(256)) * 4096 + b"more than a MiB"
    write(folder / "b", large)
    wanted = b"3:2:a\xc3\xa9xy" + f"1:{len(large)}:b".encode() + large
    assert source_sha256(folder) == hashlib.sha256(wanted).hexdigest()


def test_a_source_is_described_in_universal_time(monkeypatch):
    monkeypatch.setenv("TZ", "XXX+5")
    time.tzset()
    try:
        assert describe_source(1, 3600 * SECOND, "") == "1 bytes of 1970-01-01 01:00:00"
    finally:
        monkeypatch.undo()
        time.tzset()
