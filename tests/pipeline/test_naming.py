"""The default store of an extraction: named by its final fingerprint, found again, made once."""

import errno
import fcntl
import logging
import os
import subprocess
import sys

import av
import numpy as np
import pytest

from tokenreel.cache.errors import Damaged, UsageError
from tokenreel.cache.reader import open_store
from tokenreel.pipeline import extraction
from tokenreel.pipeline.extraction import extract_dataset
from tokenreel.pipeline.naming import named_store
from tokenreel.pipeline.run import find_store, stores_below

WORDS = ["backbone=vit_tiny_patch16_224", "weights=random:3", "image_size=32", "blocks=11",
         "device=cpu"]  # fmt: skip


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
    assert opened.recipe.codec["calibration_sha256"] is not None
    assert store.name == f"folder-vit_tiny_patch16_224-random3-{opened.fingerprint[:12]}"
    assert [path.name for path in folder.iterdir()] == [store.name]


def test_a_second_run_finds_the_store_and_makes_nothing_again(folder, extracted, root):
    report, store = extract_dataset("folder", WORDS, root=root)
    assert store == extracted[1]
    assert (report.committed, report.skipped) == ([], ["a.mp4"])


def test_another_extraction_gets_a_store_of_its_own(folder, extracted, root, tmp_path, monkeypatch):
    for words in (["codec=fp16"], ["blocks=3"], ["weights=random:4"]):
        manifest, config = extraction.read_words("folder", [*WORDS, *words], root=root)
        made = named_store(tmp_path, manifest, config)
        assert made.name.endswith(open_store(made).fingerprint[:12])
        assert named_store(tmp_path, manifest, config) == made
    assert len(stores_below(tmp_path)) == 3
    assert named_store(folder, *extraction.read_words("folder", WORDS, root=root)) == extracted[1]


def test_two_stores_of_one_extraction_are_a_question_to_the_user(root, tmp_path, monkeypatch):
    manifest, config = extraction.read_words("folder", WORDS, root=root)
    first = named_store(tmp_path, manifest, config)
    hidden = first.rename(tmp_path / "aside")
    monkeypatch.setattr(
        "tokenreel.extract.runner.sample_images",
        lambda *_: np.random.default_rng(0).integers(0, 255, (4, 3, 32, 32), np.uint8),
    )
    second = named_store(tmp_path, manifest, config)
    hidden.rename(first)
    assert first != second
    with pytest.raises(UsageError, match=f"name one: --out {tmp_path}.* --out {tmp_path}"):
        named_store(tmp_path, manifest, config)


def test_a_damaged_store_that_could_be_the_one_is_not_passed_over(root, tmp_path):
    manifest, config = extraction.read_words("folder", WORDS, root=root)
    made = named_store(tmp_path, manifest, config)
    (made / "recipe.json").write_bytes((made / "recipe.json").read_bytes()[:-9])
    with pytest.raises(Damaged, match=made.name):
        named_store(tmp_path, manifest, config)


CHILD = """
import sys
from pathlib import Path
from tokenreel.pipeline import extraction, naming
words, root, folder = sys.argv[1].split(";"), Path(sys.argv[2]), Path(sys.argv[3])
print(naming.named_store(folder, *extraction.read_words("folder", words, root=root)).name)
"""


@pytest.mark.timeout(120)
def test_processes_that_start_together_get_one_store(root, tmp_path):
    command = [sys.executable, "-c", CHILD, ";".join(WORDS), root, tmp_path]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    names = {child.communicate(timeout=100)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(names) == 1
    assert {path.name for path in tmp_path.iterdir()} == names


def test_what_a_dead_process_left_is_swept_and_never_taken_for_a_store(root, tmp_path):
    manifest, config = extraction.read_words("folder", WORDS, root=root)
    left = named_store(tmp_path, manifest, config).rename(tmp_path / ".tmp-folder-vit-0")
    os.utime(left, (0, 0))
    (tmp_path / ".tmp-young").mkdir()
    with pytest.raises(UsageError, match="no store of folder"):
        find_store("folder", folder=tmp_path)
    made = named_store(tmp_path, manifest, config)
    assert {path.name for path in tmp_path.iterdir()} == {made.name, ".tmp-young"}


def test_a_file_system_without_locks_is_told_and_used(root, tmp_path, monkeypatch, caplog):
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    manifest, config = extraction.read_words("folder", WORDS, root=root)
    with caplog.at_level(logging.WARNING):
        assert named_store(tmp_path, manifest, config).is_dir()
    assert "no locks (No locks available): let one process make the store" in caplog.text
