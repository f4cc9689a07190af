"""What the code of commit 225475a wrote opens, is evaluated and is resumed by every later version.

Made by tests/golden/make_format1.py.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from typer.testing import CliRunner

from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.fuse.config import MeanConfig, mvformer
from tokenreel.fuse.runs import provenance
from tokenreel.pipeline.cli.evaluate import app as evaluate
from tokenreel.pipeline.cli.extract import app as extract
from tokenreel.pipeline.cli.fuse import app as fuse
from tokenreel.pipeline.cli.store import app as store_commands

GOLDEN = Path(__file__).parent / "golden" / "format1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder of one's own that holds the golden files, and the current one."""
    shutil.copytree(GOLDEN, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def run(app, *words: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == status, result.output
    return result.output


def decode_in_order(tokens, block):
    """Tokens of a block with the same bits on every processor, and what may be rounded otherwise.

    A matrix product adds in an order of the processor's; d products are here added one by one, in
    float64, from which d products of float32 in any order differ by d of their last digits.
    """
    channels = tokens.codec.terminal.decode(tokens.encoded(block), block=block)
    rotation = tokens.codec.rotation(block)
    if rotation is None:
        return channels, 0.0
    total = np.zeros((*channels.shape[:2], rotation.shape[1]))
    sizes = np.zeros_like(total)
    for k, row in enumerate(rotation.astype(np.float64)):
        product = channels[..., k, None].astype(np.float64) * row
        total += product
        sizes += np.abs(product)
    return total, len(rotation) * np.finfo(np.float32).eps * sizes


@pytest.mark.parametrize("name", ["int8", "int4", "pca", "views"])
def test_a_golden_store_opens_with_the_tokens_it_was_given(name):
    store = open_store(GOLDEN / "stores" / name)
    digest = hashlib.sha256()
    for clip_id in store.records:
        for view in range(store.identity.num_views):
            tokens = store.read(clip_id, view=view)
            for block in (1, 5):
                wanted, bound = decode_in_order(tokens, block)
                digest.update(wanted.tobytes())
                assert (np.abs(tokens.decode(block) - wanted) <= bound).all()
    assert digest.hexdigest() == EXPECTED["stores"][name]["tokens_sha256"]
    assert store.fingerprint == EXPECTED["stores"][name]["fingerprint"]
    assert verify_store(store.path, deep=True).problems == ()


def test_an_extraction_that_finds_a_golden_store_skips_its_clips(workplace):
    words = ["run", "folder", "--root", "videos", "--out", "stores/int8", *EXPECTED["extract"]]
    assert "0 committed, 5 skipped, 0 failed" in run(extract, *words)


@pytest.mark.parametrize("kept", ["", "acv"])
def test_an_extraction_continues_a_golden_store_to_the_same_bytes(kept, workplace):
    store = workplace / "stores" / "int8"
    whole = {p.relative_to(store): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    for name in "abcvw":
        if name not in kept:
            shutil.rmtree(store / folder_of(clip_key(f"{name}.mp4")))
    for log in (store / "manifest").iterdir():
        log.unlink()
    words = ["run", "folder", "--root", "videos", "--out", "stores/int8", *EXPECTED["extract"]]
    committed = 5 - len(kept)
    assert f"{committed} committed, {len(kept)} skipped, 0 failed" in run(extract, *words)
    again = {p.relative_to(store): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    lines = [
        {
            line
            for name, data in files.items()
            if name.parts[0] == "manifest"
            for line in data.split(b"\n")
        }
        for files in (whole, again)
    ]
    assert len(lines[1]) == committed + 1
    assert lines[1] <= lines[0]
    for files in (whole, again):
        for name in [name for name in files if name.parts[0] == "manifest"]:
            del files[name]
    notes = again.pop(Path("sources.json"), None)  # format 1 records no time of a video
    assert (notes is not None) == bool(kept)
    if adds_as_the_golden_processor():
        assert again == whole
    assert without_tokens(again) == without_tokens(whole)
    assert_equal_but_for_rounding(open_store(store), open_store(GOLDEN / "stores" / "int8"))


def without_tokens(files):
    """Files of a store: of arrays of the backbone the names alone, of clips without their seals."""
    kept = dict(files)
    for name, data in files.items():
        if name.parts[0] == "clips" and "views" in name.parts and "c" in name.parts:
            kept[name] = b""
        elif name.parts[0] == "clips" and len(name.parts) == 4:  # zarr.json of a clip
            kept[name] = about = json.loads(data)
            own = about["attributes"]["tokenreel"]
            assert own.pop("crc32c") > 0
            own["seals"] = {k: v for k, v in own["seals"].items() if not k.startswith("views/")}
    return kept


def adds_as_the_golden_processor():
    """Whether the backbone has the bits here that it had where the golden files were made.

    A processor, or the libraries for it, decides the order in which products are added.
    """
    model = timm.create_model("test_vit", img_size=32, num_classes=0).eval()
    rng = np.random.default_rng(0)
    for name, weights in model.state_dict().items():
        values = rng.random(tuple(weights.shape), np.float32) - (0 if "norm" in name else 0.5)
        weights.copy_(torch.from_numpy(values))
    images = torch.from_numpy(rng.random((8, 3, 32, 32), np.float32))
    digest = hashlib.sha256()
    with torch.inference_mode():
        for count in range(1, 9):
            digest.update(model.forward_features(images[:count]).numpy().tobytes())
    return digest.hexdigest() == EXPECTED["processor"]


def assert_equal_but_for_rounding(found, wanted):
    """int8 codes that are one apart at most, scales to 1e-5, CLS vectors to a digit of float16."""
    for clip_id in wanted.records:
        ours, theirs = found.read(clip_id), wanted.read(clip_id)
        for block in (1, 5):
            codes = [tokens.codes[block].astype(int) for tokens in (ours, theirs)]
            assert np.abs(codes[0] - codes[1]).max() <= 1
            np.testing.assert_allclose(ours.scales[block], theirs.scales[block], rtol=1e-5)
        for block in (1, 5, "normed"):
            vectors = [store.read_cls(clip_id, block=block) for store in (found, wanted)]
            np.testing.assert_allclose(*vectors, rtol=2**-10, atol=1e-4)


def test_a_migrated_store_serves_the_runs_and_embedding_files_of_the_golden_one(workplace):
    assert "5 clips written to new" in run(
        store_commands, "migrate", "stores/int8", "new", "--format", "2"
    )
    old, new = open_store("stores/int8"), open_store("new")
    assert new.fingerprint != old.fingerprint
    for clip_id in old.records:
        for block in (1, 5):
            codes = [store.read(clip_id).codes[block].tobytes() for store in (old, new)]
            assert codes[0] == codes[1]
    words = ["run", "folder", "--root", "videos", "--out", "new", *EXPECTED["extract"]]
    assert "0 committed, 5 skipped, 0 failed" in run(extract, *words)
    config = EXPECTED["fuse"]
    run(fuse, "train", "folder", "--store", "new", "--out", "runs/killed", *config)
    kept = (workplace / "runs" / "finished" / "embeddings.h5").read_bytes()
    run(fuse, "train", "folder", "--store", "new", "--out", "runs/finished", *config)
    assert (workplace / "runs" / "finished" / "embeddings.h5").read_bytes() == kept  # it was done
    run(fuse, "embed", "runs/finished", "--store", "new", "--out", "again.h5")
    provenance = read_embeddings("again.h5").provenance
    assert provenance["store_fingerprint"] == new.fingerprint
    assert provenance["former_fingerprints"] == [provenance["trained_on"]] == [old.fingerprint]


def test_a_golden_run_that_was_killed_resumes_to_the_end_of_one_that_was_not(workplace, caplog):
    words = ["--store", "stores/int8", "--out", "runs/killed", *EXPECTED["fuse"]]
    run(fuse, "train", "folder", *words)
    assert "keeps its fields: " in caplog.text
    assert "data.alpha 1.5 (now 3.0)" in caplog.text
    losses = [
        [
            json.loads(line)["loss"]
            for line in Path(f"runs/{name}/metrics.jsonl").read_text().split("\n")[:-1]
        ]
        for name in ("finished", "killed")
    ]
    assert len(losses[1]) == 3
    np.testing.assert_allclose(*losses, rtol=1e-4)
    ends = [read_embeddings(Path("runs") / n / "embeddings.h5") for n in ("finished", "killed")]
    for one, other in zip(ends[0].clips, ends[1].clips, strict=True):
        np.testing.assert_allclose(one.embeddings, other.embeddings, atol=2e-3)


def test_a_golden_run_of_frozen_features_is_not_embedded_again(workplace):
    result = CliRunner().invoke(fuse, ["embed", "runs/frozen", "--store", "stores/int8"])
    assert isinstance(result.exception, UsageError)
    told = "runs/frozen is of model=frozen, which trains nothing: type `evaluate frozen STORE`"
    assert told in str(result.exception)


def test_fields_of_a_golden_config_that_are_not_used_are_dropped_with_one_line(workplace, caplog):
    caplog.set_level("INFO")
    mvformer.log_dropped.cache_clear()
    about = provenance.read_provenance(Path("runs/mean"))
    config = provenance.read_config(Path("runs/mean"), about)
    assert config.pooling == MeanConfig()
    assert provenance.with_later_fields(about["config"]) == config.model_dump(mode="json")
    [line] = [one.message for one in caplog.records if "config of an earlier" in one.message]
    assert "model=mvformer, pooling.channels=8, " in line
    assert "pooling.num_entities=3, " in line


@pytest.mark.parametrize("name", ["finished", "mean"])
def test_a_golden_run_is_embedded_again(name, workplace):
    run(fuse, "embed", f"runs/{name}", "--store", "stores/int8", "--out", "again.h5")
    ends = [
        read_embeddings(path) for path in (workplace / f"runs/{name}/embeddings.h5", "again.h5")
    ]
    for one, other in zip(ends[0].clips, ends[1].clips, strict=True):
        np.testing.assert_allclose(one.embeddings, other.embeddings, atol=1e-4)


def test_golden_embedding_files_are_evaluated(workplace):
    names = ("finished", "mean", "frozen")
    run(evaluate, "all", *(f"runs/{name}" for name in names), "--jobs", "1", "--out", "results")
    table = (workplace / "results" / "results.csv").read_text()
    for name in names:
        assert f"{name}," in table
