"""Claims and the lock of a run: damage is a dead writer's, and live writers keep what is theirs."""

import errno
import json
import logging
import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cache import stores
from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.files import sweep_temporary
from tokenreel.cache.format.clip import clip_key
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.maintenance import collect_garbage, mend_logs
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write import claims
from tokenreel.cache.write.claims import ClaimHeld, is_live, read_claim, take_claim
from tokenreel.cache.write.store_writer import StoreWriter

OTHER_HOST = {"owner": "w", "host": "elsewhere", "pid": 1, "token": "t", "started": "5"}


def take(folder: Path, key: str = "a"):
    return take_claim(folder, key, owner="me", expiry_seconds=60)


def of_another_host(path: Path, age_seconds: float = 0) -> Path:
    """A claim of a version before this one, which wrote no checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(canonical_json(OTHER_HOST))
    os.utime(path, (time.time() - age_seconds,) * 2)
    return path


def test_a_claim_with_any_bit_turned_is_a_dead_writers_and_one_line_names_it(tmp_path, caplog):
    whole = take(tmp_path).path.read_bytes()
    path = tmp_path / "a.json"
    assert len(whole) * 8 >= 776
    for place in range(len(whole) * 8):
        altered = bytearray(whole)
        altered[place // 8] ^= 1 << place % 8
        path.write_bytes(altered)
        caplog.clear()
        claim = take(tmp_path)
        assert [record.levelname for record in caplog.records] == ["WARNING"], altered
        assert str(path) in caplog.text
        assert read_claim(path).token == claim.token
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


HOSTILE = [b"[]", b"null", b"{}", b"7", b"\0" * 97, b'{"a":' * 50_000 + b"1" + b"}" * 50_000]
HOSTILE += [canonical_json(OTHER_HOST | change) for change in ({"pid": "1"}, {"host": None})]
HOSTILE += [canonical_json(OTHER_HOST | {"more": 1}), b"[" * 100_000, b'{"pid": NaN}']


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_a_damaged_claim_is_reported_repaired_and_holds_up_nobody(tmp_path, data, caplog):
    path = stores.make_store(tmp_path / "s")
    claim = path / "claims" / f"{clip_key('a')}.json"
    claim.write_bytes(data)
    report = verify_store(path)
    assert [problem.what for problem in report.problems if claim.name in problem.what]
    assert report.exit_status == 5
    assert [entry for entry, _ in collect_garbage(path, older_than_seconds=0)] == [str(claim)]
    with StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a", 3)
    assert [claim.name in record.getMessage() for record in caplog.records] == [True]
    claim.write_bytes(data)
    assert mend_logs(path) == [claim.name]
    assert verify_store(path, deep=True).problems == ()


def test_an_empty_claim_is_being_written_for_some_seconds(tmp_path):
    path = tmp_path / "a.json"
    path.touch()
    with pytest.raises(ClaimHeld, match="another writer claims it"):
        take(tmp_path)
    os.utime(path, (time.time() - 60,) * 2)  # of a process that a power cut ended
    assert take(tmp_path).is_held


@pytest.mark.parametrize(
    "number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EINVAL]
)
def test_without_links_a_claim_is_written_in_place(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(claims.os, "link", refuse)
    claim = take(tmp_path)
    with pytest.raises(ClaimHeld, match="works on it"):
        take(tmp_path)
    claim.release()
    assert list(tmp_path.iterdir()) == []


def test_claims_of_earlier_versions_hold(tmp_path):
    of_another_host(tmp_path / "a.json")
    with pytest.raises(ClaimHeld, match="w on elsewhere works on it"):
        take(tmp_path)
    of_another_host(tmp_path / "a.json", age_seconds=61)
    assert take(tmp_path).is_held
    mine = OTHER_HOST | {"host": socket.gethostname(), "pid": 2**22 + 1}  # beyond any process
    (tmp_path / "b.json").write_text(json.dumps(mine))
    assert take(tmp_path, "b").is_held


def test_a_heartbeat_that_fails_costs_no_more_than_a_beat(tmp_path, monkeypatch):
    claim = take(tmp_path)

    def stale(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(claims.os, "utime", stale)
    claim.beat()
    monkeypatch.undo()
    assert claim.is_held


def test_gc_leaves_the_work_of_live_writers_whatever_age_it_is_told(tmp_path):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as one, StoreWriter(path, writer_id="x") as two:
        clip, left = stores.begin(one, "a"), stores.begin(two, "b")
        stores.append(one, clip, "a", 64)
        stores.append(two, left, "b", 64)
        left.suspend()  # as a kill: its directory stays, its claim is of nobody
        for entry in [*path.rglob("*"), path]:
            os.utime(entry, (1, 1))  # also the heartbeat: this process was stopped for years
        (path / "failed" / ".tmp-x.json-0").touch()
        found = collect_garbage(path, older_than_seconds=0, delete=True)
        assert [Path(entry).name.partition("-x-")[0] for entry, _ in found] == [
            f".tmp-{clip_key('b')}"
        ]
        count = np.arange(64)
        clip.commit(count, count, count % 2, count * 0)
    assert list(open_store(path).records) == ["a"]
    assert verify_store(path, deep=True).problems == ()
    assert [Path(e).name for e, _ in collect_garbage(path, older_than_seconds=0, delete=True)] == [
        ".tmp-x.json-0"
    ]


def test_gc_asks_the_heartbeat_of_another_host(tmp_path):
    path = stores.make_store(tmp_path / "s")
    claim = of_another_host(path / "claims" / f"{clip_key('a')}.json", age_seconds=100)
    work = path / "clips" / clip_key("a")[-8:-6] / f".tmp-{clip_key('a')}-w-01234567"
    work.mkdir(parents=True)
    assert collect_garbage(path, older_than_seconds=0, delete=True) == []
    of_another_host(claim, age_seconds=400)
    assert not is_live(claim)
    assert len(collect_garbage(path, older_than_seconds=0, delete=True)) == 2
    assert not work.exists()
    assert list((path / "claims").iterdir()) == []


def test_the_age_of_a_directory_is_that_of_its_newest_file(tmp_path):
    path = stores.make_store(tmp_path / "s")
    work = path / "clips/00" / ".tmp-old-w-01234567"
    inner = work / "views/0"
    inner.mkdir(parents=True)
    (inner / "shard").touch()
    for entry in (inner, inner.parent, work):
        os.utime(entry, (1, 1))
    assert collect_garbage(path, older_than_seconds=3600) == []
    assert sweep_temporary(work.parent, older_than_seconds=3600) == []
    os.utime(inner / "shard", (1, 1))
    assert [entry for entry, _ in collect_garbage(path, older_than_seconds=3600)] == [str(work)]


def test_gc_leaves_what_is_made_for_a_store_of_a_longer_name(tmp_path):
    path = stores.make_store(tmp_path / "s[1]")
    for name in (".tmp-s[1]-01ab", ".tmp-s[1]-b-01ab", ".tmp-s1-01ab"):
        (tmp_path / name).mkdir()
    found = collect_garbage(path, older_than_seconds=0, delete=True)
    assert [Path(entry).name for entry, _ in found] == [".tmp-s[1]-01ab"]
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "s[1]",
        ".tmp-s[1]-b-01ab",
        ".tmp-s1-01ab",
    }


def test_a_swept_claims_folder_is_made_again(tmp_path, monkeypatch, caplog):
    real, calls = os.link, []

    def swept_once(source, target):
        calls.append(target)
        if len(calls) == 1:
            Path(source).unlink()
        real(source, target)

    monkeypatch.setattr(claims.os, "link", swept_once)
    with caplog.at_level(logging.WARNING):
        assert take(tmp_path).is_held
    assert caplog.records == []
