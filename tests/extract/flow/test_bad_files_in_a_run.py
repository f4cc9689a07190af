"""A folder of every kind of file in one extraction: the sound ones whole, the others by reason."""

import os
import shutil

import numpy as np
import pytest

from tests.extract.barcodes import every_40_ms, write_barcodes
from tokenreel.cache.format.store_files import read_failures
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.pipeline.datasets import load_dataset

CONFIG = ExtractConfig(
    backbone="vit_tiny_patch16_224",
    weights="random:0",
    image_size=(32, 48),
    blocks=(11,),
    device="cpu",
    codec="pool2+fp16",
    workers=2,
    batch_frames=8,
)
X264 = {"crf": "12", "bf": "2", "g": "25", "preset": "veryfast"}
COUNT = 20
SAME = [  # copies of one video: their tokens are the same, whatever they are called
    "plain.mp4",
    "name with  spaces.mp4",
    "\u6f22\u5b57 \u0438\u043c\u044f \U0001f3ac n\u00famero.mp4",
    "'quotes\" and $HOME;.mp4",
    "-i.mp4",
    "100%d.mp4",
    "concat:a|b.mp4",
    f"{'d' * 150}/{'e' * 150}.mp4",
    "one/same.mp4",
    "two/same.mp4",
    "SAME.mp4",
    "same.mov",
    "\u00e9.mp4",
    "e\u0301.mp4",  # the same letter in two code points
]
BAD = {
    "empty.mp4": "empty",
    "text.mp4": "Invalid data",
    "folder.mp4": "is a directory",
    "pipe.mp4": "not a regular file",
    "one-frame.mp4": "only one frame",
    "cut.mp4": "Invalid data",
    "cut.mkv": "ended prematurely|damaged",
    "hidden.mp4": "permission",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("everything")
    plain = write_barcodes(root / SAME[0], every_40_ms(COUNT), options=X264)
    for name in SAME[1:]:
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(plain, root / name)
    write_barcodes(root / "same.mkv", every_40_ms(COUNT), options=X264, first=500)
    write_barcodes(root / "grey.mp4", every_40_ms(COUNT), options=X264, pix_fmt="gray")
    write_barcodes(root / "late.ts", every_40_ms(COUNT, 9000), options=X264)
    write_barcodes(root / "uneven.mp4", [0, 40, 200, 240, 900], options=X264)
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("no video")
    (root / "folder.mp4").mkdir()
    os.mkfifo(root / "pipe.mp4")
    write_barcodes(root / "one-frame.mp4", [0], options=X264)
    (root / "cut.mp4").write_bytes(plain.read_bytes()[:3000])
    (root / "cut.mkv").write_bytes((root / "same.mkv").read_bytes()[:20_000])
    shutil.copy(plain, root / "hidden.mp4")
    return root


@pytest.fixture(scope="module")
def extracted(root, tmp_path_factory):
    store = tmp_path_factory.mktemp("stores") / "store"
    real = os.access
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            os, "access", lambda path, mode: real(path, mode) and "hidden" not in str(path)
        )
        report = extract_clips(load_dataset("folder", root, {}), CONFIG, store, progress=False)
    return report, store


def test_intact_files_are_committed_and_others_have_their_reason(extracted):
    report, store = extracted
    sound = {*SAME, "same.mkv", "grey.mp4", "late.ts", "uneven.mp4"}
    assert set(report.committed) == sound
    assert {failure.clip_id for failure in report.failed} == set(BAD)
    assert report.exit_status == 3
    reasons = {record["clip_id"]: record["reason"] for record in read_failures(store)}
    for name, reason in BAD.items():
        assert any(words in reasons[name] for words in reason.split("|")), reasons[name]
    assert verify_store(store, deep=True).problems == ()


def test_clips_are_identified_by_path_not_by_stem(extracted):
    store = open_store(extracted[1])
    wanted = store.read("plain.mp4").decode(11)
    for name in SAME:
        np.testing.assert_array_equal(store.read(name).decode(11), wanted, err_msg=name)
    other = store.read("same.mkv").decode(11)
    assert not np.array_equal(other, wanted)
    keys = {store.records[name].key for name in store.records}
    assert len(keys) == len(store.records)


def test_times_and_numbers_of_frames_are_those_of_the_files(extracted):
    store = open_store(extracted[1])
    times = {name: np.arange(COUNT) * 0.04 for name in store.records}
    times["uneven.mp4"] = np.array([0, 0.04, 0.2, 0.24, 0.9])
    for name, seconds in times.items():
        np.testing.assert_allclose(store.times_seconds(name), seconds, atol=1e-3, err_msg=name)
        assert store.frame_index(name).tolist() == list(range(len(seconds)))


def test_an_image_that_is_not_square_keeps_its_grid_through_pooling(extracted):
    store = open_store(extracted[1])
    assert store.identity.image_size == (32, 48)
    assert store.identity.grid == (2, 3)
    assert store.read("plain.mp4").decode(11).shape == (COUNT, 2, 192)
