"""verify_store: what it finds beyond checksums, and what it leaves alone."""

import importlib.util
import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.canonical import canonical_json, open_seal, seal
from tokenreel.cache.errors import MachineError, StoreNotFound
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.store_files import create_store, record_failure
from tokenreel.cache.read.store_reader import Store
from tokenreel.cache.tools import verify as integrity
from tokenreel.cache.tools.maintenance import mend_logs
from tokenreel.cache.tools.sources import SourceCheck
from tokenreel.cache.tools.verify import (
    Problem,
    VerifyReport,
    verify_store,
    wrong_frames,
)
from tokenreel.cache.write.canary import canary_frames, make_canary
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


def commit(path: Path, *, labels=(0, 1, 1), pts=(0, 1, 2), change=lambda encoded: None) -> None:
    """A clip of three frames whose codes `change` may spoil before they are written."""
    with StoreWriter(path, writer_id="w") as writer:
        clip = stores.begin(writer, "a")
        encoded, cls = {}, {}
        for block in stores.BLOCKS:
            tokens = stores.make_tokens("a", 0, block, 3)
            encoded[block] = writer.codec.encode(tokens, block=block, grid=stores.GRID)
            cls[block] = tokens[:, 0]
        change(encoded[3])
        clip.append(0, encoded, cls, cls[3])
        clip.commit(np.array(pts), np.arange(3), np.array(labels), np.zeros(3, np.uint8))


def words(path: Path, deep: bool = True) -> str:
    return verify_store(path, deep=deep).table()


@pytest.mark.parametrize("codec", ["fp16", "int8", "int4", "pool2+int8"])
def test_a_frame_of_zeros_is_found(tmp_path, codec):
    path = stores.make_store(tmp_path / "s", codec)
    zero = 0x77 if codec == "int4" else 0
    commit(path, change=lambda encoded: encoded.codes[1].fill(zero))
    assert "a: view 0, block 3, frame 1: nothing but zeros" in words(path)
    assert verify_store(path, deep=True).repair == ("a",)
    assert "0 problem(s)" in words(path, deep=False)


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_a_fill_value_is_found(tmp_path, codec):
    path = stores.make_store(tmp_path / "s", codec)
    fill = -128 if codec == "int8" else 255
    commit(path, change=lambda encoded: encoded.codes[2, :1].fill(fill))
    assert "frame 2: NaN or a fill value" in words(path)


def test_nan_in_codes_and_scales_is_found():
    codec = stores.codec_from_identity(*[stores.codec_identity("fp16"), {}])
    codes = np.ones((3, 4, 2), np.float16)
    codes[1, 0, 0] = np.nan
    scales = np.ones((3, 4))
    scales[2, 1] = np.inf
    found = wrong_frames(codes, scales, codec)
    assert found["NaN or a fill value"].tolist() == [False, True, False]
    assert found["a scale that is not finite"].tolist() == [False, False, True]
    assert not found["nothing but zeros"].any()


def test_labels_and_times_that_cannot_be_are_found(tmp_path):
    path = stores.make_store(tmp_path / "s")
    commit(path, labels=(0, 2, -3), pts=(0, 5, 5))
    found = words(path)
    assert "label 2 of 2 phases" in found
    assert "label -3" in found
    assert "time does not increase at frame 2" in found


def test_files_that_no_writer_makes_are_found(tmp_path):
    path = stores.make_store(tmp_path / "s")
    commit(path)
    assert words(path) == "1 clips, 0 problem(s)"
    strange = ["notes.txt", "calibration/x.bin", "calibration/sd/1/more", "manifest/a.txt"]
    strange += ["clips/file", "failed/b.md", "canary/x"]
    for name in strange:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("")
    (path / "link").symlink_to(tmp_path)
    found = words(path, deep=False)
    for name in [*strange, "link"]:
        assert f"{path / name}: does not belong here" in found
    (path / "clips/00").mkdir(exist_ok=True)
    (path / "clips/00/file").write_text("")
    assert "refused" in words(path, deep=False)


