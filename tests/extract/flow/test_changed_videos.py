"""Videos and labels that are not what they were: told, kept, replaced or renewed, never mixed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.extract.extraction import CONFIG, content, write_video
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.store_files import read_failures
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.source_state import source_sha256
from tokenreel.cache.tools.verify import verify_store
from tokenreel.extract.decode_pool.pool import Attempt
from tokenreel.extract.decode_pool.worker import NO_FACTS
from tokenreel.extract.encode.quantiser import EncodedView
from tokenreel.extract.flow import changes, commits
from tokenreel.extract.flow.changes import find_changes
from tokenreel.extract.flow.commits import ClipCommits
from tokenreel.extract.flow.gpus import merge_reports
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.extract.report import ExtractReport
from tokenreel.extract.video.source import SourceFiles

CLIPS = (
    Clip("a", "a.mp4", action="turn", spans=(LabelSpan(0.2, 0.4, 1),)),
    Clip("b1", "b.mp4", stop_seconds=0.5),
    Clip("b2", "b.mp4", start_seconds=0.5),
)
PHASES = {"turn": ("go", "stop")}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Two videos, and a store of three clips of them."""
    folder = tmp_path_factory.mktemp("first")
    root = folder / "videos"
    root.mkdir()
    write_video(root / "a.mp4", 20)
    write_video(root / "b.mp4", 25)
    manifest = Manifest("toy", root, CLIPS, phases=PHASES)
    report = extract_clips(manifest, CONFIG, folder / "store", progress=False)
    assert (sorted(report.committed), report.exit_status) == (["a", "b1", "b2"], 0)
    return folder


@pytest.fixture
def work(first, tmp_path):
    """A copy of its own: the manifest and the store."""
    shutil.copytree(first, tmp_path / "work")  # with the times of the files
    return Manifest("toy", tmp_path / "work/videos", CLIPS, phases=PHASES), tmp_path / "work/store"


def extract(work, **options) -> ExtractReport:
    return extract_clips(work[0], CONFIG, work[1], progress=False, **options)


def test_a_rerun_refuses_names_and_replaces_a_video_that_changed(work):
    manifest, store = work
    before, labels = content(store), open_store(store).labels_sha256
    clips = open_store(store).clips_sha256
    write_video(manifest.root / "b.mp4", 30, width=80)
    refused = extract(work)
    assert (refused.exit_status, refused.committed, refused.skipped) == (3, [], ["a"])
    assert sorted(refused.changed) == ["b1", "b2"]
    assert refused.changed["b1"].startswith("b1: b.mp4 was ")
    assert "2 clip(s) are of videos or ranges that changed, not extracted again" in refused.table()
    assert "--changed replace" in refused.table()
    after = content(store)
    after.pop("sources.json")  # where the videos of this copy lie
    assert after == before
    replaced = extract(work, changed="replace")
    assert (replaced.exit_status, sorted(replaced.replaced)) == (0, ["b1", "b2"])
    assert replaced.changed == {}
    assert verify_store(store, deep=True, root=manifest.root).exit_status == 0
    fresh = store.with_name("fresh")
    shutil.copytree(store, fresh)
    shutil.rmtree(fresh / "clips")
    (fresh / "clips").mkdir()
    shutil.rmtree(fresh / "manifest")
    (fresh / "manifest").mkdir()
    extract((manifest, fresh))
    assert content(store) == content(fresh)
    assert open_store(store).clips_sha256 != clips  # in the provenance of runs and embeddings
    assert open_store(store).labels_sha256 != labels  # b2 has more frames


