"""A run as a folder: plain torch, without this package, gives the embeddings of the run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.fuse.tiny import tiny_config, write_store
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import Damaged, UsageError, WrongIdentity
from tokenreel.cache.format.store_files import create_twin
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.read.store_set import StoreSet
from tokenreel.fuse.config import CrossEntropyConfig, OptimConfig
from tokenreel.fuse.config.model import ClsConfig, LstpConfig
from tokenreel.fuse.embed import export as of_model
from tokenreel.fuse.runs.provenance import describe_stores
from tokenreel.fuse.systems.stan.config import StanConfig
from tokenreel.fuse.train.train import train
from tokenreel.pipeline.apply import export
from tokenreel.pipeline.apply.export import export_run

FORMAT_1 = Path(__file__).parents[2] / "golden" / "format1"

PLAIN_TORCH = """
import sys

sys.modules["tokenreel"] = None  # whoever imports it fails
import numpy as np
import torch

model = torch.export.load(sys.argv[1] + "/program.pt2").module()
given = np.load(sys.argv[2])
clips = sorted({name.split("|")[0] for name in given.files})
out = {}
for clip in clips:
    inputs = {name.split("|")[1]: torch.from_numpy(given[name]) for name in given.files
              if name.split("|")[0] == clip}
    out[clip] = model(**inputs).detach().numpy()
