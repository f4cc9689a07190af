"""Embedding a store with a trained run: what is damaged, what is there already, what is said."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings
from tokenreel.cache.errors import ClipFailed, Damaged, UsageError, WrongIdentity
from tokenreel.cache.read.store_reader import open_store
from tokenreel.fuse.embed.attend import attend
from tokenreel.fuse.embed.embed import embed_run, with_values
from tokenreel.fuse.systems.base import Embedded
from tokenreel.fuse.train.train import train

CPU = torch.device("cpu")


def embed(run, store, out):
    return embed_run(run, store, out, device=CPU, progress=False)


def damage(store, *clips):
    """Turn a byte of the tokens of some clips of a store."""
    for clip in clips:
        parts = (store / "clips").glob(f"*/{clip}-*/views/0/tokens/3/c/**/*")
        part = next(path for path in sorted(parts) if path.is_file())
        whole = bytearray(part.read_bytes())
        whole[len(whole) // 3] ^= 0xFF
        part.write_bytes(whole)


def test_a_damaged_clip_is_left_out_and_told_and_the_others_are_as_ever(run, tmp_path):
    store = write_store(tmp_path / "s")
    assert embed(run, store, tmp_path / "whole.h5") == []
    damage(store, "train1")

    [told] = embed(run, store, tmp_path / "rest.h5")

    assert told.startswith("train1: ")
    assert "damaged" in told
    whole, rest = (read_embeddings(tmp_path / name) for name in ("whole.h5", "rest.h5"))
    assert rest.provenance["left_out"] == {"act": [told]}
    assert "left_out" not in whole.provenance
    others = [clip for clip in whole.clips if clip.clip_id != "train1"]
    for one, same in zip(rest.clips, others, strict=True):
        assert one.clip_id == same.clip_id
        np.testing.assert_array_equal(one.embeddings, same.embeddings)


def test_a_store_without_a_sound_clip_leaves_no_file(run, tmp_path):
    store = write_store(tmp_path / "s", train=1, val=1)
    damage(store, "train0", "val0")
    with pytest.raises(Damaged, match=r"every clip is damaged; run verify"):
        embed(run, store, tmp_path / "e.h5")
    assert not (tmp_path / "e.h5").exists()


def test_training_does_not_end_as_done_where_a_clip_cannot_be_embedded(tmp_path):
    store = write_store(tmp_path / "s")
    damage(store, "val0")
    with pytest.raises(Damaged, match="val0"):
        train(tiny_config(), store=store, out=tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run/embeddings.h5").exists()


def test_what_is_no_embedding_file_is_not_replaced(run, store, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"a film")
    with pytest.raises(UsageError, match=r"film\.mp4 is there and is no embedding file"):
        embed(run, store, tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_bytes() == b"a film"
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="folder is there and is no embedding file"):
        embed(run, store, tmp_path / "folder")
    embed(run, store, tmp_path / "e.h5")
    first = (tmp_path / "e.h5").read_bytes()
    embed(run, store, tmp_path / "e.h5")
    assert (tmp_path / "e.h5").read_bytes() == first


def test_the_file_of_a_run_that_is_not_done_says_where_it_is(store, tmp_path):
    train(tiny_config(), store=store, out=tmp_path / "run", device="cpu", progress=False)
    embed(tmp_path / "run", store, tmp_path / "done.h5")
    assert "unfinished" not in read_embeddings(tmp_path / "done.h5").provenance
    state = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    torch.save(state | {"position": [2, 1]}, tmp_path / "run/checkpoint.pt")

    embed(tmp_path / "run", store, tmp_path / "early.h5")

    about = read_embeddings(tmp_path / "early.h5").provenance
    assert about["unfinished"] == "at epoch 2, step 1 of 4 epochs"


def test_the_attention_of_a_damaged_clip_is_told_and_the_next_one_is_drawn(run, tmp_path):
    store = write_store(tmp_path / "s")
    damage(store, "train1")
    failed, found = attend(run, open_store(store), ["train1", "val0"], device=CPU)
    assert isinstance(failed, ClipFailed)
    assert (failed.clip_id, failed.stage) == ("train1", "read")
    assert found.record.clip_id == "val0"


def test_weights_are_compared_by_their_hash_and_not_by_the_name_of_their_file(run, tmp_path):
    store = write_store(tmp_path / "s", weights_sha256="1" * 64)
    told = r"other tokens than s holds:\n  weights_sha256: run has '0{64}', store has '1{64}'\n"
    with pytest.raises(WrongIdentity, match=told):
        embed(run, store, tmp_path / "e.h5")
    with pytest.raises(WrongIdentity, match=told):
        attend(run, open_store(store), ["val0"], device=CPU)
    config = tiny_config(init=str(run))
    with pytest.raises(WrongIdentity, match=told):
        train(config, store=store, out=tmp_path / "second", device="cpu", progress=False)
    assert not (tmp_path / "second").exists()


def test_another_backbone_is_refused_and_other_frames_are_warned_of(run, tmp_path, caplog):
    with pytest.raises(WrongIdentity, match=r"architecture: run has 'tiny', store has 'other'"):
        embed(run, write_store(tmp_path / "a", architecture="other"), tmp_path / "e.h5")
    embed(run, write_store(tmp_path / "b", image_size=(96, 96)), tmp_path / "e.h5")
    assert "prepared in another way than those of b: image_size" in caplog.text
    embed(run, write_store(tmp_path / "c", codec="fp16"), tmp_path / "e.h5")
    assert "of c" not in caplog.text


def test_blocks_of_the_same_width_are_not_taken_for_others(run, tmp_path):
    more = write_store(tmp_path / "more", blocks=(1, 3, 5))
    pooling = tiny_config().pooling.with_(blocks=(1, 5))
    config = tiny_config(pooling=pooling, init=str(run))
    with pytest.raises(
        WrongIdentity, match=r"it has \[1, 3\], asked \[1, 5\]\nset .*blocks=1,3 if"
    ):
        train(config, store=more, out=tmp_path / "second", device="cpu", progress=False)
    assert not (tmp_path / "second").exists()


def test_a_file_of_embeddings_says_all_that_its_tokens_are(run, store, tmp_path):
    embed(run, store, tmp_path / "e.h5")
    about = read_embeddings(tmp_path / "e.h5").provenance
    assert about["store_identity"] == open_store(store).identity.model_dump(mode="json")


def test_a_run_of_a_version_that_recorded_less_is_told_with_its_commit(run, store, tmp_path):
    about = json.loads((run / "run.json").read_text())
    del about["store_identity"]
    (tmp_path / "run.json").write_text(json.dumps(about | {"commit": "abc123"}))
    with pytest.raises(Damaged, match=r"json: no store_identity; use the .* \(commit abc123\)"):
        embed(tmp_path, store, tmp_path / "e.h5")


def test_a_run_that_could_not_begin_leaves_no_folder_in_the_way(run, store, tmp_path):
    config = tiny_config(loss=tiny_config().loss.with_(projection_hidden=3))
    wrong = config.with_(init=str(run))
    with pytest.raises(WrongIdentity, match="of another model"):
        train(wrong, store=store, out=tmp_path / "second", device="cpu", progress=False)
    assert not (tmp_path / "second").exists()
    (tmp_path / "second").mkdir()
    (tmp_path / "second/notes.txt").touch()
    with pytest.raises(WrongIdentity, match="of another model"):
        train(wrong, store=store, out=tmp_path / "second", device="cpu", progress=False)
    assert [path.name for path in (tmp_path / "second").iterdir()] == ["notes.txt"]
    train(config, store=store, out=tmp_path / "second", device="cpu", progress=False)


def test_a_run_is_not_made_in_a_store(tmp_path):
    store = write_store(tmp_path / "s")
    before = sorted(store.iterdir())
    with pytest.raises(UsageError, match="s is a store, a run is another folder"):
        train(tiny_config(), store=store, out=store, device="cpu", progress=False)
    assert sorted(store.iterdir()) == before


@pytest.mark.parametrize("changed", [{"model": [1]}, {"position": None}], ids=str)
def test_a_checkpoint_of_other_kinds_of_values_is_damaged(store, run, tmp_path, changed):
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save(state | changed, tmp_path / "checkpoint.pt")
    with pytest.raises(
        Damaged, match=rf"checkpoint\.pt: a checkpoint without {next(iter(changed))}"
    ):
        embed(tmp_path, store, tmp_path / "e.h5")


def test_an_embedding_of_a_whole_clip_has_its_one_label_and_first_time():
    about = EmbeddedClip(
        clip_id="a",
        split="val",
        action="",
        group="",
        embeddings=np.empty((3, 0), np.float32),
        labels=np.array([2, 2, 2], np.int16),
        times_seconds=np.array([4.0, 5.0, 6.0]),
        frame_index=np.array([7, 8, 9]),
    )
    made = Embedded(np.ones((1, 5), np.float32), of_clip=True)
    clip = with_values(about, made)
    assert (clip.labels.tolist(), clip.times_seconds.tolist()) == ([2], [4.0])
    assert clip.frame_index.tolist() == [7]
    several = replace(about, labels=np.array([0, 1, 1], np.int16))
    assert with_values(several, made).labels.tolist() == [-1]
