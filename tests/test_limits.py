"""Too many open files: wherever a file is read, the machine is named, and never the file."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io

from tests.cache.stores import begin, make_store, write_clip
from tests.open_files import no_more_files
from tokenreel.cache import files
from tokenreel.cache.csv_tables import read_lines
from tokenreel.cache.errors import MachineError
from tokenreel.cache.files import whole_file
from tokenreel.cache.locks import lock_folder
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.feature_labels import LabelTables
from tokenreel.cache.tools.import_features import opened
from tokenreel.cache.tools.imported_clips import FeatureSources
from tokenreel.cache.write.claims import is_live, read_claim, take_claim
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.evaluate.commands.suite import evaluate_files
from tokenreel.evaluate.protocol import EvaluateConfig
from tokenreel.extract.backbone.weight_files import read_model_config
from tokenreel.extract.video.sniff import find_videos
from tokenreel.fuse.runs.provenance import read_provenance
from tokenreel.pipeline.datasets.formats.pickles import read_plain_pickle
from tokenreel.pipeline.datasets.penn_action import _read_labels, _unlabelled

READERS = {  # name of the file -> what reads it
    "labels.csv": read_lines,
    "labels.pkl": read_plain_pickle,
    "labels.npy": lambda path: _read_labels(path, "golf_swing", "labels.npy"),
    "labels/0001.mat": lambda path: list(_unlabelled(path.parent.parent)),
    "config.json": read_model_config,
    "run.json": lambda path: read_provenance(path.parent),
    "e.h5": lambda path: evaluate_files(
        [path], config=EvaluateConfig(), out=path.parent / "out", progress=False
    ),
    "film": lambda path: find_videos(path.parent, ["film"]),
    "steps.npy": lambda path: _labels_of_features(path),
    "features.npy": lambda path: opened(path, 0).__enter__(),
}


def _labels_of_features(path: Path) -> None:
    line = SimpleNamespace(cells={"file": "a", "labels": path.name}, where="clips.csv:2")
    LabelTables(path.parent, arrays={"a": line}).labels("a", "", np.arange(3.0))


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_cannot_be_opened_now_is_not_called_wrong(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"a": 1}))
    with no_more_files(), pytest.raises(MachineError, match=r"Too many open files; .*ulimit -n"):
        READERS[name](path)


def test_a_mat_file_that_cannot_be_opened_now_is_not_called_wrong(tmp_path):
    (tmp_path / "labels").mkdir()
    for name in ("0001.mat", "0002.mat"):
        scipy.io.savemat(tmp_path / "labels" / name, {"action": "squat", "train": 1})
    entries = _unlabelled(tmp_path)
    assert next(entries).number == "0001"  # the folder is listed
    with no_more_files(), pytest.raises(MachineError, match=r"Too many open files; .*ulimit -n"):
        next(entries)


def test_features_that_cannot_be_hashed_now_are_not_called_wrong(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"1")
    sources = FeatureSources(tmp_path, tmp_path / "store")
    with no_more_files(), pytest.raises(MachineError, match=r"Too many open files; .*ulimit -n"):
        sources.describe([tmp_path / "a.npy"])


def test_a_clip_of_a_store_that_is_open_is_not_called_damaged(tmp_path, monkeypatch):
    path = make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="test") as writer:
        write_clip(writer, "a", frames=3)
    store = open_store(path)
    with no_more_files(), pytest.raises(MachineError, match=r"Too many open files.*ulimit -n"):
        store.read("a")
    read = Path.read_bytes

    def limited(self: Path) -> bytes:
        if self.name == "zarr.json" and "tokens" in self.parts:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(self))
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", limited)
        with pytest.raises(MachineError, match=r"zarr\.json: Too many open files.*ulimit -n"):
            store.read("a")
    assert store.read("a").decode(1).shape[0] == 3


@pytest.mark.parametrize("is_short", [True, False])
def test_what_hdf5_says_of_a_write_that_failed_is_kept(tmp_path, monkeypatch, is_short):
    monkeypatch.setattr(files, "is_memory_short", lambda: is_short)
    kind = MachineError if is_short else OSError
    with pytest.raises(kind, match=r"Can't write data"), whole_file(tmp_path / "e.h5") as beside:  # noqa: PT012
        beside.touch()
        raise OSError("Can't write data")
    assert list(tmp_path.iterdir()) == []


def test_a_live_claim_is_not_taken_for_that_of_a_dead_process(tmp_path):
    claim = take_claim(tmp_path, "a", owner="test", expiry_seconds=60)
    text = claim.path.read_bytes()
    with no_more_files(), pytest.raises(OSError, match="Too many open files"):
        _ = read_claim(claim.path).has_ended
    holder = read_claim(claim.path)
    with no_more_files(), pytest.raises(OSError, match="Too many open files"):
        _ = holder.has_ended
    assert is_live(claim.path)
    assert claim.path.read_bytes() == text
    claim.release()


def test_a_lock_that_cannot_be_opened_now_is_not_gone_without(tmp_path, caplog):
    with no_more_files(), pytest.raises(OSError, match="Too many open files"):  # noqa: SIM117
        with lock_folder(tmp_path):
            pass
    assert "no locks" not in caplog.text


def test_what_a_dead_writer_left_stays_where_it_cannot_be_looked_at(tmp_path):
    path = make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="test") as writer:
        clip = begin(writer, "a")
        rows = np.zeros((64, 16), np.float32)
        for start in range(0, 128, 64):
            tokens = np.full((64, 16, 16), start + 1.0, np.float32)
            encoded = {b: writer.codec.encode(tokens, block=b, grid=(4, 4)) for b in (1, 3)}
            clip.append(0, encoded, {1: rows, 3: rows}, rows)
        clip.suspend()
    (left,) = (path / "clips").glob("*/.tmp-*")
    with StoreWriter(path, writer_id="test") as writer:
        claim = path / "claims"
        with no_more_files(), pytest.raises((MachineError, OSError)):
            begin(writer, "a")
        assert sorted(claim.glob("*.json")) == []
        assert left.exists() or list((path / "clips").glob("*/.tmp-*"))
        again = begin(writer, "a")
        assert again.resume_frames == 128
        again.abort()