def test_pictures_at_another_rate_are_refused_and_replaced_by_their_new_times(tmp_path):
    folder = tmp_path / "videos/walk"
    folder.mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (64, 48), (50 * number, 0, 0)).save(folder / f"{number}.png")
    store, plain = tmp_path / "store", CONFIG.model_copy(update={"codec": "fp16"})

    def run(fps, **options):
        manifest = Manifest("toy", tmp_path / "videos", (Clip("walk", "walk", picture_fps=fps),))
        return extract_clips(manifest, plain, store, progress=False, **options)

    assert run(5.0).committed == ["walk"]
    refused = run(10.0)
    assert (refused.exit_status, refused.committed) == (3, [])
    words = "walk: was walk at 5 pictures/s, is walk at 10 pictures/s"
    assert refused.changed == {"walk": words}
    np.testing.assert_allclose(open_store(store).times_seconds("walk"), np.arange(5) / 5)
    assert run(10.0, changed="replace").replaced == ["walk"]
    np.testing.assert_allclose(open_store(store).units("walk")[-1], [0.4, 0.5])
    assert run(10.0).skipped == ["walk"]


def find(work, manifest=None, **options):
    manifest = manifest or work[0]
    return find_changes(manifest, work[1], manifest.clips, progress=False, **options)


def test_nothing_is_found_where_nothing_changed(work):
    found = find(work)
    assert (found.changed, found.left, found.labels.lines()) == ({}, (), [])
    assert (found.sources.num_videos, found.sources.num_hashed) == (2, 0)


def test_a_clip_of_another_range_or_video_has_changed(work):
    moved = replace(CLIPS[1], stop_seconds=0.4), replace(CLIPS[2], video="a.mp4")
    found = find(work, replace(work[0], clips=(CLIPS[0], *moved)), policy="replace")
    assert found.changed == {
        "b1": "b1: was 0 s to 0.5 s of b.mp4, is 0 s to 0.4 s of b.mp4",
        "b2": "b2: was 0.5 s to the end of b.mp4, is 0.5 s to the end of a.mp4",
    }
    assert list(found.replaced) == ["b1", "b2"]


def test_clips_that_left_the_data_set_are_listed(work):
    found = find(work, replace(work[0], clips=CLIPS[:1]))
    assert found.left == ("b1", "b2")
    report = ExtractReport(left=list(found.left))
    assert "2 clip(s) of the store are no longer in the data set and stay: b1, b2" in report.table()
    assert report.exit_status == 0


def test_without_a_store_or_the_whole_data_set_nothing_has_left(work, tmp_path):
    nothing = find((work[0], tmp_path / "none"), policy="keep")
    assert (nothing.changed, nothing.left, nothing.policy) == ({}, (), "keep")
    assert find(work, replace(work[0], clips=CLIPS[:1]), is_whole=False).left == ()


def test_a_clip_that_moved_to_another_video_is_compared_with_neither(work):
    moved = replace(CLIPS[2], start_seconds=0.6, action="jump")
    write_video(work[0].root / "b.mp4", 30)
    found = find(work, replace(work[0], clips=(*CLIPS[:2], moved)))
    assert list(found.changed) == ["b1", "b2"]  # by name
    assert found.changed["b1"].startswith("b1: b.mp4 was ")
    words = "b2: was 0.5 s to the end of b.mp4, is 0.6 s to the end of b.mp4"
    assert found.changed["b2"] == words
    assert found.labels.clips == set()  # those of other frames


def test_only_the_clips_of_a_shard_are_compared(work):
    manifest, store = work
    write_video(manifest.root / "b.mp4", 30)
    found = find_changes(manifest, store, CLIPS[:1], progress=False)
    assert (found.changed, found.left, found.sources.num_videos) == ({}, (), 1)


def test_where_the_videos_are_is_noted_where_they_were_found_and_moved(work, monkeypatch):
    notes, add = [], changes.add_notes

    def noted(store, **values):
        notes.append(values)
        add(store, **values)

    monkeypatch.setattr(changes, "add_notes", noted)
    for _ in range(2):
        find(work)
    assert notes == [{"root": str(work[0].root.absolute())}]  # of this copy, once
    (work[0].root / "a.mp4").unlink()
    other = replace(work[0], root=shutil.copytree(work[0].root, work[1].with_name("moved")))
    find(work, other)
    find(work, replace(other, clips=()))
    assert len(notes) == 1  # videos are missing there, or none was looked at
    write_video(other.root / "a.mp4", 20)

    def refused(store, **values):
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(changes, "add_notes", refused)
    find(work, other)  # a store that may only be read is compared all the same


