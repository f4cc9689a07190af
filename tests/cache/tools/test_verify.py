"""verify_store: what it finds beyond checksums, and what it leaves alone."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.tools import verify as integrity
from tokenreel.cache.tools.maintenance import mend_logs
from tokenreel.cache.tools.verify import verify_store, wrong_frames
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


def commit(path: Path, *, labels=(0, 1, 1), pts=(0, 1, 2), change=lambda encoded: None) -> None:
    """A clip of three frames whose codes `change` may spoil before they are written."""
    with StoreWriter(path, writer_id="w") as writer:
        clip = stores.begin(writer, "a")
        encoded, cls = {}, {}
        for block in stores.BLOCKS:
            tokens = stores.make_tokens("a", 0, block, 3)
            encoded[block] = writer.codec.encode(tokens, block=block, grid=stores.GRID)
            cls[block] = tokens[:, 0]
        change(encoded[3])
        clip.append(0, encoded, cls, cls[3])
        clip.commit(np.array(pts), np.arange(3), np.array(labels), np.zeros(3, np.uint8))


def words(path: Path, deep: bool = True) -> str:
    return verify_store(path, deep=deep).table()


@pytest.mark.parametrize("codec", ["fp16", "int8", "int4", "pool2+int8"])
def test_a_frame_of_zeros_is_found(tmp_path, codec):
    path = stores.make_store(tmp_path / "s", codec)
    zero = 0x77 if codec == "int4" else 0
    commit(path, change=lambda encoded: encoded.codes[1].fill(zero))
    assert "a: view 0, block 3, frame 1: nothing but zeros" in words(path)
    assert verify_store(path, deep=True).repair == ("a",)
    assert "0 problem(s)" in words(path, deep=False)


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_a_fill_value_is_found(tmp_path, codec):
    path = stores.make_store(tmp_path / "s", codec)
    fill = -128 if codec == "int8" else 255
    commit(path, change=lambda encoded: encoded.codes[2, :1].fill(fill))
    assert "frame 2: NaN or a fill value" in words(path)


def test_nan_in_codes_and_scales_is_found():
    codec = stores.codec_from_identity(*[stores.codec_identity("fp16"), {}])
    codes = np.ones((3, 4, 2), np.float16)
    codes[1, 0, 0] = np.nan
    scales = np.ones((3, 4))
    scales[2] = np.inf
    found = wrong_frames(codes, scales, codec)
    assert found["NaN or a fill value"].tolist() == [False, True, False]
    assert found["a scale that is not finite"].tolist() == [False, False, True]
    assert not found["nothing but zeros"].any()


def test_labels_and_times_that_cannot_be_are_found(tmp_path):
    path = stores.make_store(tmp_path / "s")
    commit(path, labels=(0, 2, -3), pts=(0, 5, 5))
    found = words(path)
    assert "label 2 of 2 phases" in found
    assert "label -3" in found
    assert "time does not increase at frame 2" in found


def test_files_that_no_writer_makes_are_found(tmp_path):
    path = stores.make_store(tmp_path / "s")
    commit(path)
    assert words(path) == "1 clips, 0 problem(s)"
    strange = ["notes.txt", "calibration/x.bin", "calibration/sd/1/more", "manifest/a.txt"]
    strange += ["clips/file", "failed/b.md", "canary/x"]
    for name in strange:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("")
    (path / "link").symlink_to(tmp_path)
    found = words(path, deep=False)
    for name in [*strange, "link"]:
        assert f"{path / name}: does not belong here" in found
    (path / "clips/00").mkdir(exist_ok=True)
    (path / "clips/00/file").write_text("")
    assert "refused" in words(path, deep=False)


def test_a_damaged_log_is_mended_and_no_clip_is_lost(tmp_path):
    path = stores.make_store(tmp_path / "s")
    commit(path)
    (log,) = (path / "manifest").iterdir()
    whole = log.read_bytes()
    log.write_bytes(whole + whole.replace(b"clip_id", b"clip_ic") + whole[:20])
    assert "1 problem(s)" in words(path)
    assert mend_logs(path) == [log.name]
    assert log.read_bytes() == whole
    assert words(path) == "1 clips, 0 problem(s)"
    assert mend_logs(path) == []


def test_a_clip_committed_while_the_store_is_verified_is_no_problem(tmp_path, monkeypatch):
    path = stores.make_store(tmp_path / "s")
    committed_keys = integrity.committed_keys

    def and_one_more(path):
        keys = committed_keys(path)
        commit(path)
        return keys

    monkeypatch.setattr(integrity, "committed_keys", and_one_more)
    assert verify_store(path).problems == ()
