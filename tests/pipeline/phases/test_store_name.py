"""The default store of an extraction: named by its final fingerprint, found again, made once."""

import errno
import fcntl
import importlib.util
import itertools
import logging
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tokenreel.cache import locks
from tokenreel.cache.codec import codec_identity
from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.manifest import Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.extract.backbone.weights import load_weights
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.encode import identity
from tokenreel.extract.encode.identity import store_name
from tokenreel.extract.flow import runner
from tokenreel.pipeline.defaults import find_store, stores_below
from tokenreel.pipeline.phases import extraction
from tokenreel.pipeline.phases.extraction import extract_dataset, named_store

_spec = importlib.util.spec_from_file_location(
    "stores", Path(__file__).parents[2] / "cache" / "stores.py"
)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

WORDS = [
    "backbone=vit_tiny_patch16_224",
    "weights=random:3",
    "image_size=32",
    "blocks=11",
    "device=cpu",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(5):
            pixels = np.full((48, 64, 3), number * 40, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return folder


@pytest.fixture(scope="module")
def extracted(root, tmp_path_factory):
    """A folder with the store of one extraction, and that store."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "STORES", folder)
        _, store = extract_dataset("folder", WORDS, root=root)
    return folder, store


@pytest.fixture
def folder(extracted, monkeypatch):
    monkeypatch.setattr(extraction, "STORES", extracted[0])
    return extracted[0]


def test_the_name_ends_with_the_fingerprint_of_the_calibrated_recipe(extracted):
    folder, store = extracted
    opened = open_store(store)
    assert opened.identity.codec["calibration_sha256"] is not None
    assert store.name == f"folder-vit_tiny_patch16_224-random3-{opened.fingerprint[:12]}"
    assert [path.name for path in folder.iterdir()] == [store.name]


def test_a_second_run_finds_the_store_and_makes_nothing_again(folder, extracted, root):
    report, store = extract_dataset("folder", WORDS, root=root)
    assert store == extracted[1]
    assert (report.committed, report.skipped) == ([], ["a.mp4"])


def test_the_same_weights_in_a_file_are_the_same_extraction(folder, extracted, root, tmp_path):
    state = load_weights("vit_tiny_patch16_224", "random:3")
    torch.save({"teacher": {f"backbone.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    words = [word for word in WORDS if not word.startswith("weights=")]
    words += [f"weights={tmp_path / 'w.pth'}"]
    report, store = extract_dataset("folder", words, root=root)
    assert store == extracted[1]
    assert (report.committed, report.skipped) == ([], ["a.mp4"])


def test_another_extraction_gets_a_store_of_its_own(folder, extracted, root):
    config = extraction.read_words("folder", [*WORDS, "codec=fp16"], root=root)[1]
    found = named_store(folder, Manifest("folder", root, ()), config)
    assert found != extracted[1]
    assert found.name.endswith(open_store(found).fingerprint[:12])
    assert len(stores_below(folder)) == 2
    shutil.rmtree(found)


@pytest.fixture
def quick(monkeypatch):
    """No backbone: a store is a tiny one, calibrated on samples of this seed; returns the seeds."""
    seeds = itertools.count()

    def planned(config):
        return stores.make_identity("int8")[0].before_calibration

    def prepare(manifest, config, path):
        time.sleep(0.05)
        recipe, calibration = stores.make_identity("int8")
        calibration = {name: array + next(seeds) for name, array in calibration.items()}
        codec = codec_identity("int8", calibration)
        recipe = recipe.model_copy(update={"codec": codec})
        create_store(path, recipe, made_with={"dataset": "d"}, calibration=calibration)
        return None, recipe, None, None

    monkeypatch.setattr(identity, "build_identity", planned)
    monkeypatch.setattr(runner, "prepare_store", prepare)
    return seeds


MANIFEST, CONFIG = Manifest("d", Path(), ()), ExtractConfig(weights="random:0")


def test_a_store_of_format_1_of_the_extraction_is_found_and_used(quick, tmp_path):
    recipe, calibration = stores.make_identity("int8")
    first = recipe.model_copy(update={"format_version": 1})
    name = f"{store_name('d', CONFIG)}{first.fingerprint[:12]}"
    create_store(tmp_path / name, first, made_with={"dataset": "d"}, calibration=calibration)
    assert named_store(tmp_path, MANIFEST, CONFIG) == tmp_path / name
    assert len(list(tmp_path.iterdir())) == 1


def test_two_stores_of_one_extraction_are_a_question_to_the_user(quick, tmp_path):
    first = named_store(tmp_path, MANIFEST, CONFIG)
    hidden = first.rename(tmp_path / "aside")
    second = named_store(tmp_path, MANIFEST, CONFIG)
    hidden.rename(first)
    assert first != second
    with pytest.raises(UsageError, match=f"2 stores .*name one: --out {tmp_path}.* --out "):
        named_store(tmp_path, MANIFEST, CONFIG)


def test_a_damaged_store_that_could_be_the_one_is_not_passed_over(quick, tmp_path):
    made = named_store(tmp_path, MANIFEST, CONFIG)
    (made / "recipe.json").write_bytes((made / "recipe.json").read_bytes()[:-9])
    with pytest.raises(Damaged, match=made.name):
        named_store(tmp_path, MANIFEST, CONFIG)


def _name(folder, seed, results, seeds):
    for _ in range(seed):
        next(seeds)  # each would calibrate to other values
    results.put(named_store(folder, MANIFEST, CONFIG).name)


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_that_start_together_get_one_store(quick, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [
        context.Process(target=_name, args=(tmp_path, seed * 10, results, quick))
        for seed in range(6)
    ]
    for worker in workers:
        worker.start()
    names = {results.get(timeout=240) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(names) == 1
    assert {path.name for path in tmp_path.iterdir()} == names


def test_what_a_dead_process_left_is_swept_and_never_taken_for_a_store(quick, tmp_path):
    left = named_store(tmp_path, MANIFEST, CONFIG).rename(tmp_path / ".tmp-d-vit-0")
    for entry in [*left.rglob("*"), left]:
        os.utime(entry, (0, 0))
    (tmp_path / ".tmp-young").mkdir()
    with pytest.raises(UsageError, match="no store of d"):
        find_store("d", folder=tmp_path)
    made = named_store(tmp_path, MANIFEST, CONFIG)
    assert {path.name for path in tmp_path.iterdir()} == {made.name, ".tmp-young"}
    assert find_store("d", folder=tmp_path) == made


def test_a_file_system_without_locks_is_told_and_used(quick, tmp_path, monkeypatch, caplog):
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_said", set())
    with caplog.at_level(logging.WARNING):
        assert named_store(tmp_path, MANIFEST, CONFIG).is_dir()
    assert "no locks on this file system (No locks available): going on" in caplog.text
