"""`import tokenreel` is a library: light to import, and its functions do what the commands do."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tokenreel
from tests.fuse.tiny import TINY_SETTINGS

GOLDEN = Path(__file__).parent / "golden" / "format1"
SMALL = {
    "backbone": "test_vit",
    "weights": "random:0",
    "image_size": 32,
    "blocks": (1, 5),
    "device": "cpu",
    "workers": 1,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "store"
    reports = [tokenreel.extract_videos(GOLDEN / "videos", path, settings=SMALL) for _ in range(2)]
    assert [len(report.committed) for report in reports] == [5, 0]
    return path


def test_importing_it_loads_neither_torch_nor_numpy_nor_a_package_of_ours():
    code = "import sys, tokenreel, json; print(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(found.stdout)
    heavy = {"torch", "numpy", "zarr", "h5py", "pydantic"}
    assert not heavy & set(loaded)
    assert [name for name in loaded if name.startswith("tokenreel.")] == []


def test_every_name_is_there_twice_and_none_is_a_package():
    packages = {"cache", "extract", "fuse", "evaluate", "pipeline"}
    assert not packages & set(tokenreel.__all__)
    for name in tokenreel.__all__:
        assert callable(getattr(tokenreel, name))
        assert getattr(tokenreel, name) is getattr(tokenreel, name)
    assert set(tokenreel.__all__) <= set(dir(tokenreel))
    with pytest.raises(AttributeError, match="no attribute 'open_stores'"):
        tokenreel.open_stores  # noqa: B018


def test_a_store_is_opened_trained_on_embedded_and_evaluated(store, tmp_path):
    assert len(tokenreel.open_store(store).records) == 5
    run = tmp_path / "run"
    for _ in range(2):
        result = tokenreel.train_model(
            store, run, settings=TINY_SETTINGS, device="cpu", progress=False
        )
        assert result.error is None
    files = [
        tokenreel.embed_store(run, store, tmp_path / f"{n}.h5", device="cpu", progress=False)
        for n in range(2)
    ]
    one, other = (tokenreel.read_embeddings(file) for file in files)
    for a, b in zip(one.clips, other.clips, strict=True):
        np.testing.assert_array_equal(a.embeddings, b.embeddings)
    for name in ("results", "again"):
        report = tokenreel.evaluate_files([run], tmp_path / name, jobs=1, progress=False)
        assert {score.task for score in report.scores} >= {"classification", "tau"}
    for name in ("w1.h5", "w2.h5"):
        tokenreel.write_embeddings(tmp_path / name, one.clips, provenance={"run": "mine"})
    assert tokenreel.read_embeddings(tmp_path / "w2.h5").provenance == {"run": "mine"}


def test_a_manifest_of_ones_own_is_extracted(tmp_path):
    clips = tuple(tokenreel.Clip(f"{name}/clip", f"{name}.mp4") for name in "ab")
    for _ in range(2):
        manifest = tokenreel.Manifest("mine", GOLDEN / "videos", clips)
        tokenreel.extract_videos(manifest, tmp_path / "store", settings=SMALL)
    for _ in range(2):
        stores = tokenreel.StoreSet({"one": tmp_path / "store"})
        assert set(stores.records) == {"a/clip", "b/clip"}
        dataset = tokenreel.TokenDataset(tmp_path / "store", window=4)
        assert len(dataset) == 2


def test_a_wrong_setting_is_refused_with_the_nearest_key(tmp_path):
    with pytest.raises(ValueError, match="did you mean backbone"):
        tokenreel.extract_videos(GOLDEN / "videos", tmp_path / "s", settings={"backbon": "x"})


def test_the_examples_of_the_page_run(store, tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
    first, second, third = (part.split("```")[0] for part in page.split("```python\n")[1:])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "mine").symlink_to(store)
    exec(second.replace("window=16", "window=4") + third, {})
    assert (tmp_path / "results" / "mine" / "results.csv").is_file()
    for line in first.splitlines():  # the names and keywords are right; it runs in other tests
        compile(line, "docs/python.md", "exec")


def test_every_public_name_is_on_the_page():
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
    assert [name for name in tokenreel.__all__ if f"`{name}" not in page] == []
