"""Claims: who holds one, when it is dead, and what happens to one that is replaced."""

import errno
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tokenreel.cache.canonical import canonical_json
from tokenreel.cache.write import claims
from tokenreel.cache.write.claims import (
    ClaimHeld,
    WriterClaims,
    _started,
    is_live,
    read_claim,
    take_claim,
)


def take(folder, expiry_seconds=60.0, owner="me"):
    return take_claim(folder, "clip", owner=owner, expiry_seconds=expiry_seconds)


def claim_of_another(folder, *, age_seconds=0.0, **changed):
    """A claim as another writer left it."""
    folder.mkdir(exist_ok=True)
    fields = {
        "owner": "another",
        "host": "elsewhere",
        "pid": os.getpid(),
        "token": "t",
        "started": _started(os.getpid()),
    }
    path = folder / "clip.json"
    path.write_text(json.dumps(fields | changed))
    touched = time.time() - age_seconds
    os.utime(path, (touched, touched))
    return path


def owner_of(folder):
    return json.loads((folder / "clip.json").read_text())["owner"]


def ended_process():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("host", ["elsewhere", socket.gethostname()])
def test_a_claim_that_nobody_touched_for_the_expiry_is_dead_and_a_younger_one_lives(tmp_path, host):
    folder = tmp_path / "claims"
    claim_of_another(folder, host=host, age_seconds=40)
    with pytest.raises(ClaimHeld, match=f"clip: another on {host} works on it"):
        take(folder, expiry_seconds=600)
    assert owner_of(folder) == "another"
    take(folder, expiry_seconds=30)
    assert owner_of(folder) == "me"
    assert [path.name for path in folder.iterdir()] == ["clip.json"]


def test_a_heartbeat_keeps_a_claim_alive(tmp_path):
    claim = take(tmp_path)
    os.utime(claim.path, (1e9, 1e9))
    claim.beat()
    assert time.time() - claim.path.stat().st_mtime < 30
    with pytest.raises(ClaimHeld, match="works on it"):
        take(tmp_path)
    claim.path.unlink()
    claim.beat()  # of a claim that is gone: nothing
    assert not claim.path.exists()


def test_a_claim_of_a_process_that_is_gone_is_dead_however_young(tmp_path):
    claim_of_another(tmp_path, host=socket.gethostname(), pid=ended_process(), started="5")
    take(tmp_path)
    assert owner_of(tmp_path) == "me"


def test_a_number_that_another_process_has_now_does_not_keep_a_claim(tmp_path):
    claim_of_another(tmp_path, host=socket.gethostname(), started="1")
    take(tmp_path)
    assert owner_of(tmp_path) == "me"


def test_a_process_of_another_host_cannot_be_asked(tmp_path):
    claim_of_another(tmp_path, pid=ended_process(), started="5")
    with pytest.raises(ClaimHeld, match="another on elsewhere works on it"):
        take(tmp_path)


def test_a_zombie_is_gone():
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not waited for yet
    try:
        assert Path(f"/proc/{process.pid}").exists()
        assert _started(process.pid) == ""
    finally:
        process.wait()
    assert _started(os.getpid()) != ""


def test_a_claim_that_was_taken_over_is_not_released_by_its_former_owner(tmp_path):
    claim = take(tmp_path)
    claim_of_another(tmp_path)
    claim.release()
    assert owner_of(tmp_path) == "another"
    claim_of_another(tmp_path, age_seconds=90)
    own = take(tmp_path)
    own.release()
    assert not own.is_held
    assert not list(tmp_path.iterdir())


def test_a_live_claim_that_came_between_reading_and_removing_is_put_back(tmp_path, monkeypatch):
    claim_of_another(tmp_path, age_seconds=90)
    rename = Path.rename
    came = []

    def replaced_first(self, target):
        if not came:
            came.append(claim_of_another(tmp_path, owner="third", token="newer"))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", replaced_first)
    with pytest.raises(ClaimHeld, match="third on elsewhere works on it"):
        take(tmp_path)
    assert owner_of(tmp_path) == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["clip.json"]


