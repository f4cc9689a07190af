"""Writers of several hosts on one disk: clocks apart, names unseen for a while, stale handles."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cache import stores
from tests.extract.extraction import differing
from tokenreel.cache.canonical import parse_json
from tokenreel.cache.files import again_if_stale, clock_of, is_made_by_another
from tokenreel.cache.format.clip import folder_of
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write import clip_writer
from tokenreel.cache.write.claims import ClaimHeld, is_live, take_claim
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.pipeline.phases import extraction

SOURCE = Path(__file__).parents[2] / "shared_disk.c"
NAMES = tuple("abcdefgh")
WRITER = """
import socket, sys, time
store, host, names = sys.argv[1], sys.argv[2], sys.argv[3]
socket.gethostname = lambda: host
from tests.cache import stores
from tokenreel.cache.errors import TokenReelError, machine_error
from tokenreel.cache.write.claims import ClaimHeld
from tokenreel.cache.write.store_writer import StoreWriter
try:
    with StoreWriter(store, writer_id=host) as writer:
        for name in names:
            if not writer.is_committed(name):
                try:
                    stores.write_clip(writer, name, frames=70)
                except ClaimHeld:
                    pass
except TokenReelError as error:
    print(error)
    sys.exit(error.exit_status)
except OSError as error:  # as every command does
    print(machine_error(error))
    sys.exit(machine_error(error).exit_status)
"""

QUOTA = """
import os, sys
from pathlib import Path
from tests.cache import stores
from tokenreel.cache.errors import MachineError, machine_error
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.write.store_writer import StoreWriter
store, step = Path(sys.argv[1]), int(sys.argv[2])
stopped = number = 0
while True:
    number += step
    name = f"c{number}"
    os.environ["SHARED_QUOTA"] = str(number)
    try:
        with StoreWriter(store, writer_id="w") as writer:
            stores.write_clip(writer, name, frames=70, batch=64)
        ended = True
    except OSError as error:  # of the claim, as a command meets it
        assert "quota" in str(machine_error(error)), error
        ended = False
    except MachineError as error:
        assert "Disk quota exceeded; make room" in str(error), error
        ended = False
    os.environ["SHARED_QUOTA"] = ""
    assert not list((store / "claims").iterdir())
    known = open_store(store).records  # readable, whatever was begun
    if ended:
        break
    stopped += 1
    with StoreWriter(store, writer_id="w") as writer:  # there is room again
        if name not in known:
            stores.write_clip(writer, name, frames=70, batch=64)
print(stopped)
"""


STALE = """
import os, shutil, sys
from pathlib import Path
from tests.cache import stores
from tokenreel.cache.format.store_files import record_failure
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.status import store_status
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.cache.write.worker_notes import note_run
store, step = Path(sys.argv[1]), int(sys.argv[2])

def write():
    stores.make_store(store)
    note_run(store, ["a", "b"])
    with StoreWriter(store, writer_id="w") as writer:
        stores.write_clip(writer, "a", frames=70, batch=64)
    record_failure(store, "b", stage="decode", reason="torn", details={})

def read():
    opened = open_store(store)
    assert [record.num_frames for record in opened.records.values()] == [70]
    opened.times_seconds("a")
    opened.read("a", [1, 66])
    status = store_status(store)
    assert (status.num_committed, len(status.failed), status.num_left) == (1, 1, 0)
    assert verify_store(store, deep=True).problems == ()

for call, looks in ((write, 400), (read, 150)):
    for number in range(step, looks, step):
        os.environ["SHARED_STALE"] = ""
        if call is write:
            shutil.rmtree(store, ignore_errors=True)
        os.environ["SHARED_STALE"] = f"-{number}"
        call()
        os.environ["SHARED_STALE"] = ""
        read()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The simulated disk, to be preloaded."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler (cc), or no Linux: no disk can be simulated")
    path = tmp_path_factory.mktemp("library") / "shared_disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", path, SOURCE, "-ldl"], check=True)
    return path


def start(store, library, host, *, ahead, stale, names=NAMES):
    environment = os.environ | {
        "LD_PRELOAD": str(library),
        "SHARED_ROOT": str(store),
        "SHARED_CLOCK": str(ahead),
        "SHARED_UNSEEN": "3",
        "SHARED_STALE": str(stale),
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store), host, "".join(names)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def logged(store):
    """Ids of the clips in the logs of all writers."""
    lines = [
        line for log in store.glob("manifest/*.jsonl") for line in log.read_bytes().splitlines()
    ]
    return sorted(parse_json(line, where=store)["record"]["clip_id"] for line in lines)