def test_a_damaged_log_is_mended_and_no_clip_is_lost(tmp_path):
    path = stores.make_store(tmp_path / "s")
    commit(path)
    (log,) = (path / "manifest").iterdir()
    whole = log.read_bytes()
    log.write_bytes(whole + whole.replace(b"clip_id", b"clip_ic") + whole[:20])
    assert "1 problem(s)" in words(path)
    assert mend_logs(path) == [log.name]
    assert log.read_bytes() == whole
    assert words(path) == "1 clips, 0 problem(s)"
    assert mend_logs(path) == []


def test_a_clip_committed_while_the_store_is_verified_is_no_problem(tmp_path, monkeypatch):
    path = stores.make_store(tmp_path / "s")
    committed_folders = integrity.committed_folders

    def and_one_more(path):
        keys = committed_folders(path)
        commit(path)
        return keys

    monkeypatch.setattr(integrity, "committed_folders", and_one_more)
    assert verify_store(path).problems == ()


@pytest.mark.parametrize(
    ("unit", "policy", "pts", "stops", "words"),
    [
        ("frame", "all", (0, 5, 5), (5, 8, 9), "time does not increase at frame 2"),
        ("frame", "uniform", (0, 5, 5), (5, 8, 9), None),  # repeats what the video lacks
        ("frame", "listed", (0, 5, 5), (5, 8, 9), None),
        ("scene", "all", (0, 5, 5), (5, 8, 9), None),
        ("scene", "all", (0, 5, 4), (5, 8, 9), "time does not increase at scene 2"),
        ("frame", "all", (0, 5, 5), None, "time does not increase at frame 2"),
        ("scene", "all", (0, 5, 5), None, "scene 1 does not end after its start"),
    ],
)
def test_times_that_repeat_are_wrong_where_the_units_are_frames_in_order(
    tmp_path, unit, policy, pts, stops, words
):
    identity, calibration = stores.make_identity()
    frames = {"policy": policy} | {"uniform": {"count": 3}, "listed": {"sha256": "0" * 64}}.get(
        policy, {}
    )
    changes = {"unit": unit, "frames": frames}
    identity = identity.model_copy(update=changes)
    path = create_store(tmp_path / "s", identity, made_with={}, calibration=calibration)
    with StoreWriter(path, writer_id="w") as writer:
        clip = stores.begin(writer, "a")
        stores.append(writer, clip, "a", 3)
        labels, flags = np.array([-1, 0, 1]), np.zeros(3, np.uint8)
        stop_pts = None if stops is None else np.array(stops)
        clip.commit(np.array(pts), np.arange(3), labels, flags, stop_pts=stop_pts)
    found = [problem.what for problem in verify_store(path, deep=True).problems]
    assert found == ([] if words is None else [words])
    assert verify_store(path).problems == ()


def test_the_frame_of_a_wrong_value_is_named_in_any_view_and_segment(tmp_path, monkeypatch):
    path = stores.make_store(tmp_path / "s", "fp16", views=2)
    with StoreWriter(path, writer_id="w") as writer:
        clip = stores.begin(writer, "a")
        stores.append(writer, clip, "a", 66)
        clip.append(1, *a_frame(writer, 0))
        clip.append(0, *a_frame(writer, 1))
        count = np.arange(67)
        clip.commit(count, count, count % 2, np.zeros(67, np.uint8))
    found = [problem.what for problem in verify_store(path, deep=True).problems]
    assert found == [f"view 1, block {block}, frame 66: nothing but zeros" for block in (1, 3)]
    read = Store.read_cls

    def with_nan(store, clip_id, frames, *, block, view):
        rows = read(store, clip_id, frames, block=block, view=view).copy()
        if frames.start and (block, view) == (3, 1):
            rows[1, 5] = np.nan
        return rows

    monkeypatch.setattr(Store, "read_cls", with_nan)
    told = [problem.what for problem in verify_store(path, deep=True).problems]
    assert [what for what in told if "CLS" in what] == ["view 1, block 3, frame 65: NaN in its CLS"]


