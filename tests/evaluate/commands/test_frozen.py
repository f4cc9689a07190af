"""`evaluate frozen`: tokens pooled by hand, standardised by the training clips."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.clips import make_clip
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import StoreError, UsageError
from tokenreel.cache.format.clip import folder_of
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.copying import upgrade_store
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.evaluate.commands import frozen
from tokenreel.evaluate.commands.frozen import pool_store
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig

_spec = importlib.util.spec_from_file_location(
    "stores", Path(__file__).parents[2] / "cache/stores.py"
)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


@pytest.fixture
def store(tmp_path):
    path = stores.make_store(tmp_path / "store")
    with StoreWriter(path, writer_id="test") as writer:
        for clip_id in ("t0", "t1", "v0", "v1"):
            stores.write_clip(writer, clip_id, frames=70)
    return path


def test_each_pool_is_that_of_the_decoded_tokens(store, tmp_path):
    files = pool_store(store, tmp_path / "out", blocks=(3,), progress=False)
    assert [path.parent.name for path in files] == ["frozen-max", "frozen-mean", "frozen-cls"]
    recipes = [read_embeddings(path).provenance["recipe"] for path in files]
    assert recipes == ["frozen-max block=3", "frozen-mean block=3", "frozen-cls"]
    opened = open_store(store)
    pools = {
        "max": lambda clip: opened.read(clip).decode(3).max(axis=1),
        "mean": lambda clip: opened.read(clip).decode(3).mean(axis=1),
        "cls": lambda clip: opened.read_cls(clip),
    }
    for path, pool in zip(files, pools.values(), strict=True):
        raw = {record.clip_id: pool(record.clip_id) for record in opened.records.values()}
        train = np.concatenate([raw["t0"], raw["t1"]])
        clips = read_embeddings(path).clips
        assert [clip.split for clip in clips] == ["train", "train", "val", "val"]
        for clip in clips:
            standard = (raw[clip.clip_id] - train.mean(0)) / train.std(0)
            wanted = standard / np.linalg.norm(standard, axis=1, keepdims=True)
            np.testing.assert_allclose(clip.embeddings, wanted, atol=1e-4)
            np.testing.assert_array_equal(clip.labels, opened.labels(clip.clip_id))


def test_several_blocks_lie_side_by_side_and_unknown_ones_are_refused(store, tmp_path):
    files = pool_store(store, tmp_path / "out", blocks=(1, 3), progress=False)
    assert read_embeddings(files[0]).clips[0].embeddings.shape == (70, 2 * stores.DIM)
    assert read_embeddings(files[2]).clips[0].embeddings.shape == (70, stores.DIM)
    with pytest.raises(UsageError, match=r"holds blocks \(1, 3\), not \[2\]"):
        pool_store(store, tmp_path / "out", blocks=(2,), progress=False)


def test_pooled_files_are_used_again_and_made_anew_for_other_blocks(store, tmp_path, monkeypatch):
    pool_store(store, tmp_path / "out", progress=False)
    monkeypatch.setattr(frozen, "_pool_clip", None)
    pool_store(store, tmp_path / "out", progress=False)
    with pytest.raises(TypeError):
        pool_store(store, tmp_path / "out", blocks=(1,), progress=False)


def test_pooled_files_of_a_store_are_used_for_the_one_migrated_from_it(tmp_path, monkeypatch):
    golden = Path(__file__).parents[2] / "golden" / "store_v1"
    upgrade_store(golden, tmp_path / "new")
    pool_store(golden, tmp_path / "out", progress=False)
    monkeypatch.setattr(frozen, "_pool_clip", None)
    pool_store(tmp_path / "new", tmp_path / "out", progress=False)


def test_the_pooled_files_are_evaluated_as_any_run(store, tmp_path):
    files = pool_store(store, tmp_path / "out", progress=False)
    report = evaluate_files(files, config=EvaluateConfig(), out=tmp_path / "tables", progress=False)
    found = {score.run for score in report.scores if score.task == "classification"}
    assert found == {"frozen-max", "frozen-mean", "frozen-cls", "clock"}


def test_a_part_of_the_pools_is_made_and_says_what_is_given(store, tmp_path):
    further = {"mean": {"recipe": "frozen-mean", "evaluate": {"protocol": "finegym"}}}
    [file] = pool_store(
        store, tmp_path / "out", pools=("mean",), provenance=further, progress=False
    )
    about = read_embeddings(file).provenance
    assert (about["recipe"], about["evaluate"]) == ("frozen-mean", {"protocol": "finegym"})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["frozen-mean"]


def test_the_unit_and_the_tags_of_a_store_are_in_the_file(tmp_path):
    path = Path(__file__).parents[2] / "golden/store_v2"
    for made in pool_store(path, tmp_path, progress=False):
        file = read_embeddings(made)
        assert (file.unit, file.class_names) == ("scene", ("comedy", "war"))
        assert [clip.targets.tolist() for clip in file.clips] == [[1, 1]]


def test_without_blocks_all_of_the_store_are_pooled(store, tmp_path):
    every = pool_store(store, tmp_path / "every", progress=False)
    both = pool_store(store, tmp_path / "both", blocks=(1, 3), progress=False)
    for one, other in zip(every, both, strict=True):
        assert one.read_bytes() == other.read_bytes()


def damage(store, clip_id):
    """Change a byte of the tokens of a clip."""
    folder = store / folder_of(open_store(store).record(clip_id).key)
    shard = max((path for path in folder.rglob("*") if path.is_file()), key=_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)


def _size(path):
    return path.stat().st_size


def test_a_damaged_clip_is_left_out_told_and_pooled_again_once_it_is_sound(store, tmp_path):
    kept = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    damage(store, "v1")
    files = pool_store(store, tmp_path / "out", progress=False)
    file = read_embeddings(files[0])
    assert [clip.clip_id for clip in file.clips] == ["t0", "t1", "v0"]
    [[reason]] = file.provenance["left_out"].values()
    assert reason.startswith("v1: ")
    report = evaluate_files(files, config=EvaluateConfig(), out=tmp_path / "tables", progress=False)
    assert report.exit_status == 3
    assert any("v1: " in problem for problem in report.problems)
    for path, data in kept.items():
        path.write_bytes(data)
    [again, *_] = pool_store(store, tmp_path / "out", progress=False)
    assert len(read_embeddings(again).clips) == 4


def test_a_store_without_a_sound_clip_is_refused(store, tmp_path):
    for clip_id in ("t0", "t1", "v0", "v1"):
        damage(store, clip_id)
    with pytest.raises(StoreError, match="every clip is damaged; run verify, then repair"):
        pool_store(store, tmp_path / "out", progress=False)


def test_channels_that_never_change_and_frames_at_the_mean_are_zeros():
    clip = make_clip("t", "train", frames=3)
    values = np.array([[1, 5, 0], [3, 5, 0], [2, 5, 0]], np.float32)
    other = replace(clip, clip_id="v", split="val", embeddings=values + np.float32(2))
    first, second = frozen.standardise([replace(clip, embeddings=values), other])
    assert first.embeddings.tolist() == [[-1, 0, 0], [1, 0, 0], [0, 0, 0]]
    sd = (2 / 3) ** 0.5  # of the training clip alone
    wanted = np.array([[1 / sd, 2, 2], [3 / sd, 2, 2], [2 / sd, 2, 2]])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(second.embeddings, wanted, rtol=1e-6)


def test_the_normed_cls_is_pooled_and_a_store_without_cls_has_two_pools(store, tmp_path):
    opened = open_store(store)
    pooled = frozen._pool_clip(opened, opened.record("t0"), (3,), ("cls",))["cls"]
    wanted = stores.make_tokens("t0", 0, 3, 70)[:, 0] * 2
    np.testing.assert_allclose(pooled, wanted, rtol=2e-3, atol=1e-3)
    identity, calibration = stores.make_identity()
    bare = identity.model_copy(update={"cls": "none"})
    path = create_store(tmp_path / "bare", bare, made_with={}, calibration=calibration)
    with StoreWriter(path, writer_id="test") as writer:
        clip = stores.begin(writer, "t0")
        tokens = {block: stores.make_tokens("t0", 0, block, 3) for block in stores.BLOCKS}
        encoded = {
            block: writer.codec.encode(values, block=block, grid=stores.GRID)
            for block, values in tokens.items()
        }
        clip.append(0, encoded, {}, None)
        count = np.arange(3)
        clip.commit(count, count, count % 2, np.zeros(3, np.uint8))
    files = pool_store(path, tmp_path / "out", progress=False)
    assert [file.parent.name for file in files] == ["frozen-max", "frozen-mean"]


def test_pooled_files_are_current_for_the_same_store_labels_and_videos_alone(store, tmp_path):
    [file] = pool_store(store, tmp_path / "out", pools=("max",), progress=False)
    opened = open_store(store)
    about = frozen._provenance(opened, "max", (1, 3))
    assert about["store_labels_sha256"] == opened.labels_sha256
    assert frozen._is_current(file, about)
    assert frozen._is_current(file, about | {"store_name": "renamed"})
    for name in ("store_fingerprint", "store_labels_sha256", "store_clips_sha256"):
        assert not frozen._is_current(file, about | {name: "0" * 64})
    record = opened.record("t0")
    opened.records["t0"] = replace(record, source={**record.source, "sha256": "1" * 64})
    again = frozen._provenance(opened, "max", (1, 3))
    assert again["store_clips_sha256"] != about["store_clips_sha256"]