def names_of(folder):
    """Names of the claims, and how many files of writers are beside them."""
    names = sorted(path.name for path in folder.iterdir())
    claimed = [name for name in names if not name.startswith(".")]
    return claimed, len(names) - len(claimed)


@pytest.fixture
def writer(tmp_path):
    return WriterClaims(tmp_path / "claims", owner="me", expiry_seconds=60)


def test_claims_of_a_writer_are_names_of_one_file_and_have_one_heartbeat(writer, tmp_path):
    held = [writer.take(key) for key in "ab"]
    folder = tmp_path / "claims"
    assert names_of(folder) == (["a.json", "b.json"], 1)
    assert len({path.stat().st_ino for path in folder.iterdir()}) == 1
    os.utime(held[0].path, (1e9, 1e9))
    writer.beat()
    assert all(time.time() - claim.path.stat().st_mtime < 30 for claim in held)
    held[0].release()
    assert names_of(folder) == (["b.json"], 1)
    with pytest.raises(ClaimHeld, match="b: this writer works on it"):
        writer.take("b")
    with pytest.raises(ClaimHeld, match=r"b: me on .* works on it"):
        take_claim(folder, "b", owner="other", expiry_seconds=60)
    writer.release_all()
    assert names_of(folder) == ([], 0)


def test_a_claim_is_two_operations_of_the_disk(writer, monkeypatch):
    writer.take("first")
    done = []
    for name in ("link", "unlink", "stat", "open", "rename", "utime"):
        real = getattr(os, name)

        def note(*args, name=name, real=real, **options):
            done.append(name)
            return real(*args, **options)

        monkeypatch.setattr(os, name, note)
    writer.take("second").release()
    assert done == ["link", "unlink"]


def test_a_writer_whose_file_was_swept_writes_it_again_and_beats_for_all_its_claims(
    writer, tmp_path
):
    folder, first = tmp_path / "claims", writer.take("a")
    (own,) = folder.glob(".tmp-*")
    own.unlink()
    second = writer.take("b")
    for claim in (first, second):
        os.utime(claim.path, (1e9, 1e9))
    writer.beat()
    assert all(time.time() - claim.path.stat().st_mtime < 30 for claim in (first, second))
    own.unlink()
    os.utime(first.path, (1e9, 1e9))
    writer.beat()  # nothing but the claims is left
    assert time.time() - first.path.stat().st_mtime < 30
    writer.release_all()
    assert list(folder.iterdir()) == []


def test_a_writer_that_was_silent_beats_before_it_claims(writer, monkeypatch):
    now = claims.steady_clock()
    monkeypatch.setattr(claims, "steady_clock", lambda: now)
    writer.take("a")
    (own,) = writer._folder.glob(".tmp-*")
    os.utime(own, (1e9, 1e9))
    monkeypatch.setattr(claims, "steady_clock", lambda: now + 11)  # less than a fifth of the expiry
    assert writer.take("early").path.stat().st_mtime == 1e9
    monkeypatch.setattr(claims, "steady_clock", lambda: now + 13)
    assert time.time() - writer.take("b").path.stat().st_mtime < 30


def test_a_link_whose_answer_was_lost_is_the_writers_own_claim(writer, monkeypatch):
    real = os.link

    def answered_twice(source, target):
        real(source, target)
        raise FileExistsError(errno.EEXIST, "File exists", str(target))

    monkeypatch.setattr(os, "link", answered_twice)
    claim = writer.take("a")
    assert claim.is_held
    assert read_claim(claim.path) == writer.holder
    claim.release()
    assert names_of(writer._folder) == ([], 1)


def test_a_handle_that_another_host_made_stale_is_written_again(writer, monkeypatch):
    real, calls = os.link, []

    def stale_once(source, target):
        calls.append(target)
        if len(calls) == 1:
            raise OSError(errno.ESTALE, "Stale file handle")
        real(source, target)

    monkeypatch.setattr(os, "link", stale_once)
    assert writer.take("a").is_held
    assert len(calls) == 2