def test_an_unknown_policy_is_refused_with_the_three(work):
    with pytest.raises(UsageError, match="'ask': refuse, replace, keep"):
        find(work, policy="ask")


def test_changes_that_are_kept_end_with_status_0():
    report = ExtractReport(changed={"a": "a: ..."}, accepts_changed=True)
    assert report.exit_status == 0
    assert "kept as they were extracted" in report.table()


def test_reports_of_processes_say_what_was_found_once():
    one = ExtractReport(changed={"a": "x"}, num_compared=9, left=["z"], labels=["split"])
    two = replace(one, replaced=["b"], changed={"a": "x", "b": "after its commit"})
    total = merge_reports([one, two])
    assert (sorted(total.changed), total.num_compared, total.replaced) == (["a", "b"], 9, ["b"])
    assert (total.left, total.labels, total.exit_status) == (["z"], ["split"], 3)


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"split": "val"}, {"split"}),
        ({"group": "g"}, {"group"}),
        ({"tags": ("x", "y")}, {"tags"}),
        ({"action": "jump"}, {"action", "phases"}),
        ({"spans": (LabelSpan(0.2, 0.44, 1),)}, {"labels"}),
        ({"spans": ()}, {"labels"}),
        ({"spans": (), "frame_labels": (1,) * 20}, {"labels"}),
    ],
)
def test_a_rerun_says_which_labels_changed_of_which_kind(work, change, kinds):
    other = replace(CLIPS[0], **change)
    found = find(work, replace(work[0], clips=(other, *CLIPS[1:])))
    assert found.labels.kinds.keys() == kinds
    assert found.labels.clips == {"a"}
    assert all("1 clip(s) have others now, such as a: " in line for line in found.labels.lines())


def test_names_of_phases_are_labels_too(work):
    found = find(work, replace(work[0], phases={"turn": ("go", "halt")}))
    assert found.labels.lines() == [
        "phases: 1 clip(s) have others now, such as a: [go, stop], is [go, halt]"
    ]


def test_labels_that_do_not_fit_are_told_with_their_line(work):
    late = replace(CLIPS[0], spans=(LabelSpan(0.0, 9.0, 0, where="labels.csv:3"),))
    found = find(work, replace(work[0], clips=(late,)))
    assert "labels.csv:3: stop_seconds 9 is beyond the end" in found.labels.lines()[0]


# A video that changes while it is extracted: the commit of a clip, without decoding.


class Extracted:
    """A clip whose frames are decoded and on their way to the store."""

    def __init__(self, work, clip: Clip, *, is_last: bool = True) -> None:
        manifest, store = work
        shutil.rmtree(store / "clips")
        (store / "clips").mkdir()
        self.report = ExtractReport()
        sources = SourceFiles(manifest.root)
        self.commits = ClipCommits(manifest, store, self.report, sources=sources, is_last=is_last)
        source, info, state = sources.examine_settled(clip.video, "pyav")
        self.entry = self.commits.begin(clip, source, info, state)

    def finish(self) -> None:
        """Write the frames of half a second and end the clip."""
        views = [EncodedView(*self._rows(12))]
        attempt = Attempt(0, 1, "pyav")
        count = np.arange(12, dtype=np.int64)
        ticks = (count / 25 / self.entry.info.time_base).astype(np.int64)
        self.commits.write(self.entry, lambda _: views, attempt, first=0, count=len(count))
        self.commits.close(self.entry, (ticks, count), attempt, NO_FACTS)

    def _rows(self, count: int):
        writer = self.commits._writer
        identity, codec = writer.identity, writer.codec
        tokens = np.zeros((count, identity.num_tokens, identity.dim), np.float32)
        encoded = {b: codec.encode(tokens, block=b, grid=identity.grid) for b in identity.blocks}
        cls = dict.fromkeys(identity.blocks, tokens[:, 0])
        return encoded, cls, tokens[:, 0]


