"""New labels for a store, without a video: all of them or none, told apart by their hash."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.cache import stores
from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.format.index import load_records
from tokenreel.cache.format.relabelled import LABELS
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.copying import merge_store, upgrade_store
from tokenreel.cache.tools.maintenance import collect_garbage, diff_stores
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.extract.flow.relabel import is_same_range, relabel_store
from tokenreel.pipeline.phases.relabelling import renew_labels

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
FRAMES = 10
NAMES = ("a", "b", "v")


@pytest.fixture(params=[1, 2], ids=["format 1", "format 2"])
def store(request, tmp_path):
    identity, calibration = stores.make_identity()
    identity = identity.model_copy(update={"format_version": request.param})
    path = create_store(
        tmp_path / "store", identity, made_with={"dataset": "folder"}, calibration=calibration
    )
    with StoreWriter(path, writer_id="w") as writer:
        for name in NAMES:
            stores.write_clip(writer, name, FRAMES)
    return path


def manifest(**changes: Clip) -> Manifest:
    """The clips as they were committed, but for those given."""
    labels = tuple(frame % 2 for frame in range(FRAMES))
    held = {
        name: Clip(name, "a/v.mp4", split="val" if name == "v" else "train", frame_labels=labels)
        for name in NAMES
    }
    return Manifest("d", Path(), tuple((held | changes).values()), phases={"": ("x", "y")})


def plain(path: Path) -> dict[str, bytes]:
    return {str(x.relative_to(path)): x.read_bytes() for x in path.rglob("*") if x.is_file()}


def test_labels_that_did_not_change_leave_every_byte(store):
    before = plain(store)
    report = relabel_store(store, manifest())
    assert report.table() == "0 of 3 clips have new labels"
    assert plain(store) == before


SPANS = (LabelSpan(0.0, 0.16, 1), LabelSpan(0.24, 0.4, 0))
NEW = Clip("a", "a/v.mp4", split="test", action="jump", group="g", spans=SPANS)


def test_a_clip_has_its_new_labels_and_the_same_tokens(store):
    before, tokens = open_store(store), open_store(store).read("a").codes[1]
    files = plain(store)
    asked = replace(manifest(a=NEW), phases={"": ("x", "y"), "jump": ("up", "down", "land")})
    report = relabel_store(store, asked)
    assert {kind: set(clips) for kind, clips in report.changes.kinds.items()} == {
        kind: {"a"} for kind in ("split", "action", "group", "phases", "labels")
    }
    assert "split: 1 clip(s) have others now, such as a: 'train', is 'test'" in report.table()
    after = open_store(store)
    record = after.record("a")
    assert (record.split, record.action, record.group) == ("test", "jump", "g")
    assert record.phases == ("up", "down", "land")
    assert after.labels("a").tolist() == [1] * 4 + [-1] * 2 + [0] * 4
    assert after.labels("b").tolist() == before.labels("b").tolist()
    assert [record.clip_id for record in after.select(split="test")] == ["a"]
    np.testing.assert_array_equal(after.read("a").codes[1], tokens)
    assert after.fingerprint == before.fingerprint
    assert after.labels_sha256 != before.labels_sha256
    assert verify_store(store, deep=True).problems == ()
    assert {name: data for name, data in plain(store).items() if name != LABELS} == files
    relabel_store(store, manifest())
    assert plain(store) == files  # as it was extracted


def test_a_clip_that_changed_its_split_is_another_set_of_clips(store):
    before = open_store(store)
    relabel_store(store, manifest(b=Clip("b", "a/v.mp4", split="val", frame_labels=(0, 1) * 5)))
    after = open_store(store)
    assert [record.clip_id for record in after.select(split="val")] == ["b", "v"]
    assert after.clips_sha256 != before.clips_sha256


def test_what_changed_since_the_last_renewal_is_said(store):
    relabel_store(store, manifest(a=NEW))
    again = relabel_store(store, manifest(a=replace(NEW, split="val")))
    assert again.changes.kinds == {"split": {"a": "'test', is 'val'"}}
    labels = (0,) * 4 + (-1,) * 6
    other = replace(NEW, split="val", spans=(), frame_labels=labels)
    third = relabel_store(store, manifest(a=other))
    assert third.changes.kinds == {"labels": {"a": "4 of 10 frames labelled, phases [0]"}}
    assert open_store(store).labels("a").tolist() == list(labels)
    none = relabel_store(store, manifest(a=replace(NEW, split="val", spans=())))
    assert none.changes.kinds == {"labels": {"a": "0 of 10 frames labelled, phases []"}}
    assert open_store(store).labels("a").tolist() == [-1] * FRAMES


def test_the_report_counts_clips_that_left_and_that_wait(store):
    new = [Clip(name, "a/v.mp4") for name in ("x", "y")]
    held = manifest().clips
    report = relabel_store(store, replace(manifest(), clips=(held[0], *new)))
    assert report.table().splitlines() == [
        "0 of 3 clips have new labels",
        "2 clip(s) are not in the data set, as they were: b, v",
        "2 clip(s) of the data set are not extracted yet",
    ]
    many = replace(report, left=tuple("bcde"), num_waiting=0)
    assert many.table().endswith("4 clip(s) are not in the data set, as they were: b, c, d, ...")
    assert "b, c, d" in replace(report, left=tuple("bcd")).table()
    assert "..." not in replace(report, left=tuple("bcd")).table()


def test_copies_have_the_new_labels_as_their_own(store, tmp_path):
    relabel_store(store, manifest(b=Clip("b", "a/v.mp4", split="val", group="z")))
    copy = shutil.copytree(store, tmp_path / "copy")
    for name in ("clips", "manifest"):
        shutil.rmtree(copy / name)
        (copy / name).mkdir()
    (copy / LABELS).unlink()
    merge_store(store, copy)
    assert diff_stores(store, copy) == []
    assert open_store(copy).labels_sha256 == open_store(store).labels_sha256
    if open_store(store).identity.format_version == 1:
        upgrade_store(store, tmp_path / "new")
        assert open_store(tmp_path / "new").record("b").group == "z"


def test_clips_that_the_data_set_lacks_keep_their_new_labels(store):
    relabel_store(store, manifest(b=Clip("b", "a/v.mp4", group="z")))
    report = relabel_store(store, replace(manifest(), clips=manifest().clips[:1]))
    assert report.left == ("b", "v")
    assert open_store(store).record("b").group == "z"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            Clip("b", "a/v.mp4", stop_seconds=1.0),
            "b: was a/v.mp4, is 0 s to 1 s of a/v.mp4: other ",
        ),
        (Clip("b", "a/w.mp4"), "b: was a/v.mp4, is a/w.mp4: other tokens, not other labels"),
        (Clip("b", "a/v.mp4", frame_labels=(0, 1)), "such as b: 2 labels for 10 frames; no label"),
        (Clip("b", "a/v.mp4", spans=(LabelSpan(0, 9, 0, where="l.csv:2"),)), "such as b: l.csv:2"),
    ],
)
def test_what_is_no_label_or_does_not_fit_changes_nothing(store, other, message):
    before = plain(store)
    with pytest.raises(UsageError, match=message):
        relabel_store(store, manifest(a=NEW, b=other))
    assert plain(store) == before


def test_tags_are_kept_in_format_2_and_refused_by_format_1(store):
    tagged = manifest(b=Clip("b", "a/v.mp4", frame_labels=(0, 1) * 5, tags=("wide", "night")))
    if open_store(store).identity.format_version == 1:
        with pytest.raises(UsageError, match="format 1 cannot keep tags"):
            relabel_store(store, tagged)
        return
    assert set(relabel_store(store, tagged).changes.kinds) == {"tags"}
    assert open_store(store).record("b").tags == ("wide", "night")


def test_a_clip_extracted_again_has_its_own_labels(store):
    relabel_store(store, manifest(a=NEW))
    shutil.rmtree(next((store / "clips").glob("*/a-*")))
    with StoreWriter(store, writer_id="z") as writer:
        stores.write_clip(writer, "a", FRAMES + 2)
    assert open_store(store).record("a").split == "train"
    assert len(open_store(store).labels("a")) == FRAMES + 2
    assert verify_store(store, deep=True).problems == ()


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"clips":{}}', None])
def test_a_damaged_file_of_labels_is_never_passed_over(store, damage):
    relabel_store(store, manifest(a=NEW))
    whole = (store / LABELS).read_bytes()
    (store / LABELS).write_bytes(whole.replace(b"test", b"vall") if damage is None else damage)
    with pytest.raises(Damaged, match="type `store relabel` to renew the labels"):
        open_store(store)
    (problem,) = verify_store(store).problems
    assert LABELS in problem.what
    relabel_store(store, manifest(a=NEW))
    assert open_store(store).record("a").split == "test"


def test_a_damaged_file_of_labels_is_replaced_by_those_of_the_extraction_too(store):
    files = plain(store)
    relabel_store(store, manifest(a=NEW))
    (store / LABELS).write_bytes(b"[]")
    relabel_store(store, manifest())
    assert open_store(store).record("a").split == "train"
    assert {name: data for name, data in plain(store).items() if name != LABELS} == files


def committed(folder: Path, pts, stops, **units) -> Path:
    """A store of format 2 with a clip "a" of rules 2, whose rows are shown from pts to stops."""
    identity, calibration = stores.make_identity()
    path = create_store(
        folder / "store", identity.model_copy(update=units), made_with={}, calibration=calibration
    )
    with StoreWriter(path, writer_id="w") as writer:
        clip = stores.begin(writer, "a")
        stores.append(writer, clip, "a", len(pts))
        nothing = np.full(len(pts), -1), np.zeros(len(pts), np.uint8)
        clip.commit(pts, np.arange(len(pts)), *nothing, stop_pts=stops, rules=2)
    return path


def labelled(store: Path, *span) -> list[int]:
    """The labels of clip "a" after a phase 1 from one second to another."""
    clip = Clip("a", "a/v.mp4", spans=(LabelSpan(*span, 1),))
    relabel_store(store, Manifest("d", Path(), (clip,), phases={"": ("x", "y")}))
    return open_store(store).labels("a").tolist()


def test_a_phase_may_last_until_the_last_frame_is_no_longer_shown(tmp_path):
    """The last of ten frames at 25 a second, from 0.36 s, is shown until 1.2 s."""
    pts = np.arange(10)
    store = committed(tmp_path, pts, np.append(pts[1:], 30))
    assert labelled(store, 0.2, 1.2) == [-1] * 5 + [1] * 5
    with pytest.raises(UsageError, match=r"stop_seconds 1\.3 is beyond the end .* at 1\.200 s"):
        labelled(store, 0.2, 1.3)


def test_a_part_of_a_clip_has_the_label_of_its_middle(tmp_path):
    """Parts of 0.16 s: the first, in its middle at 0.08 s, is in the phase; the second is not."""
    pts = np.arange(0, 12, 4)
    store = committed(tmp_path, pts, pts + 4, frames_per_window=4, rows_per_window=2)
    assert labelled(store, 0.04, 0.2) == [1, -1, -1]


def test_pictures_without_a_rate_are_those_at_25_a_second(tmp_path):
    own = load_records(committed(tmp_path, np.arange(3), np.arange(1, 4)))["a"]
    container = own.source["container"]
    for rate, same in ((25.0, True), (24.0, False)):
        pictures = replace(
            own, source=own.source | {"container": container | {"picture_fps": rate}}
        )
        assert is_same_range(Clip("a", "a/v.mp4"), pictures) is same
        assert is_same_range(Clip("a", "a/v.mp4", picture_fps=rate), pictures)
    assert is_same_range(Clip("a", "a/v.mp4", picture_fps=24.0), own)  # a video has its own times


def killed_at(event: int, work) -> bool:
    """Run the work in a process that dies before its n-th file event; whether it died."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    left = event

    def count(name: str, args: tuple) -> None:
        nonlocal left
        reads = name == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)
        if name in ("open", "os.rename", "os.remove", "os.mkdir") and not reads:
            left -= 1
            if left < 0:
                os._exit(1)

    sys.addaudithook(count)
    work()
    os._exit(0)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_kill_at_any_file_event_leaves_all_old_labels_or_all_new_ones(store, is_first):
    if not is_first:
        relabel_store(store, manifest(v=Clip("v", "a/v.mp4", group="old")))
    old = open_store(store).labels_sha256
    before = plain(store)
    asked = manifest(a=NEW, b=replace(NEW, clip_id="b"))
    seen, event = [], 0
    while True:
        died = killed_at(event, lambda: relabel_store(store, asked))
        seen.append(open_store(store).labels_sha256)
        assert not verify_store(store).problems
        if not died:
            break
        event += 1
    assert seen[0] == old
    assert len(set(seen)) == 2
    assert len(seen) > 2
    assert before.keys() <= plain(store).keys()
    assert collect_garbage(store, older_than_seconds=-1, delete=True)
    assert plain(store).keys() == before.keys() | {LABELS}