def a_frame(writer, value):
    encoded, cls = {}, {}
    for block in stores.BLOCKS:
        tokens = np.full((1, 16, stores.DIM), value, np.float32)
        encoded[block] = writer.codec.encode(tokens, block=block, grid=stores.GRID)
        cls[block] = tokens[:, 0]
    return encoded, cls, cls[3]


def test_labels_of_a_clip_without_names_of_phases_may_be_any_number(tmp_path):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as writer:
        clip = writer.begin(
            stores.make_clip("a"),
            dataset="d",
            phases=(),
            source=stores.SOURCE,
            time_base=Fraction(1, 25),
        )
        stores.append(writer, clip, "a", 3)
        clip.commit(np.arange(3), np.arange(3), np.array([-1, 7, 0]), np.zeros(3, np.uint8))
    assert words(path) == "1 clips, 0 problem(s)"


@pytest.fixture
def store(tmp_path):
    """A store with a canary and two clips."""
    identity, calibration = stores.make_identity()
    path = tmp_path / "s"
    create_store(path, identity, made_with={}, calibration=calibration, canary=canary(0))
    with StoreWriter(path, writer_id="w") as writer:
        for name in ("a", "b"):
            stores.write_clip(writer, name, 3)
    assert verify_store(path, deep=True).problems == ()
    return path


def canary(seed: int):
    tokens = {block: stores.make_tokens("c", seed, block, 2) for block in stores.BLOCKS}
    return make_canary(canary_frames(16), tokens)


def test_a_canary_of_another_store_is_found(store, tmp_path):
    identity, calibration = stores.make_identity()
    other = tmp_path / "other"
    create_store(other, identity, made_with={}, calibration=calibration, canary=canary(1))
    shutil.rmtree(store / "canary")
    shutil.copytree(other / "canary", store / "canary")
    [problem] = verify_store(store).problems
    assert problem == Problem("", "the canary was altered", str(store / "canary"))
    shutil.rmtree(store / "canary")
    (store / "canary").mkdir()
    assert verify_store(store).table() == "(store): the canary was altered\n2 clips, 1 problem(s)"


def test_a_calibration_that_is_gone_is_damage_of_the_store(tmp_path):
    path = stores.make_store(tmp_path / "s", "pca:4+int8")
    shutil.rmtree(path / "calibration")
    report = verify_store(path)
    assert report.exit_status == 5
    assert "codec pca:4+int8: calibration" in report.table()


def test_tokens_are_read_where_the_check_is_deep_alone_and_a_log_is_no_part_of_a_clip(store):
    for log in (store / "manifest").iterdir():
        log.unlink()
    assert verify_store(store, deep=True).problems == ()
    shard = store / folder_of(clip_key("a")) / "views/0/tokens/1/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[300] ^= 1
    shard.write_bytes(data)
    assert verify_store(store).problems == ()
    assert verify_store(store, deep=True).repair == (clip_key("a"),)


def test_a_clip_whose_record_cannot_be_read_is_one_problem_of_a_deep_check_too(store):
    for log in (store / "manifest").iterdir():
        log.unlink()
    one, two = (store / folder_of(clip_key(name)) for name in "ab")
    (one / "zarr.json").write_text("{}")
    shutil.rmtree(two)
    two.write_text("a file in the place of a clip")
    for deep in (True, False):
        assert verify_store(store, deep=deep).repair == (clip_key("a"), clip_key("b"))


def test_a_clip_is_compared_with_its_line_in_the_log(store):
    [log] = (store / "manifest").iterdir()
    lines = log.read_bytes().splitlines()
    values = open_seal(json.loads(lines[0]), where=log)
    values["record"]["split"] = "test"
    log.write_bytes(canonical_json(seal(values)) + b"\n" + lines[1] + b"\n")
    where = str(store / folder_of(clip_key("a")))
    wanted = Problem("a", "its record is not the one in the log", where)
    assert verify_store(store).problems == (wanted,)


