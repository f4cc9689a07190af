"""Messages that say what is wrong, what was given and what to type next."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.clips import labelled_clips, write_run
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import EmbeddingFileError, StoreNotFound, UsageError, WrongIdentity
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.copying import merge_store, recode_store
from tokenreel.pipeline.defaults import find_runs, find_store
from tokenreel.pipeline.phases.attention import attend_clips

GOLDEN = Path(__file__).parents[2] / "golden"


def unfinished_run(path, *, done=10, epochs=30, **about):
    path.mkdir(parents=True)
    config = {"optim": {"epochs": epochs}}
    (path / "run.json").write_text(json.dumps({"config": config, **about}))
    lines = [json.dumps({"epoch": epoch, "loss": 1.0}) for epoch in range(done)]
    (path / "metrics.jsonl").write_text("\n".join(lines))
    return path


def test_an_unfinished_run_says_where_it_stopped_and_what_to_type(tmp_path):
    run = unfinished_run(tmp_path / "run")
    with pytest.raises(UsageError) as told:
        find_runs([run])
    stopped = "this run stopped at epoch 10 of 30: type its `fuse train` again"
    assert str(told.value) == f"{run}: {stopped}"
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UsageError, match="this run is not finished: type its `fuse train` again"):
        find_runs([run])


def test_unfinished_runs_of_a_folder_are_told_and_the_others_used(tmp_path, caplog):
    whole = write_run(tmp_path / "whole", labelled_clips())
    unfinished_run(tmp_path / "half", done=3)
    assert find_runs([tmp_path]) == [whole]
    assert f"left out: {tmp_path / 'half'}: this run stopped at epoch 3 of 30" in caplog.text


def test_a_store_given_as_a_run_and_a_run_given_as_a_store(tmp_path):
    store = GOLDEN / "store_v1"
    with pytest.raises(UsageError, match="is a token store, not a run: type `evaluate frozen "):
        find_runs([store])
    run = unfinished_run(tmp_path / "run", store_name="sample-vit")
    with pytest.raises(StoreNotFound, match="this is a run, not a store; its store is sample-vit"):
        open_store(run)
    (run / "run.json").write_text("[")
    with pytest.raises(StoreNotFound, match="this is a run, not a store: name the store"):
        open_store(run)


def test_a_file_and_a_folder_of_stores_given_as_a_store(tmp_path):
    file = tmp_path / "x.h5"
    file.touch()
    with pytest.raises(StoreNotFound, match="this is a file; a token store is a folder"):
        open_store(file)
    with pytest.raises(
        StoreNotFound, match="this folder holds stores, name one: store_v1, store_v"
    ):
        open_store(GOLDEN)
    with pytest.raises(StoreNotFound, match="no token store here"):
        open_store(tmp_path)


def test_stores_of_two_codecs_are_merged_by_migrating_first(tmp_path):
    source = GOLDEN / "store_v1"
    codec = open_store(source).identity.codec["name"]
    other = "int4" if codec != "int4" else "int8"
    recode_store(source, tmp_path / "other", codec=other)
    with pytest.raises(WrongIdentity) as told:
        merge_store(source, tmp_path / "other")
    assert str(told.value) == (
        f"different codecs ({codec}, {other}): `tokenreel store migrate {source} NEW --codec "
        f"{other}` first, then merge NEW"
    )


def test_stores_of_other_settings_are_no_matter_of_out(tmp_path):
    with pytest.raises(WrongIdentity) as told:
        merge_store(GOLDEN / "store_v2", GOLDEN / "store_v1")
    assert "only stores of the same settings can be merged" in str(told.value)
    assert "--out" not in str(told.value)


def test_text_labels_and_object_arrays_say_what_to_write(tmp_path):
    frames = {"embeddings": np.ones((4, 2), np.float32), "lengths": [2, 2], "split": ["val"] * 2}
    np.savez(tmp_path / "text.npz", clip_id=["a", "b"], labels=["up"] * 4, **frames)
    with pytest.raises(EmbeddingFileError, match=r"labels are text: give numbers from 0.*phases"):
        read_embeddings(tmp_path / "text.npz")
    ids = np.array(["a", "b"], dtype=object)
    np.savez(tmp_path / "object.npz", clip_id=ids, **frames)
    wanted = r"clip_id is an object array: save np.array\(clip_id, dtype=str\)"
    with pytest.raises(EmbeddingFileError, match=wanted):
        read_embeddings(tmp_path / "object.npz")


def test_a_store_that_is_not_here_says_where_here_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = unfinished_run(tmp_path / "run", store_name="sample-vit")
    with pytest.raises(UsageError) as told:
        list(attend_clips(run, ["clip"]))
    assert str(told.value) == (
        f"{run} was trained on sample-vit: its store is not in ./stores (you are in {tmp_path}): "
        "add --store PATH"
    )
    with pytest.raises(UsageError, match=rf"no store of sample in stores/ \(you are in {tmp_path}"):
        find_store("sample")
    with pytest.raises(UsageError, match=rf"no run in runs/ \(you are in {tmp_path}\)"):
        find_runs([])
