"""Writers that share the clips of a store: each takes its own first, and then helps."""

import os
import time
from types import SimpleNamespace

import pytest

from tests.extract.extraction import CONFIG, write_video
from tokenreel.cache.canonical import canonical_json, seal
from tokenreel.cache.errors import WrongIdentity
from tokenreel.cache.format.clip import clip_key
from tokenreel.cache.format.store_files import read_failures, record_failure
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.write import claims, worker_notes
from tokenreel.cache.write.claims import ClaimHeld, take_claim
from tokenreel.cache.write.clip_writer import ClipWriter
from tokenreel.cache.write.worker_notes import WorkerNotes
from tokenreel.extract.encode.identity import versions_of
from tokenreel.extract.flow.clip_queue import MOST_MISSES, HelpOrder, batches_of
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.signals import Stopping
from tokenreel.extract.video.source import SourceFiles

NAMES = ("a", "b", "c", "d")  # the largest first


@pytest.fixture
def manifest(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    write_video(root / "video.mp4", 6)
    data = (root / "video.mp4").read_bytes()
    for number, name in enumerate(NAMES):
        (root / f"{name}.mp4").write_bytes(data + bytes(9000 - 1000 * number))
    clips = tuple(Clip(name, f"{name}.mp4", split="train") for name in NAMES)
    return Manifest("toy", root, clips)


def extract(manifest, store, **options):
    config = CONFIG.model_copy(update={"workers": 1})
    return extract_clips(manifest, config, store, progress=False, **options)


def test_a_writer_takes_its_share_first_and_then_those_of_the_others(manifest, tmp_path):
    report = extract(manifest, tmp_path / "store", share=(1, 2))
    assert report.committed[:2] == ["b", "d"]
    assert sorted(report.committed[2:]) == ["a", "c"]


def test_the_video_of_a_clip_that_another_writer_has_is_not_read(manifest, tmp_path, monkeypatch):
    store, read = tmp_path / "store", []
    extract(manifest, store, part=manifest.clips[:1])
    take_claim(store / "claims", clip_key("c"), owner="another", expiry_seconds=300)
    examine = SourceFiles.examine_settled

    def note(self, video, *words, **options):
        read.append(video)
        return examine(self, video, *words, **options)

    monkeypatch.setattr(SourceFiles, "examine_settled", note)
    report = extract(manifest, store, share=(1, 2))
    assert (report.committed, sorted(report.skipped)) == (["b", "d"], ["a", "c"])
    assert read == ["b.mp4", "d.mp4"]
    assert report.exit_status == 0


@pytest.fixture
def claim_of_another_host(manifest, tmp_path):
    """A claim on c by a writer of another host, in a store that has a."""
    extract(manifest, tmp_path / "store", part=manifest.clips[:1])
    holder = {"owner": "w", "host": "elsewhere", "pid": 1, "token": "t", "started": "5"}
    path = tmp_path / "store" / "claims" / f"{clip_key('c')}.json"
    path.write_bytes(canonical_json(seal(holder)))
    return path


def meanwhile(monkeypatch, change):
    """Call a function in the place of each wait for heartbeats."""
    waits = SimpleNamespace(**{**vars(time), "sleep": change})
    monkeypatch.setattr(claims, "time", waits)


def test_the_clips_of_a_writer_that_was_lost_with_its_node_are_taken_once_it_is_known(
    manifest, tmp_path, monkeypatch, claim_of_another_host, caplog
):
    caplog.set_level("INFO")
    last_beat, waits = claim_of_another_host.stat().st_mtime, []
    monkeypatch.setattr(claims, "clock_of", lambda _: last_beat + sum(waits))
    meanwhile(monkeypatch, waits.append)
    report = extract(manifest, tmp_path / "store")
    assert (report.committed, report.skipped) == (["b", "d", "c"], ["a"])
    assert "1 clip(s) are claimed by other writers: waiting for their heartbeats" in caplog.text
    assert sum(waits) == claims.EXPIRY_SECONDS
    assert report.num_in_work == 0


def test_the_clips_of_a_writer_that_works_elsewhere_are_left_to_it_and_counted(
    manifest, tmp_path, monkeypatch, claim_of_another_host
):
    beat = time.time() - 20
    os.utime(claim_of_another_host, (beat, beat))
    meanwhile(monkeypatch, lambda _: os.utime(claim_of_another_host, (beat + 10, beat + 10)))
    report = extract(manifest, tmp_path / "store")
    assert (report.committed, report.skipped, report.num_in_work) == (["b", "d"], ["a", "c"], 1)
    assert "1 clip(s) are left to other writers, which have them in work" in report.table()
    assert report.exit_status == 0
    report = extract(manifest, tmp_path / "store", part=manifest.clips)
    assert report.num_in_work == 0, "the driver of several writers looks after them"


def test_clips_that_work_elsewhere_stay_counted_where_others_are_taken(
    manifest, tmp_path, monkeypatch, claim_of_another_host
):
    lost = claim_of_another_host.with_name(f"{clip_key('b')}.json")
    lost.write_bytes(claim_of_another_host.read_bytes())
    seconds, real = [0.0], claims.clock_of
    monkeypatch.setattr(claims, "clock_of", lambda folder: real(folder) + seconds[0])

    def only_c_beats(wait):
        seconds[0] += wait
        beat = time.time() + seconds[0]
        os.utime(claim_of_another_host, (beat, beat))

    meanwhile(monkeypatch, only_c_beats)
    report = extract(manifest, tmp_path / "store")
    assert (report.committed, report.skipped, report.num_in_work) == (["d", "b"], ["a", "c"], 1)
    assert report.exit_status == 0


def test_a_signal_ends_the_wait_for_heartbeats(
    manifest, tmp_path, monkeypatch, claim_of_another_host
):
    stopping = Stopping()
    meanwhile(monkeypatch, lambda _: stopping.stop(10))
    report = extract(manifest, tmp_path / "store", stopping=stopping)
    assert (report.committed, report.num_in_work) == (["b", "d"], 1)


def test_a_clip_that_another_writer_took_over_meanwhile_is_left_to_it(
    manifest, tmp_path, monkeypatch
):
    append = ClipWriter.append

    def taken_over(self, *words):
        if self._record.clip_id == "b":
            raise ClaimHeld("b: another writer took it over")
        append(self, *words)

    monkeypatch.setattr(ClipWriter, "append", taken_over)
    report = extract(manifest, tmp_path / "store")
    assert (report.committed, report.skipped) == (["a", "c", "d"], ["b"])
    assert report.failed == []
    assert not list((tmp_path / "store").glob("claims/*"))


def test_a_worker_of_other_versions_than_a_live_one_is_refused_before_it_writes(
    manifest, tmp_path, monkeypatch
):
    store = tmp_path / "store"
    extract(manifest, store, part=manifest.clips[:1])
    other = WorkerNotes(store, device="cpu", versions={**versions_of(CONFIG), "av": "0.1"})
    with other:
        with pytest.raises(WrongIdentity, match=r"works on it with other versions(?s:.*)there 0.1"):
            extract(manifest, store, share=(1, 2))
        assert list((store / "workers").iterdir()) == [other._path]
        assert not list(store.glob("claims/*"))
        assert len(list(store.glob("clips/*/*"))) == 1
        now = time.time()
        os.utime(other._path, (now - 301, now - 301))
        monkeypatch.setattr(worker_notes, "is_here", lambda host, started: False)
        assert extract(manifest, store).committed == ["b", "c", "d"], "the other one was lost"
    with WorkerNotes(store, device="cpu", versions=versions_of(CONFIG)) as like:
        like.require_same_versions()
        with WorkerNotes(store, device="cpu"):  # of an earlier version
            like.require_same_versions()


def test_a_run_is_stopped_by_its_caller_in_the_place_of_a_signal(manifest, tmp_path):
    stopping = Stopping()
    stopping.stop(10)
    report = extract(manifest, tmp_path / "store", stopping=stopping)
    assert (report.committed, report.exit_status, report.num_missing) == ([], 143, 4)


def helped(order, free):
    """The clips that a helper takes, and how many it looks at in vain."""
    found, misses = [], 0
    for number in order:
        if number in free:
            found.append(number)
            order.took()
        else:
            misses += 1
            order.missed()
    return found, misses


def test_a_helper_takes_what_is_free_from_a_place_of_its_own_on():
    found, misses = helped(HelpOrder(12, (1, 4)), set(range(12)))
    assert (found, misses) == ([*range(3, 12), 0, 1, 2], 0)


def test_helpers_do_not_walk_over_clips_that_others_have_taken():
    order = HelpOrder(1000, (0, 2))
    found, misses = helped(order, set())
    assert (found, misses) == ([], MOST_MISSES)
    assert len(order.left) == 1000 - MOST_MISSES
    order = HelpOrder(1000, (0, 2))
    found, misses = helped(order, {*range(500, 1000)})
    assert found, "half of them are free: found from the second place that is drawn"
    assert misses < 500


def test_batches_of_claims_shrink_towards_the_end():
    sizes = [len(batch) for batch in batches_of(range(40))]
    assert sizes == [8, 8, 6, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert [*batches_of([])] == []


def test_few_clips_are_all_looked_at():
    order = HelpOrder(5, (0, 2))
    assert helped(order, {4}) == ([4], 4)
    assert order.left == []


def test_clips_that_a_helper_does_not_reach_count_as_the_others(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("tokenreel.extract.flow.clip_queue.MOST_MISSES", 0)
    monkeypatch.setattr("tokenreel.extract.flow.clip_queue.MOST_LOOKS", 0)
    store = tmp_path / "store"
    extract(manifest, store, part=())
    take_claim(store / "claims", clip_key("c"), owner="another", expiry_seconds=300)
    report = extract(manifest, store, share=(1, 2))
    assert (report.committed, sorted(report.skipped)) == (["b", "d"], ["a", "c"])
    assert report.num_missing == 0


def test_the_failure_of_a_clip_whose_writer_was_killed_just_after_its_commit_is_forgotten(
    manifest, tmp_path
):
    store = tmp_path / "store"
    extract(manifest, store, part=manifest.clips[:2])
    for name in "ac":
        record_failure(store, name, stage="decode", reason="torn", details={})
    report = extract(manifest, store, part=manifest.clips[:3])
    assert (report.skipped, [failure.clip_id for failure in report.quarantined]) == (
        ["a", "b"],
        ["c"],
    )
    assert [record["clip_id"] for record in read_failures(store)] == ["c"]