np.savez(sys.argv[3], **out)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store of two actions with a codec that has arrays, and a run on it."""
    folder = tmp_path_factory.mktemp("export")
    store = write_store(folder / "s", codec="pca:4+int8", actions=("run `x`", "jump"), train=6)
    run = folder / "run"
    config = tiny_config(pooling=LstpConfig(num_entities=2, channels=8, num_dynamic=1))
    train(config, store=store, out=run, device="cpu", progress=False)
    return store, run


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    path, run = trained
    return export_run(run, tmp_path_factory.mktemp("exported") / "out", store=path)


@pytest.fixture
def no_program(monkeypatch):
    """The program takes most of the time of an export."""
    monkeypatch.setattr(of_model, "_program", lambda portable: b"program")


def inputs_of(store, clip, names):
    tokens = store.read(clip)
    floats = [tokens.decode(block) for block in store.identity.blocks]
    every = {"tokens": np.concatenate(floats, axis=-1), "cls": store.read_cls(clip)}
    return {name: every[name].astype(np.float32) for name in names}


def test_plain_torch_gives_the_embeddings_of_the_run_for_every_length(trained, exported, tmp_path):
    path, run = trained
    store = open_store(path)
    clips = read_embeddings(run / "embeddings.h5").clips
    assert len({len(clip.embeddings) for clip in clips}) > 3
    given = {
        f"{clip.clip_id}|{name}": value
        for clip in clips
        for name, value in inputs_of(store, clip.clip_id, ("tokens", "cls")).items()
    }
    np.savez(tmp_path / "in.npz", **given)
    command = [
        sys.executable,
        "-c",
        PLAIN_TORCH,
        exported,
        tmp_path / "in.npz",
        tmp_path / "out.npz",
    ]
    subprocess.run(list(map(str, command)), check=True, cwd=tmp_path)
    made = np.load(tmp_path / "out.npz")
    for clip in clips:
        np.testing.assert_allclose(made[clip.clip_id], clip.embeddings, atol=1e-5)


def test_the_folder_has_weights_identity_calibration_and_probes(trained, exported):
    (path, run), out = trained, exported
    assert sorted(file.name for file in out.iterdir()) == [
        "README.md",
        "calibration.safetensors",
        "config.json",
        "identity.json",
        "probe.safetensors",
        "program.pt2",
        "weights.safetensors",
    ]
    identity = open_store(path).identity
    assert json.loads((out / "identity.json").read_bytes()) == identity.model_dump(mode="json")
    assert {name.split("/")[0] for name in load_file(out / "calibration.safetensors")} == {
        "mean",
        "pca_basis",
        "pca_sd",
        "sd",
    }
    assert load_file(out / "weights.safetensors")["pooling.queries"].shape == (2, 8)
    card = (out / "README.md").read_text()
    assert "`tokens` (T, 6, 16)" in card
    assert "- `run x`: `a`, `b`" in card

    probe = load_file(out / "probe.safetensors")
    clips = [clip for clip in read_embeddings(run / "embeddings.h5").clips if clip.split == "train"]
    right = []
    for clip in clips:
        weight, bias, classes = (
            probe[f"{clip.action}/{name}"] for name in ("weight", "bias", "classes")
        )
        found = classes[(clip.embeddings @ weight.T + bias).argmax(axis=1)]
        right.append((found == clip.labels).mean())
    assert np.mean(right) > 0.8  # chance is 0.5


def test_one_action_is_not_judged_by_the_probe_of_another(exported):
    probe = load_file(exported / "probe.safetensors")
    assert not np.allclose(probe["jump/weight"], probe["run `x`/weight"])


def test_a_pooling_without_tokens_takes_cls_vectors_alone_and_no_labels_make_no_probe(tmp_path):
    path = write_store(tmp_path / "s", labelled=False)
    config = tiny_config(pooling=ClsConfig())
    train(config, store=path, out=tmp_path / "run", device="cpu", progress=False)
    out = export_run(tmp_path / "run", tmp_path / "out", store=path)
    card = (out / "README.md").read_text()
    assert "model(cls=cls)" in card
    assert "- `cls` (T, 8)" in card
    assert "probe" not in card
    assert not (out / "probe.safetensors").exists()


def test_a_folder_that_is_there_and_a_run_without_embeddings_are_refused(trained, tmp_path):
    path, run = trained
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="is there: name a new folder"):
        export_run(run, tmp_path / "there", store=path)
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "embeddings.h5").unlink()
    with pytest.raises(UsageError, match="type its `fuse train` again"):
        export_run(tmp_path / "run", tmp_path / "out", store=path)
    assert not (tmp_path / "out").exists()


def test_the_same_run_gives_the_same_bytes_but_for_the_program(trained, exported, tmp_path):
    path, run = trained
    again = export_run(run, tmp_path / "again", store=path)
    for file in exported.iterdir():
        if file.suffix != ".pt2":
            assert file.read_bytes() == (again / file.name).read_bytes(), file.name


def test_a_run_is_exported_without_its_store_as_with_it(
    trained, exported, tmp_path, monkeypatch, caplog, no_program
):
    """Its folder keeps the identity, the sizes and the arrays of the codec."""
    monkeypatch.chdir(tmp_path)
    run = alone(trained, tmp_path)
    out = export_run(run, tmp_path / "out")
    assert "since it was trained" not in caplog.text  # its clips are not in its folder
    assert {file.name for file in out.iterdir()} == {file.name for file in exported.iterdir()}
    for file in exported.iterdir():
        if file.suffix != ".pt2":
            assert file.read_bytes() == (out / file.name).read_bytes(), file.name


def alone(trained, folder):
    """A copy of the run that does not say where its store is."""
    run = shutil.copytree(trained[1], folder / "run")
    said = json.loads((run / "run.json").read_bytes())
    (run / "run.json").write_text(json.dumps(said | {"store_path": "/gone"}))
    return run


def test_only_arrays_that_are_nowhere_else_are_asked_for(
    trained, exported, tmp_path, monkeypatch, no_program
):
    """A run of a version that kept no empty store: the identity is in its run.json."""
    monkeypatch.chdir(tmp_path)
    path, _ = trained
    run = alone(trained, tmp_path)
    shutil.rmtree(run / "tokens")
    wanted = (
        r"did not keep the arrays of its codec \(pca:4\+int8\).* not in \./stores .*--store PATH"
    )
    with pytest.raises(UsageError, match=wanted):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    name = "calibration.safetensors"
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / path.name).symlink_to(path)
    found = export_run(run, tmp_path / "found")
    assert (found / name).read_bytes() == (exported / name).read_bytes()

    plain = shutil.copytree(FORMAT_1 / "runs" / "finished", tmp_path / "plain")
    said = json.loads((plain / "run.json").read_bytes())
    said["store_recipe"]["codec"] = {"name": "pool2+fp16", "calibration_sha256": None}
    (plain / "run.json").write_text(json.dumps(said))
    out = export_run(plain, tmp_path / "of-format-1")  # of a codec without arrays
    assert not (out / name).exists()
    assert "calibration" not in (out / "README.md").read_text()
    made = json.loads((out / "identity.json").read_bytes())
    for key in ("architecture", "weights_sha256", "grid", "transform", "codec"):
        assert made[key] == said["store_recipe"][key]
    rows, columns = said["store_recipe"]["grid"]
    channels = 2 * said["store_recipe"]["dim"]
    said["store_recipe"]["dim"] = 0
    (plain / "run.json").write_text(json.dumps(said))
    with pytest.raises(Damaged, match=r"run\.json: no identity of a store: dim: .*greater than 0"):
        export_run(plain, tmp_path / "damaged")
    size = f"`tokens` (T, {rows // 2 * (columns // 2)}, {channels})"
    assert size in (out / "README.md").read_text()


def test_an_empty_store_in_the_run_of_other_tokens_or_arrays_is_refused(trained, tmp_path):
    path, _ = trained
    run = alone(trained, tmp_path)
    shutil.rmtree(run / "tokens")
    identity = open_store(path).identity
    other = identity.model_copy(update={"weights_sha256": "1" * 64})
    create_twin(run / "tokens", path, identity=other)
    with pytest.raises(WrongIdentity, match="weights_sha256"):
        export_run(run, tmp_path / "out")
    shutil.rmtree(run / "tokens")
    create_twin(run / "tokens", path)
    shutil.rmtree(run / "tokens" / "calibration" / "mean")
    with pytest.raises((Damaged, UsageError), match="calibration"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_of_several_stores_all_are_kept_or_none(tmp_path):
    """Where one is missing, their identities are those of run.json."""
    path = write_store(tmp_path / "s", codec="fp16")
    told = describe_stores(StoreSet({"a": path, "b": path}))
    provenance = told | {"config": {}, "blocks": [1]}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(provenance))
    create_twin(tmp_path / "run" / "tokens" / "a", path)
    for _ in range(2):
        found = export._tokens_of(tmp_path / "run", provenance, None)
        identity = open_store(path).identity
        assert (dict(found.identities), found.stores) == ({"a": identity, "b": identity}, None)
        create_twin(tmp_path / "run" / "tokens" / "b", path)


def test_a_head_that_was_not_trained_needs_the_phases_of_the_store(
    tmp_path, monkeypatch, no_program
):
    monkeypatch.chdir(tmp_path)
    path = write_store(tmp_path / "s")
    config = tiny_config(loss=CrossEntropyConfig(), optim=OptimConfig(epochs=0, warmup_epochs=0))
    train(config, store=path, out=tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    out = export_run(tmp_path / "run", tmp_path / "out")
    assert len(load_file(out / "weights.safetensors")["projection.bias"]) == 2
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="add --store PATH"):
        export_run(tmp_path / "run", tmp_path / "other")


def test_a_store_without_what_the_run_reads_and_a_system_without_a_program_are_refused(
    trained, tmp_path
):
    path, run = trained
    identity = open_store(path).identity
    bare = identity.model_copy(update={"cls": "none"})
    with pytest.raises(UsageError, match="has no clips"):
        export_run(run, tmp_path / "out", store=create_twin(tmp_path / "bare", path, identity=bare))
    said = json.loads((run / "run.json").read_bytes())
    other = shutil.copytree(run, tmp_path / "other")
    shutil.rmtree(other / "tokens")
    config = StanConfig().model_dump(mode="json")
    (other / "run.json").write_text(json.dumps(said | {"config": config}))
    with pytest.raises(UsageError, match="system=stan, which has no program of plain torch"):
        export_run(other, tmp_path / "out")