def write_file(path: Path, **values) -> Path:
    (path / "labels.json").write_text(json.dumps(values))
    return path / "labels.json"


def test_a_file_of_labels_changes_what_it_names_and_nothing_else(store, tmp_path):
    file = write_file(
        tmp_path,
        phases={"jump": ["up", "down"]},
        clips=[
            {"clip_id": "a", "action": "jump", "spans": [[0.0, 0.2, "down"], [0.2, 0.3, 0]]},
            {"clip_id": "v", "split": "test"},
        ],
    )
    report = renew_labels(store, manifest=file)
    assert report.changes.clips == {"a", "v"}
    held = open_store(store)
    assert held.labels("a").tolist() == [1] * 5 + [0] * 3 + [-1] * 2
    assert (held.record("a").phases, held.record("a").split) == (("up", "down"), "train")
    assert (held.record("v").phases, held.record("v").split) == (("x", "y"), "test")
    assert held.labels("v").tolist() == [0, 1] * 5


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"clip_id": "c"}, "has no clip 'c'"),
        ({"clip_id": "a", "split": "training"}, r"clips\.0\.split: Input should be 'train'"),
        ({"clip_id": "a", "label": 1}, r"clips\.0\.label: Extra inputs"),
        ({"clip_id": "a", "spans": [[0, 1, "z"]]}, r"unknown phase 'z' \(known: x, y\)"),
        ({"clip_id": "a", "spans": [[1, 1, 0]]}, "end after their start"),
        ({"clip_id": "a", "spans": [[0, 0.2, 0], [0.1, 0.3, 1]]}, "do not overlap"),
        ({"clip_id": "a", "frame_labels": [0, 40_000]}, r"less than 32768"),
        ({"clip_id": "a", "frame_labels": [0]}, "1 labels for 10 frames"),
        ({"clip_id": "a", "frame_labels": [0], "spans": []}, "not both"),
    ],
)
def test_a_file_that_means_nothing_changes_nothing(store, tmp_path, clip, message):
    before = plain(store)
    with pytest.raises(UsageError, match=message):
        renew_labels(store, manifest=write_file(tmp_path, clips=[{"clip_id": "v"}, clip][::-1]))
    assert plain(store) == before


