"""Several writers of one store: each clip is made once, and nobody sees a mixture."""

import importlib.util
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.format.clip import clip_key
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.claims import ClaimHeld
from tokenreel.cache.write.store_writer import StoreWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


def _write_list(path, results):
    done = 0
    with StoreWriter(path, writer_id="p") as writer:
        for i in range(12):
            try:
                stores.write_clip(writer, f"c{i}", 10)
                done += 1
            except ClaimHeld:
                continue
    results.put(done)


def test_eight_processes_on_one_list_make_each_clip_once(tmp_path):
    path = stores.make_store(tmp_path / "s")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_write_list, args=(path, results)) for _ in range(8)]
    for worker in workers:
        worker.start()
    assert sum(results.get(timeout=300) for _ in workers) == 12
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(open_store(path).records) == 12
    assert verify_store(path, deep=True).problems == ()
    lines = [line for log in (path / "manifest").iterdir() for line in log.read_text().splitlines()]
    assert len(lines) == 12


def test_a_live_claim_holds_and_a_clock_that_went_backwards_does_not_break_it(tmp_path):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as one, StoreWriter(path, writer_id="x") as two:
        clip = stores.begin(one, "a")
        os.utime(path / "claims" / f"{clip_key('a')}.json", (2e9 * 2, 2e9 * 2))
        with pytest.raises(ClaimHeld, match="works on it"):
            stores.begin(two, "a")
        clip.abort()
        stores.write_clip(two, "a", 3)
        with pytest.raises(ClaimHeld, match="already committed"):
            stores.begin(one, "a")


def test_two_writers_of_one_clip_one_wins(tmp_path):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as one, StoreWriter(path, writer_id="x") as two:
        first = stores.begin(one, "a")
        stores.append(one, first, "a", 10)
        (path / "claims" / f"{clip_key('a')}.json").unlink()
        first_folder = next((path / "clips").rglob(".tmp-*"))
        hidden = first_folder.rename(first_folder.with_name(".tmp-hidden"))
        stores.write_clip(two, "a", 12)
        hidden.rename(first_folder)
        count = np.arange(10)
        assert first.commit(count, count, count * 0, count * 0).num_frames == 12
    assert verify_store(path, deep=True).problems == ()


@pytest.mark.parametrize("frames", [70, 64, 200])  # of which 70 and 64 are written when it stops
def test_a_writer_that_was_stopped_for_long_leaves_the_clip_to_the_one_who_took_it_over(
    tmp_path, frames
):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as one, StoreWriter(path, writer_id="x") as two:
        first = stores.begin(one, "a")
        stores.append(one, first, "a", min(frames, 70))
        for file in (path / "claims").iterdir():
            os.utime(file, (1e9, 1e9))
        one._claims._beaten = float("-inf")  # it was stopped, and is woken after this
        second = stores.begin(two, "a")
        assert second.resume_frames == 64
        one._claims.beat()
        first.resume_frames = 70
        count = np.arange(frames)

        def go_on():
            stores.append(one, first, "a", frames)
            first.commit(count, count, count * 0, count * 0)

        with pytest.raises(ClaimHeld, match="a: another writer took it over, since this one"):
            go_on()
        first.abort()
        assert (path / "claims" / f"{clip_key('a')}.json").exists(), "that of the second one"
        stores.append(two, second, "a", frames)
        assert second.commit(count, count, count * 0, count * 0).num_frames == frames
        stores.write_clip(one, "b", 3)
    assert verify_store(path, deep=True).problems == ()
    assert not list((path / "claims").iterdir())
    assert not list(path.glob("clips/*/.tmp-*"))
    lines = [line for log in (path / "manifest").iterdir() for line in log.read_text().splitlines()]
    assert len(lines) == 2


def test_a_writer_sweeps_what_nobody_has_touched_for_long_and_nothing_else(tmp_path):
    path = stores.make_store(tmp_path / "s")
    folder = path / "clips/ab"
    for name in (".tmp-old", ".tmp-young", "kept"):
        (folder / name / "views").mkdir(parents=True)
    for name in (".tmp-old", ".tmp-young", "kept"):
        os.utime(folder / name, (1e9, 1e9))
        if name != ".tmp-young":  # the newest thing in it tells its age
            os.utime(folder / name / "views", (1e9, 1e9))
    with StoreWriter(path, writer_id="w", sweep_seconds=3600):
        assert {entry.name for entry in folder.iterdir()} == {".tmp-young", "kept"}