@pytest.mark.parametrize("has_links", [True, False])
def test_a_full_disk_leaves_no_half_written_claim(writer, monkeypatch, has_links):
    def full(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    def refuse(*_):
        raise OSError(errno.EPERM, "no links")

    if not has_links:
        writer.take("a").release()
        monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr("tokenreel.cache.files.write_all", full)
    with pytest.raises(OSError, match="quota"):
        writer.take("b")
    assert names_of(writer._folder) == ([], 0)
    monkeypatch.undo()
    assert writer.take("b").is_held


def test_the_file_of_a_writer_that_was_killed_goes_with_its_claim(writer, tmp_path):
    claim = writer.take("a")
    dead = canonical_json({**json.loads(claim.path.read_bytes()), "pid": ended_process()})
    values = json.loads(dead)
    del values["crc32c"]
    claim.path.write_bytes(canonical_json(values))  # both names of it
    other = take_claim(tmp_path / "claims", "a", owner="other", expiry_seconds=60)
    assert names_of(tmp_path / "claims") == (["a.json"], 0)
    assert read_claim(other.path).owner == "other"


def test_a_name_in_a_damaged_claim_removes_no_file(tmp_path):
    (tmp_path / "kept").touch()
    folder = tmp_path / "claims"
    claim_of_another(folder, age_seconds=90, token="/../../kept")
    (folder / ".tmp-").mkdir()
    take(folder)
    assert (tmp_path / "kept").exists()


def test_a_claim_that_was_taken_over_from_a_silent_writer_is_left_to_the_other(writer, monkeypatch):
    claim = writer.take("clip")
    now = claims.steady_clock()
    monkeypatch.setattr(claims, "steady_clock", lambda: now + 31)  # half of the expiry
    claim.path.unlink()
    claim_of_another(writer._folder)
    claim.release()
    assert owner_of(writer._folder) == "another"
    assert is_live(claim.path)


def test_a_folder_in_the_place_of_a_claim_is_damage_and_gives_way(writer):
    path = writer._folder / "a.json"
    (path / "inner").mkdir(parents=True)
    assert claims.damaged_claim(path) == f"{path}: a folder, not a claim"
    assert writer.take("a").path.is_file()
    assert names_of(writer._folder) == (["a.json"], 1)


def test_containers_of_one_name_do_not_take_each_others_processes_for_ended(tmp_path, monkeypatch):
    started = claims.start_of(os.getpid())
    ticks, _, machine = started.partition("@")
    assert (ticks, len(machine)) == (_started(os.getpid()), 16)
    here = socket.gethostname()
    for pid in (os.getpid(), ended_process()):
        path = claim_of_another(tmp_path, host=here, pid=pid, started="1@another")
        holder = read_claim(path)
        assert (holder.has_ended, holder.is_running) == (False, False)
        with pytest.raises(ClaimHeld, match=f"another on {here} works on it"):
            take(tmp_path)
        assert is_live(path)
    assert read_claim(claim_of_another(tmp_path, host=here, started=started)).is_running
    assert read_claim(claim_of_another(tmp_path, host=here, started=f"1@{machine}")).has_ended
    claim_of_another(tmp_path, host=here, started="1@another", age_seconds=90)
    assert take(tmp_path).is_held


def test_a_claim_that_was_taken_over_is_known_and_not_released_after_others_are_taken(tmp_path):
    writer = WriterClaims(tmp_path, owner="me", expiry_seconds=60)
    lost = writer.take("clip")
    assert not lost.is_taken_over
    other = claim_of_another(tmp_path, token="newer")
    assert lost.is_taken_over
    writer.close()  # as the one who took it over does
    writer.take("next")
    assert writer.is_fresh
    lost.release()
    assert owner_of(tmp_path) == "another"
    other.unlink()
    assert lost.is_taken_over, "and the other one has ended"
    writer.release_all()
    tmp_path.rmdir()
    assert not lost.is_taken_over, "there is no store any more"