def test_a_clip_of_no_log_is_named_by_its_key_and_one_of_no_folder_by_its_log(store):
    one, two = (store / folder_of(clip_key(name)) for name in "ab")
    shutil.rmtree(two)
    (one / "views/0/tokens/1/c/0/0/0").unlink()
    report = verify_store(store)
    assert report.num_clips == 1
    assert report.problems[0] == Problem("b", "logged as committed, but missing", str(two))
    assert report.repair == ("a", "b")
    shutil.rmtree(store / "manifest")
    (store / "manifest").mkdir()
    report = verify_store(store)
    assert {problem.clip_id for problem in report.problems} == {clip_key("a")}
    assert report.repair == (clip_key("a"),)


def test_a_damaged_claim_and_a_damaged_failure_record_are_problems_of_the_store(store):
    (store / "claims" / "x.json").write_text("{")
    [problem] = verify_store(store).problems
    assert problem.what.endswith(": a claim of nobody, which --repair removes")
    assert (problem.clip_id, problem.where) == ("", str(store / "claims"))
    record_failure(store, "c", stage="decode", reason="torn", details={})
    [failure] = (store / "failed").iterdir()
    failure.write_bytes(failure.read_bytes().replace(b"torn", b"worn"))
    report = verify_store(store)
    assert report.num_clips == 0
    assert "delete this file, and its clip is tried again" in report.table()
    assert (report.repair, report.exit_status) == ((), 5)


def test_what_no_writer_leaves_is_found_and_what_a_kill_leaves_is_not(store, tmp_path):
    outside = tmp_path / "outside.jsonl"
    outside.write_text("")
    left = [".tmp-labels.json-1", ".tmp-sources.json-2", "manifest/.tmp-x", "claims/.tmp-y"]
    left += ["failed/.tmp-z", "clips/.tmp-q"]
    for name in left:
        (store / name).write_text("")
    assert verify_store(store).problems == ()
    wrong = [".tmp-recipe.json-3", "manifest/x.json", "claims/x.jsonl", "failed/x.jsonl"]
    for name in wrong:
        (store / name).write_text("")
    shutil.rmtree(store / "claims")
    (tmp_path / "elsewhere").mkdir()
    (store / "claims").symlink_to(tmp_path / "elsewhere")
    wrong = [name for name in wrong if not name.startswith("claims/")] + ["claims"]
    links = [".tmp-labels.json-4", "manifest/.tmp-l", "canary/l", "calibration/l"]
    for name in links:
        (store / name).symlink_to(outside)
    found = {problem.what for problem in verify_store(store).problems}
    assert found == {f"{store / name}: does not belong here" for name in (*wrong, *links)}


@pytest.mark.parametrize("deep", [True, False])
def test_what_is_no_store_or_cannot_be_read_now_is_an_error_and_no_report(
    store, tmp_path, monkeypatch, deep
):
    with pytest.raises(StoreNotFound):
        verify_store(tmp_path / "nothing", deep)

    def limit(path):
        raise MachineError("too many open files")

    monkeypatch.setattr(integrity, "committed_folders", limit)
    with pytest.raises(MachineError, match="too many open files"):
        verify_store(store, deep)


def test_the_status_is_of_the_worst_and_the_advice_of_what_changed(monkeypatch):
    problem = Problem("b", "x", "/s"), Problem("", "y", "/s"), Problem("a", "z", "/s")
    gone = SourceCheck(1, missing=((None, ""),))
    monkeypatch.setattr(SourceCheck, "lines", lambda self: ["l"])
    monkeypatch.setattr(SourceCheck, "summary", lambda self: "s")
    assert VerifyReport(1, problem, gone).exit_status == 5
    assert VerifyReport(1, problem).repair == ("a", "b")
    assert [VerifyReport(1, (), found).exit_status for found in (gone, None)] == [3, 0]
    assert VerifyReport(1, (), gone).table() == "1 clips, 0 problem(s)\nl\nvideos: s"
    changed = VerifyReport(1, problem, SourceCheck(1, changed=(None,))).table().splitlines()
    assert changed[:4] == ["b: x", "(store): y", "a: z", "1 clips, 3 problem(s)"]
    assert "--changed replace" in changed[-1]
