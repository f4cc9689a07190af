"""Renewed labels and replaced clips of a store: runs made before are told apart."""

import json
import logging
import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.embeddings import read_embeddings, read_provenance
from tokenreel.cache.errors import UsageError, WrongIdentity
from tokenreel.cache.format.clip import SourceInfo
from tokenreel.cache.format.relabelled import relabel, write_relabelled
from tokenreel.cache.format.source_notes import add_notes
from tokenreel.cache.manifest import Clip
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.evaluate.commands.frozen import pool_store
from tokenreel.fuse.embed.embed import embed_run
from tokenreel.fuse.train.train import train
from tokenreel.pipeline.defaults import store_of_run, videos_of_store
from tokenreel.pipeline.phases.attention import attend_clips
from tokenreel.pipeline.phases.evaluation import changed_stores

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store, and a run and frozen features of it."""
    folder = tmp_path_factory.mktemp("made")
    write_store(folder / "store", train=3, val=2)
    config = tiny_config(optim=tiny_config().optim.with_(epochs=1))
    train(config, store=folder / "store", out=folder / "run", device="cpu", progress=False)
    pool_store(folder / "store", folder / "frozen", pools=["max"], progress=False)
    return folder


@pytest.fixture
def work(made, tmp_path):
    """A copy of its own."""
    shutil.copytree(made, tmp_path / "work")
    about = json.loads((tmp_path / "work/run/run.json").read_bytes())
    about["store_path"] = str(tmp_path / "work/store")
    (tmp_path / "work/run/run.json").write_text(json.dumps(about))
    return tmp_path / "work"


def rename_phases(store):
    own = open_store(store).record("train0")
    fields = {name: getattr(own, name) for name in ("split", "action", "group", "tags")}
    labels = open_store(store).labels("train0")
    other = relabel(own, {**fields, "phases": ("up", "down")}, labels)
    write_relabelled(store, {"train0": other})


def replace_clip(store):
    held = open_store(store)
    own, tokens = held.record("val1"), held.read("val1")
    cls = {b: held.read_cls("val1", block=b) for b in tokens.codes}
    with StoreWriter(store, writer_id="again") as writer:
        clip = writer.begin(
            Clip("val1", own.video, split="val", action="act"),
            dataset="tiny",
            phases=own.phases,
            source=replace(SourceInfo.from_dict(own.source), sha256="1" * 64),
            time_base=Fraction(1, 25),
            replaces=own,
        )
        encoded = {b: tokens.encoded(b) for b in tokens.codes}
        clip.append(0, encoded, cls, held.read_cls("val1"))
        count = np.arange(own.num_frames)
        clip.commit(count, count, held.labels("val1"), np.zeros(own.num_frames, np.uint8))


CHANGES = [(rename_phases, "other labels"), (replace_clip, "other clips: videos were replaced")]


@pytest.mark.parametrize(("change", "what"), CHANGES)
def test_a_run_made_before_is_told_by_train_embed_and_evaluate(work, caplog, change, what):
    store, run = work / "store", work / "run"
    files = [run / "embeddings.h5", work / "frozen/frozen-max/embeddings.h5"]
    assert changed_stores(files) == []
    change(store)
    config = tiny_config(optim=tiny_config().optim.with_(epochs=1))
    if change is replace_clip:
        with pytest.raises(WrongIdentity, match=f"{what}.*`fuse embed RUN --store STORE`"):
            train(config, store=store, out=run, device="cpu", progress=False)
    else:  # the run learns from no labels: it stays, and its file has those of before
        with caplog.at_level(logging.WARNING):
            assert train(config, store=store, out=run, device="cpu", progress=False).was_done
        assert f"the store has since {what}" in caplog.text
    (line,) = changed_stores(files)
    assert line.startswith(f"{files[0]}: since it was made, {store} has {what}")
    with caplog.at_level(logging.WARNING):
        embed_run(run, store, work / "new.h5", device=CPU, progress=False)
    assert f"since it was trained, store has {what}" in caplog.text
    held, new = read_provenance(files[0]), read_provenance(work / "new.h5")
    kept = {"store_clips_sha256", "store_labels_sha256"}
    assert len({name for name in kept if held[name] != new[name]}) == 1
    assert "store_path" not in new  # of this machine


def test_embeddings_made_after_have_the_new_labels(work):
    rename_phases(work / "store")
    embed_run(work / "run", work / "store", work / "new.h5", device=CPU, progress=False)
    held = {clip.clip_id: clip for clip in read_embeddings(work / "new.h5").clips}
    assert held["train0"].phases == ("up", "down")
    assert held["train1"].phases == ("a", "b")
    (file,) = pool_store(work / "store", work / "frozen", pools=["max"], progress=False)
    frozen = {clip.clip_id: clip for clip in read_embeddings(file).clips}
    assert frozen["train0"].phases == ("up", "down")  # the former file was made again


def test_files_made_before_and_after_are_told_apart_without_the_store(work):
    rename_phases(work / "store")
    embed_run(work / "run", work / "store", work / "new.h5", device=CPU, progress=False)
    shutil.rmtree(work / "store")
    (line,) = changed_stores([work / "run/embeddings.h5", work / "new.h5"])
    assert line.endswith("were made with different labels of one store")


def test_the_store_of_a_run_is_found_where_it_was_and_is_checked(work):
    about = read_provenance(work / "run/embeddings.h5")
    assert store_of_run(work / "run", about) == work / "store"
    assert store_of_run(work / "run", about | {"store_fingerprint": "other"}) is None
    (work / "run/run.json").write_text("[")
    assert store_of_run(work / "run", about) is None
    shutil.rmtree(work / "store")
    (work / "run/run.json").write_text(json.dumps(about))
    with pytest.raises(
        UsageError, match=r"its store is not in \./stores \(you are in .*: add --store"
    ):
        list(attend_clips(work / "run", ["train0"]))


def test_videos_are_looked_for_where_they_were_unless_a_root_is_named(tmp_path):
    store = write_store(tmp_path / "store", train=1, val=1)
    assert str(videos_of_store(store)) == "data/tiny"
    (tmp_path / "videos").mkdir()
    add_notes(store, root=str(tmp_path / "videos"))
    assert videos_of_store(store) == videos_of_store(open_store(store)) == tmp_path / "videos"
    assert videos_of_store(store, tmp_path) == tmp_path
    (tmp_path / "videos").rmdir()
    assert str(videos_of_store(store)) == "data/tiny"