def test_fewer_names_of_phases_than_labels_are_refused(store, tmp_path):
    before = plain(store)
    action = open_store(store).record("a").action
    file = write_file(tmp_path, phases={action: ["x"]}, clips=[{"clip_id": "a"}])
    with pytest.raises(UsageError, match=r"a frame has phase 1, .* has 1 phases, counted from 0"):
        renew_labels(store, manifest=file)
    assert plain(store) == before


def test_what_is_not_json_or_twice_is_refused(store, tmp_path):
    (tmp_path / "labels.json").write_text("[")
    with pytest.raises(UsageError, match="not JSON"):
        renew_labels(store, manifest=tmp_path / "labels.json")
    with pytest.raises(UsageError, match="'a' is listed twice"):
        renew_labels(store, manifest=write_file(tmp_path, clips=[{"clip_id": "a"}] * 2))
    for text in (
        '{"clips": [{"clip_id": "a", "split": "train", "split": "val"}]}',
        '{"phases": {"spin": ["x"], "spin": ["y"]}}',
    ):
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(UsageError, match="twice"):
            renew_labels(store, manifest=tmp_path / "labels.json")


def test_the_data_set_below_a_root_renews_labels(store, tmp_path):
    root = tmp_path / "videos"
    (root / "a").mkdir(parents=True)
    (root / "a/v.mp4").touch()
    with StoreWriter(store, writer_id="f") as writer:
        stores.write_clip(writer, "a/v.mp4", FRAMES)
    (root / "clips.csv").write_text("video,split,action\na/v.mp4,test,run\n")
    (root / "phases.csv").write_text("action,phase\nrun,left\nrun,right\n")
    (root / "labels.csv").write_text(
        "video,start_seconds,stop_seconds,phase\na/v.mp4,0,0.2,right\n"
    )
    report = renew_labels(store, root=root)
    assert report.left == NAMES
    held = open_store(store)
    assert held.record("a/v.mp4").split == "test"
    assert held.labels("a/v.mp4").tolist() == [1] * 5 + [-1] * 5
    with pytest.raises(UsageError, match="takes data"):
        renew_labels(store, ["blocks=3"], root=root)