def overwrite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    with path.open("r+b") as file:
        file.write(data)


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(100)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rename(path: Path) -> None:
    beside = path.with_suffix(".part")
    beside.write_bytes(path.read_bytes()[::-1])
    beside.replace(path)


def remove(path: Path) -> None:
    path.unlink()


CHANGES = [overwrite, truncate, append, rename, remove]


@pytest.mark.parametrize("change", CHANGES)
def test_a_clip_whose_video_changed_meanwhile_is_not_committed_but_tried_again(work, change):
    running = Extracted(work, CLIPS[1], is_last=False)
    change(work[0].root / "b.mp4")
    running.finish()
    assert running.commits.unsettled == [CLIPS[1]]
    assert (running.report.committed, running.report.failed) == ([], [])
    assert open_store(work[1]).records == {}


@pytest.mark.parametrize("change", CHANGES)
def test_the_second_time_it_fails_with_what_was_and_is(work, change):
    running = Extracted(work, CLIPS[1])
    change(work[0].root / "b.mp4")
    running.finish()
    (failure,) = running.report.failed
    assert failure.reason.startswith("b.mp4 changed while it was extracted: it was ")
    assert "rerun when nothing writes the video any more" in failure.reason
    assert [record["clip_id"] for record in read_failures(work[1])] == ["b1"]


def test_a_failure_of_a_video_that_changed_meanwhile_is_tried_again_too(work):
    running = Extracted(work, CLIPS[1], is_last=False)
    truncate(work[0].root / "b.mp4")
    running.commits.fail(running.entry, "decode", "ends early")
    assert (running.commits.unsettled, running.report.failed) == ([CLIPS[1]], [])


def touch(path: Path) -> None:
    path.touch()


def same_bytes(path: Path) -> None:
    beside = path.with_suffix(".part")
    beside.write_bytes(path.read_bytes())
    beside.replace(path)


@pytest.mark.parametrize("change", [touch, same_bytes])
def test_a_video_with_another_time_and_the_same_bytes_is_committed(work, change):
    running = Extracted(work, CLIPS[1])
    change(work[0].root / "b.mp4")
    running.finish()
    assert running.report.committed == ["b1"]
    assert running.commits.changed_after_commit() == {}


def test_a_video_that_changes_after_its_clip_was_committed_is_told(work):
    running = Extracted(work, CLIPS[1])
    running.finish()
    overwrite(work[0].root / "b.mp4")
    assert running.commits.changed_after_commit()["b1"].startswith("b1: b.mp4 was ")


def test_a_file_that_is_written_all_the_time_is_not_begun(work, monkeypatch):
    sources = SourceFiles(work[0].root)
    examine = SourceFiles.examine

    def meanwhile(self, video, decoder, **options):
        append(work[0].root / video)
        return examine(self, video, decoder, **options)

    monkeypatch.setattr(SourceFiles, "examine", meanwhile)
    with pytest.raises(Exception, match="is being written: extract it when it is whole"):
        sources.examine_settled("b.mp4", "pyav")


def test_the_run_tries_a_clip_again_when_its_video_changed(work, monkeypatch):
    manifest, store = work
    shutil.rmtree(store / "clips")
    (store / "clips").mkdir()
    close, changed = commits.ClipCommits.close, []

    def overwritten(self, entry, *arguments):
        if entry.clip.video == "b.mp4" and not changed:
            changed.append(entry.clip.clip_id)
            write_video(manifest.root / "b.mp4", 30)
        close(self, entry, *arguments)

    monkeypatch.setattr(commits.ClipCommits, "close", overwritten)
    report = extract(work)
    assert (sorted(report.committed), report.exit_status) == (["a", "b1", "b2"], 0)
    held = open_store(store)
    digest = source_sha256(manifest.root / "b.mp4")
    assert {held.record(name).source["sha256"] for name in ("b1", "b2")} == {digest}
    assert held.record("b2").num_frames == 30 - 13
