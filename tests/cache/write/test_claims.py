"""Claims: who holds one, when it is dead, and what happens to one that is replaced."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tokenreel.cache.write.claims import ClaimHeld, _started, take_claim


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
        take(folder, expiry_seconds=60)
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
    deadline = time.monotonic() + 10
    while _started(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        assert Path(f"/proc/{process.pid}").exists()  # not waited for yet
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