def test_hosts_whose_clocks_are_apart_commit_each_clip_once(library, tmp_path):
    store = stores.make_store(tmp_path / "store")
    hosts = {"early": -600, "late": 600}
    running = [start(store, library, h, ahead=s, stale=397) for h, s in hosts.items()]
    for process in running:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    assert logged(store) == [*NAMES]
    report = verify_store(store, deep=True)
    assert (report.problems, report.num_clips) == ((), len(NAMES))
    alone = stores.make_store(tmp_path / "alone")
    start(alone, library, "alone", ahead=0, stale=0).communicate(timeout=600)
    assert differing(store, alone) == []


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_quota_that_is_full_at_any_call_is_said_and_the_clip_is_written_later(
    library, tmp_path, step
):
    store = stores.make_store(tmp_path / "store")
    environment = os.environ | {"LD_PRELOAD": str(library), "SHARED_ROOT": str(store)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", QUOTA, str(store), str(step)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stopped = int(done.stdout)
    assert stopped * step > 100, "calls of one clip"
    names = [f"c{step * number}" for number in range(1, stopped + 2)]
    report = verify_store(store, deep=True)
    assert (report.problems, report.num_clips) == ((), len(names))
    assert not list(store.rglob(".tmp-*")), "nothing is left over"


@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stale_handle_at_any_look_is_looked_up_again(library, tmp_path, step):
    environment = os.environ | {"LD_PRELOAD": str(library), "SHARED_ROOT": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", STALE, str(tmp_path / "store"), str(step)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_files_that_cannot_be_closed_well_are_all_closed_and_the_claim_is_released(
    tmp_path, monkeypatch
):
    store, close, closed = stores.make_store(tmp_path / "store"), os.close, []
    with StoreWriter(store, writer_id="w") as writer:
        clip = stores.begin(writer, "a")
        stores.append(writer, clip, "a", 7)
        handles = [*clip._tracks[0]._open.values()]
        assert len(handles) == 2

        def full(handle):
            close(handle)
            if handle in handles and handle not in closed:
                closed.append(handle)
                raise OSError(errno.EDQUOT, "Disk quota exceeded")

        monkeypatch.setattr(os, "close", full)
        with pytest.raises(OSError, match="quota"):
            clip._tracks[0].drop()
        assert sorted(closed) == sorted(handles)
        stores.begin(writer, "b").suspend()
        again = stores.begin(writer, "c")
        stores.append(writer, again, "c", 7)
        handles[:] = again._tracks[0]._open.values()
        closed.clear()
        again.abort()
        clip.abort()
        assert sorted(closed) == sorted(handles)
    assert not list((store / "claims").iterdir())
    assert not list(store.glob("clips/*/.tmp-[ac]-*"))


def test_a_store_that_another_process_made_first_is_taken_where_there_are_no_locks(tmp_path):
    mine, theirs = stores.make_store(tmp_path / "mine"), stores.make_store(tmp_path / "s")
    assert extraction._rename_store(mine, theirs) is False
    assert not mine.exists()
    assert verify_store(theirs).problems == ()
    assert extraction._rename_store(theirs, tmp_path / "t") is True
    with pytest.raises(FileNotFoundError):
        extraction._rename_store(mine, tmp_path / "u")


def test_a_store_that_is_not_seen_yet_is_waited_for(tmp_path, monkeypatch):
    seen, slept = [False, False, True], []
    monkeypatch.setattr(time, "sleep", slept.append)
    error = OSError(errno.ENOTEMPTY, "Directory not empty")
    assert is_made_by_another(error, lambda: seen.pop(0))
    assert len(slept) == 2
    assert not is_made_by_another(OSError(errno.EIO, "Input/output error"), lambda: False)
    assert len(slept) == 2


@pytest.mark.parametrize("ahead", [-600.0, 600.0])
def test_a_live_claim_of_another_host_is_not_broken_by_a_clock_that_is_off(
    ahead, tmp_path, monkeypatch
):
    folder = tmp_path / "claims"
    monkeypatch.setattr("socket.gethostname", lambda: "there")
    claim = take_claim(folder, "clip", owner="there", expiry_seconds=300)
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    assert is_live(claim.path)
    with pytest.raises(ClaimHeld, match="there on there works on it"):
        take_claim(folder, "clip", owner="here", expiry_seconds=300)
    os.utime(claim.path, (real() - 301,) * 2)
    assert not is_live(claim.path)
    assert take_claim(folder, "clip", owner="here", expiry_seconds=300).is_held


def test_the_clock_of_a_disk_is_that_of_its_files_and_leaves_none(tmp_path, monkeypatch):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 600)
    before = real()
    assert before - 1 < clock_of(tmp_path) < real() + 1
    assert list(tmp_path.iterdir()) == []
    closed, before = tmp_path / "none", time.time()
    assert before <= clock_of(closed) <= time.time()


def test_a_stale_handle_is_looked_at_once_more_and_other_errors_are_not():
    errors = [OSError(116, "Stale file handle")]

    def look():
        if errors:
            raise errors.pop()
        return "seen"

    assert again_if_stale(look) == "seen"
    errors += [OSError(116, "Stale file handle")] * 2
    with pytest.raises(OSError, match="Stale"):
        again_if_stale(look)
    errors[:] = [OSError(5, "Input/output error")] * 2
    with pytest.raises(OSError, match="Input"):
        again_if_stale(look)
    assert len(errors) == 1


def test_a_commit_that_lost_waits_until_the_other_one_is_seen(tmp_path, monkeypatch):
    store = stores.make_store(tmp_path / "store")
    other, seen = stores.make_store(tmp_path / "other"), [False, False, True]
    with StoreWriter(other, writer_id="b") as writer:
        record = stores.write_clip(writer, "x", frames=70)
    with StoreWriter(store, writer_id="a") as writer:
        mine = stores.begin(writer, "x")
        stores.append(writer, mine, "x", 70)
        shutil.copytree(other / folder_of(record.key), store / folder_of(record.key))
        monkeypatch.setattr(clip_writer, "is_committed", lambda *_: seen.pop(0))
        count = np.arange(70)
        found = mine.commit(count, count * 2, count % 2, np.zeros(70, np.uint8))
    assert found == record
    assert seen == []
    assert logged(store) == []
    assert not list(store.glob("clips/*/.tmp-*"))
